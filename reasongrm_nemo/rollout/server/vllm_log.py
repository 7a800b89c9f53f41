# SPDX-License-Identifier: Apache-2.0
"""Extracts from vLLM's log the line that says why it ended."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

from reasongrm_nemo.processes.secret_values import strike

_READ = 32 * 2**20  # a dead engine logs a hundred lines for every request in flight
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# The prefix of a message, such as "(EngineCore pid=12) ERROR 11-23 07:07:16 [core.py:1063] ".
_PREFIX = re.compile(
    r"^(\([\w ]+pid=\d+\)\s*)?((?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL) [\d-]+ [\d:]+ \[[^\]]*\] ?)?"
)
_ERRORS = ("ERROR", "CRITICAL")
_ERROR = re.compile(r"^[\w.]*(?:Error|Exception|Failure)\b: *\S|No module named|: error: ")
# Messages that only follow from another error and repeat in every parent process.
_ECHO = re.compile(
    r"Engine core initialization failed|EngineDeadError|EngineCore encountered an issue|Exception in worker"
    r"|WorkerProc initialization failed|Engine core proc|[Rr]oot cause|resource_tracker|leaked|nanobind"
)


def last_words(log: Path, start: int = 0, errors_only: bool = False) -> str:
    """Return the last error in a vLLM log that does not just follow from another, or else the last line.

    Args:
        log: the file.
        start: byte offset to start from, to skip older output.
        errors_only: return an empty string if there is no error.
    """
    try:
        with log.open("rb") as file:
            end = file.seek(0, 2)
            file.seek(max(start, end - _READ))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    lines = [line for line in map(_Line.of, text.splitlines()) if line.text and not _ECHO.search(line.text)]
    errors = [index for index, line in enumerate(lines) if line.names_an_error]
    errors = errors or [index for index, line in enumerate(lines) if line.level in _ERRORS]
    if errors:
        chosen = lines[errors[-1]].text
        if "validation error" in chosen:  # pydantic prints details on the next line
            chosen = ": ".join([chosen, *(line.text for line in lines[errors[-1] + 1 : errors[-1] + 2])])
    else:
        chosen = lines[-1].text if lines and not errors_only else ""
    return textwrap.shorten(strike(chosen), 400, placeholder=" ...").rstrip(".")


@dataclass(frozen=True)
class _Line:
    """A log line's level and message; the level is empty if the line has none."""

    level: str
    text: str

    @classmethod
    def of(cls, line: str) -> _Line:
        plain = _COLOUR.sub("", line)
        prefix = _PREFIX.match(plain)
        rest = plain[prefix.end() :] if prefix else plain
        level = prefix["level"] if prefix and prefix["level"] else ""
        # skip lines of a traceback, which tell the place and not the error
        where = rest.startswith((" ", "Traceback (")) and level in _ERRORS
        return cls(level, "" if where else rest.strip())

    @property
    def names_an_error(self) -> bool:
        return self.level in ("", *_ERRORS) and bool(_ERROR.search(self.text))
