# SPDX-License-Identifier: Apache-2.0
"""Progress on a terminal (a bar, and one line per step) or in a log (plain lines)."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, TextIO

from reasongrm_nemo.processes.secret_values import strike
from reasongrm_nemo.run.text import printable

_QUIET_SECONDS = 15.0  # between plain progress lines, for work counted in items rather than steps


def duration(seconds: float) -> str:
    """75 -> "1:15", 3700 -> "1:01:40"."""
    whole = max(0, round(seconds))
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def figures_line(figures: dict[str, Any]) -> str:
    """Figures as text in the given order; None is omitted.

    kept and groups (kept groups of all groups), response_tokens (mean), log_prob_error_mean and
    log_prob_error_max (trainer against rollout), and tokens_per_second have special formats.
    """
    shown = {name: value for name, value in figures.items() if value is not None}
    words: list[str] = []
    for name, value in shown.items():
        if name == "kept" and "groups" in shown:
            words.append(f"kept {value}/{shown['groups']}")
        elif name == "groups" and "kept" in shown:
            continue
        elif name == "log_prob_error_mean":
            most = shown.get("log_prob_error_max")
            words.append(f"log-prob error {value:.1e}" + (f" (max {most:.1e})" if most is not None else ""))
        elif name == "log_prob_error_max" and "log_prob_error_mean" in shown:
            continue
        elif name == "response_tokens":
            words.append(f"response {value:.1f} tok")
        elif name == "tokens_per_second":
            words.append(f"{value:,.0f} tok/s")
        elif isinstance(value, float):
            words.append(
                f"{name.replace('_', ' ')} {value:.3g}"
                if abs(value) < 1e-2 and value
                else f"{name.replace('_', ' ')} {value:.3f}"
            )
        else:
            words.append(f"{name.replace('_', ' ')} {value}")
    return "  ".join(words)


class Console:
    """Prints a run's messages to stderr; stdout is for results.

    Args:
        stream: stderr by default.
        plain: no bar and no color; None: plain unless the stream is a terminal.
        quiet: print only warnings (for --json and tests).
    """

    def __init__(self, stream: TextIO | None = None, plain: bool | None = None, quiet: bool = False) -> None:
        self.stream = stream or sys.stderr
        self.plain = not self.stream.isatty() if plain is None else plain
        self.quiet = quiet
        self._rich: Any = None
        if not self.plain:
            from rich.console import Console as RichConsole

            self._rich = RichConsole(file=self.stream, highlight=False)

    def line(self, text: str = "", style: str = "") -> None:
        """Print one line; markup is not interpreted, and control characters and secrets are removed."""
        if self.quiet:
            return
        text = printable(strike(text), keep="\n\t")
        if self._rich is not None:
            self._rich.print(text, style=style or None, markup=False, emoji=False, soft_wrap=True)
        else:
            print(text, file=self.stream, flush=True)

    def stage(self, name: str, what: str) -> None:
        """Prints a stage's headline."""
        self.line(f"{name}  {what}", style="bold")

    def warn(self, text: str) -> None:
        """Prints a warning, even when quiet."""
        quiet, self.quiet = self.quiet, False
        self.line(f"warning: {text}", style="yellow")
        self.quiet = quiet

    def drops(self, drops: dict[str, int]) -> None:
        """Prints how many records were dropped, by reason."""
        if drops:
            self.line(
                "  dropped: " + ", ".join(f"{count} {reason}" for reason, count in sorted(drops.items()))
            )

    def progress(
        self, label: str, total: int, unit: str = "step", done: int = 0, every: bool | None = None
    ) -> Progress:
        """Returns a context manager that shows the progress of `total` units of work.

        Args:
            label: the name of the work.
            total: all units, including those already done.
            unit: the unit counted; every "step" prints a line, other units print one every few seconds.
            done: units that an earlier run finished.
            every: print a line at each update; None: only if the unit is "step".
        """
        return Progress(self, label, total, unit, done, unit == "step" if every is None else every)


class Progress:
    """See `Console.progress`."""

    def __init__(self, console: Console, label: str, total: int, unit: str, done: int, every: bool) -> None:
        self.console, self.label, self.total, self.unit = console, label, total, unit
        self.done = self.first = done
        self.every = every
        self.start = self.last_line = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        if self.console._rich is not None and not self.console.quiet:
            from rich import progress as bars

            self._bar = bars.Progress(
                bars.TextColumn("  {task.description}"),
                bars.BarColumn(bar_width=24),
                bars.MofNCompleteColumn(),
                bars.TextColumn("{task.fields[figures]}"),
                bars.TextColumn("{task.fields[left]}"),
                console=self.console._rich,
                transient=True,
            )
            self._task = self._bar.add_task(
                self.label, total=self.total, completed=self.done, figures="", left=""
            )
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def left(self) -> str:
        """Time left at the pace of this run; empty at its start."""
        fresh = self.done - self.first
        if fresh <= 0 or self.done >= self.total:
            return ""
        return duration((time.monotonic() - self.start) / fresh * (self.total - self.done)) + " left"

    def update(self, done: int, **figures: Any) -> None:
        """Show that `done` units are finished, with the figures of the newest (see `figures_line`)."""
        self.done = done
        words, left = figures_line(figures), self.left()
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, completed=done, figures=words, left=left)
        if self.every or (
            self._bar is None and (now - self.last_line > _QUIET_SECONDS or done >= self.total)
        ):
            self.last_line = now
            parts = [
                f"  {self.label} {self.unit} {done}/{self.total}"
                if self.every
                else f"  {self.label} {done}/{self.total} {self.unit}s"
            ]
            self.console.line("  ".join(part for part in [*parts, words, left] if part))

    def advance(self, count: int = 1, **figures: Any) -> None:
        """Show that `count` more units are finished."""
        self.update(self.done + count, **figures)
