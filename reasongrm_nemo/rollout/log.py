# SPDX-License-Identifier: Apache-2.0
"""The line of vLLM's log that says why it ended."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

_READ = 32 * 2**20  # a dead engine fails every request in flight, a hundred lines each
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# "(EngineCore pid=12) ERROR 11-23 07:07:16 [core.py:1063] " before the words themselves.
_PREFIX = re.compile(
    r"^(\([\w ]+pid=\d+\)\s*)?((?:DEBUG|INFO|WARNING|ERROR|CRITICAL) [\d-]+ [\d:]+ \[[^\]]*\] ?)?"
)
_ERROR = re.compile(r"^[\w.]*(?:Error|Exception|Failure)\b: *\S|No module named|: error: ")
# What follows from another error, and repeats in every process above it.
_ECHO = re.compile(
    r"Engine core initialization failed|EngineDeadError|EngineCore encountered an issue|Exception in worker"
    r"|WorkerProc initialization failed|Engine core proc|[Rr]oot cause|resource_tracker|leaked|nanobind"
)


def last_words(log: Path, start: int = 0, errors_only: bool = False) -> str:
    """The last error in a vLLM log that is not the echo of another; else its last line; else nothing.

    Args:
        log: the file.
        start: bytes of it that are older than the question.
        errors_only: nothing rather than a last line that is no error.
    """
    try:
        with log.open("rb") as file:
            end = file.seek(0, 2)
            file.seek(max(start, end - _READ))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    lines = [_PREFIX.sub("", _COLOUR.sub("", line)).strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not _ECHO.search(line)]
    errors = [index for index, line in enumerate(lines) if _ERROR.search(line)]
    if errors:
        chosen = lines[errors[-1]]
        if "validation error" in chosen:  # pydantic says what on the next line
            chosen = ": ".join([chosen, *lines[errors[-1] + 1 : errors[-1] + 2]])
    else:
        chosen = lines[-1] if lines and not errors_only else ""
    return textwrap.shorten(chosen, 400, placeholder=" ...").rstrip(".")
