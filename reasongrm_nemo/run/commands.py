# SPDX-License-Identifier: Apache-2.0
"""Shared by all commands: --debug, --json, and how success, errors and interruption are reported."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.refusals import sentence
from reasongrm_nemo.processes.secret_values import strike
from reasongrm_nemo.processes.stop_requests import Stopped
from reasongrm_nemo.run.text import in_json, printable

_INTERRUPTED = 130


class Command(click.Command):
    """A command with --debug that prints a UserError as one line and exits with status 2."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(click.Option(["--debug"], is_flag=True, help="Show the traceback of an error."))

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; see the class."""
        debug = ctx.params.pop("debug")
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # the reader of our output has gone (| head)
            sys.stderr.close()
            ctx.exit(1)
        except (UserError, OSError, MemoryError) as error:
            if debug:
                raise
            click.echo(f"reasongrm: {_on_one_line(_message(error))}", err=True)
            ctx.exit(2)


def _message(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "not enough memory: free some, or raise `ulimit -v`"
    return sentence(error) if isinstance(error, OSError) else str(error)


def _on_one_line(message: str) -> str:
    """Joins the lines, and removes control characters and secrets."""
    return printable(" ".join(strike(message).split()))


class Group(click.Group):
    """The group whose commands are of class `Command`."""

    command_class = Command

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command line, with all three standard descriptors open."""
        _open_standard_streams()
        return super().main(*args, **kwargs)


def _open_standard_streams() -> None:
    """Open /dev/null for a closed standard stream; otherwise the next file opened would get its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115


@contextmanager
def interruptible(kept: str) -> Iterator[None]:
    """Makes SIGTERM end a run like Ctrl-C: cleanly, with a message on what is kept."""

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        click.echo(f"\nreasongrm: stopped; {kept}", err=True)
        raise click.exceptions.Exit(_INTERRUPTED) from None
    except Stopped as stopped:
        click.echo(f"reasongrm: {_on_one_line(str(stopped))}; run the same command again to resume", err=True)
        raise click.exceptions.Exit(0) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def print_result(as_json: bool, data: Any, text: str) -> None:
    """Prints a command's result as JSON or as text."""
    if as_json:
        click.echo(in_json(json.dumps(data, indent=2, ensure_ascii=False)))
    else:
        click.echo(printable(text, keep="\n\t"))


as_json_option = click.option("--json", "as_json", is_flag=True, help="Print only JSON on stdout.")
