# SPDX-License-Identifier: Apache-2.0
"""The command `reasongrm`. Starts without torch; each command imports what it needs."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click

from reasongrm_nemo import __version__
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.refusals import sentence
from reasongrm_nemo.processes.stop_requests import Stopped, note_job_start, stop_on_signal

_INTERRUPTED = 130


class Command(click.Command):
    """A command that takes --debug, and turns a UserError into one line and status 2."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(click.Option(["--debug"], is_flag=True, help="Show the traceback of an error."))

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; see the class."""
        debug = ctx.params.pop("debug")
        try:
            return super().invoke(ctx)
        except UserError as error:
            if debug:
                raise
            click.echo(f"reasongrm: {_sentence(error)}", err=True)
            ctx.exit(2)
        except BrokenPipeError:
            # The reader of our output went away (| head): nothing is left to say to it.
            sys.stderr.close()
            ctx.exit(1)
        except OSError as error:
            if debug:
                raise
            click.echo(f"reasongrm: {_sentence(sentence(error))}", err=True)
            ctx.exit(2)
        except MemoryError:
            if debug:
                raise
            click.echo("reasongrm: not enough memory: free some, or raise `ulimit -v`", err=True)
            ctx.exit(2)


def _sentence(error: object) -> str:
    """On one line, with nothing that a terminal obeys and no secret."""
    from reasongrm_nemo.processes.secret_values import strike
    from reasongrm_nemo.run.text import printable

    return printable(" ".join(strike(str(error)).split()))


class _Group(click.Group):
    command_class = Command

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command line, with something at each standard descriptor."""
        _open_what_is_closed()
        return super().main(*args, **kwargs)


def _open_what_is_closed() -> None:
    """Put /dev/null where a standard stream was closed; else the next file opened would get its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115


@contextmanager
def _interruptible(kept: str) -> Iterator[None]:
    """SIGTERM ends a run like Ctrl-C: cleanly, with a word on what is kept."""

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        click.echo(f"\nreasongrm: stopped; {kept}", err=True)
        raise click.exceptions.Exit(_INTERRUPTED) from None
    except Stopped as stopped:
        click.echo(f"reasongrm: {_sentence(stopped)}; the same command goes on from there", err=True)
        raise click.exceptions.Exit(0) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _console(as_json: bool) -> Any:
    from reasongrm_nemo.run.console import Console

    return Console(quiet=as_json)


def _print(as_json: bool, data: Any, text: str) -> None:
    from reasongrm_nemo.run.text import in_json, printable

    if as_json:
        click.echo(in_json(json.dumps(data, indent=2, ensure_ascii=False)))
    else:
        click.echo(printable(text, keep="\n\t"))


_JSON = click.option(
    "--json", "as_json", is_flag=True, help="Print figures as JSON on stdout, and nothing else."
)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="reasongrm")
def main() -> None:
    """ReasonGRM: generative reward models that reason, trained on NeMo-Aligner with vLLM rollouts."""
    note_job_start()


@main.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@_JSON
def run(recipe: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Run one stage's RECIPE; what is done and unchanged is not done again, what was cut off is resumed."""
    from reasongrm_nemo.files.locks import RunsLock
    from reasongrm_nemo.recipe.load import artefacts_elsewhere, artefacts_read, load_recipe
    from reasongrm_nemo.run.rollout_pool import RolloutPool
    from reasongrm_nemo.run.stage import run_stage

    cfg = load_recipe(recipe, overrides)
    runs_dir, console = Path(cfg.runs_dir), _console(as_json)
    kept = f"{runs_dir / '.partial' / cfg.name} is kept; the same command goes on from there"
    with (
        _interruptible(kept),
        RunsLock(runs_dir, cfg.name, artefacts_read(cfg), artefacts_elsewhere(cfg)),
        stop_on_signal(runs_dir, cfg.name),
        RolloutPool(runs_dir / ".logs" / cfg.name, console) as pool,
    ):
        outcome = run_stage(cfg, console, pool)
    _print(as_json, outcome.manifest, str(outcome.path))


@main.command()
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--from", "first", metavar="STAGE", help="Begin at this recipe (its name or number).")
@click.option("--to", "last", metavar="STAGE", help="End with this recipe, included.")
@_JSON
def pipeline(
    folder: Path, overrides: tuple[str, ...], first: str | None, last: str | None, as_json: bool
) -> None:
    """Run the numbered recipes of DIR in order, skipping, resuming or repeating each as needed.

    A KEY=VALUE goes to every recipe that knows the key, 1_grpo_zero:KEY=VALUE to that one.
    """
    from reasongrm_nemo.report import summary
    from reasongrm_nemo.run.pipeline import run_pipeline

    console = _console(as_json)
    with _interruptible("finished artefacts and partial ones are kept; the same command goes on from there"):
        outcomes = run_pipeline(folder, console, first, last, overrides)
    report = summary.pipeline_report(folder, outcomes)
    _print(as_json, report, summary.as_text(report))


@main.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--sweep", metavar="tp,pp,cp", help="Compare the layouts along these axes.")
@click.option(
    "--simulate", is_flag=True, help="Hold the memory against a simulated step (trainer environment)."
)
@click.option("--no-check", is_flag=True, help="Leave out one micro-batch with the model's own code.")
@click.option("--dry-start", is_flag=True, help="Start the stage with all but a GPU (trainer environment).")
@click.option("--rollouts", is_flag=True, help="Simulate the rollouts of GRPO's steps.")
@click.option("--lengths", type=click.Path(path_type=Path), help="Response lengths for it: a paths.jsonl.")
@click.option("--plot", type=click.Path(path_type=Path), help="A picture of a step's rollouts.")
@_JSON
def plan(
    recipe: Path,
    overrides: tuple[str, ...],
    sweep: str | None,
    simulate: bool,
    no_check: bool,
    dry_start: bool,
    rollouts: bool,
    lengths: Path | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Check RECIPE, print every key with its origin, and what it will take: memory, disk, time; nothing runs.

    RECIPE may be a folder, whose stages are then added up.
    """
    from reasongrm_nemo.plan import command
    from reasongrm_nemo.recipe.load import find_recipe
    from reasongrm_nemo.run.manifest import check_path

    asked = {
        "--dry-start": dry_start,
        "--sweep": sweep is not None,
        "--simulate": simulate,
        "--rollouts": rollouts,
        "--lengths": lengths is not None,
        "--plot": plot is not None,
    }
    given = [option for option, yes in asked.items() if yes]
    of_rollouts = rollouts or lengths is not None or plot is not None
    if dry_start + (sweep is not None) + simulate + of_rollouts > 1:
        raise UserError(
            f"{', '.join(given)}: each prints something else; give one "
            "(--lengths and --plot go with --rollouts)"
        )
    if lengths is not None:
        check_path(lengths, "--lengths")
    folder = find_recipe(recipe).is_dir()
    if folder and given and not dry_start:
        raise UserError(
            f"{', '.join(given)}: of one recipe, and {recipe} is a folder; give one of its recipes"
        )
    if dry_start:
        data, text, wrong = command.of_dry_start(recipe, overrides)
    elif folder:
        data, text, wrong = command.of_folder(recipe, overrides)
    elif of_rollouts:
        data, text, wrong = command.of_rollouts(recipe, overrides, lengths, plot)
    elif sweep is not None:
        data, text, wrong = command.of_layouts(recipe, overrides, sweep.split(","))
    else:
        data, text, wrong = command.of_recipe(
            recipe, overrides, simulate, not no_check, _console(as_json).line
        )
    _print(as_json, data, text)
    if wrong:
        raise wrong


_FILE = click.Path(path_type=Path)


@main.command()
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--from", "first", metavar="STAGE", help="Begin at this recipe (its name or number).")
@click.option("--to", "last", metavar="STAGE", help="End with this recipe, included.")
@click.option("--shards", default=8, show_default=True, type=click.IntRange(1), help="Tasks of a job array.")
@click.option("--no-conversion", is_flag=True, help="Leave out the Megatron checkpoints there and back.")
@click.option("--shell", is_flag=True, help="Tabs between words, as launch/pipeline.sh reads it.")
def chain(
    folder: Path,
    overrides: tuple[str, ...],
    first: str | None,
    last: str | None,
    shards: int,
    no_conversion: bool,
    shell: bool,
) -> None:
    """What launch/pipeline.sh submits for the recipes of DIR: a job a line, and whether it is done."""
    from reasongrm_nemo.slurm.jobs import as_lines
    from reasongrm_nemo.slurm.jobs import chain as jobs_of

    found = jobs_of(folder, overrides, shards, first, last, not no_conversion)
    click.echo("\n".join(as_lines(found)) if shell else json.dumps(found, indent=2))


@main.command()
@click.argument("runs_dir", type=click.Path(path_type=Path))
@_JSON
def status(runs_dir: Path, as_json: bool) -> None:
    """Where the jobs of RUNS_DIR stand: stage, step, reward, time left, last error with its log line."""
    from reasongrm_nemo.slurm import status as report

    found = report.collect(runs_dir)
    _print(as_json, found, report.as_text(found))


@main.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--quick", is_flag=True, help="Leave out the collective over all ranks.")
@click.option("--off", is_flag=True, help="Check the recipe and the number of nodes alone.")
@click.option("--dry-run", is_flag=True, help="Print what would be run where; ask no node.")
@click.option("--job-nodes", type=int, help="For --dry-run outside of a job: suppose one of so many nodes.")
@click.option("--notes", type=click.Path(path_type=Path), help="Write shell variables for launch/common.sh.")
def preflight(
    recipe: Path,
    overrides: tuple[str, ...],
    quick: bool,
    off: bool,
    dry_run: bool,
    job_nodes: int | None,
    notes: Path | None,
) -> None:
    """Check the nodes of this Slurm job, or this machine, for RECIPE: before any model loads."""
    from reasongrm_nemo.slurm.preflight.command import preflight as check

    if not check(recipe, overrides, _console(False), quick, off, dry_run, job_nodes, notes):
        raise click.exceptions.Exit(2)


@main.command()
@click.argument("words", type=_FILE, nargs=-1, required=True, metavar="BENCHMARK VERDICTS...")
@click.option(
    "--from",
    "origin",
    metavar="BENCHMARK",
    help="Read what the scripts of rewardbench, rm_bench or rmb wrote, or RM-R1's; it is the benchmark too.",
)
@click.option(
    "--policy", default="paper", show_default=True, help="paper, last, strict_last, rm_r1 or rewardbench."
)
@click.option("--vote", default="mean", show_default=True, help="Of several samples: mean or majority.")
@click.option("--partial", is_flag=True, help="Score a log that lacks subsets; what needs them is left out.")
@click.option("--details", is_flag=True, help="Also positions, lengths, turns and tokens.")
@click.option(
    "--compare", type=_FILE, multiple=True, help="Another run's log of the same items (repeatable)."
)
@click.option("--table", type=click.Choice(["markdown", "latex"]), help="The paper's table with the runs.")
@click.option("--name", help="The run's name in tables; the log's, if not given.")
@click.option("--page", type=_FILE, help="Write a page with the worst disagreements (Markdown).")
@click.option("--tasks", type=_FILE, help="What the judge was shown (evaluate's tasks/*.jsonl), for it.")
@_JSON
def score(words: tuple[Path, ...], origin: str | None, as_json: bool, **options: Any) -> None:
    """Score BENCHMARK (rewardbench, rm_bench or rmb) from its verdict log; several files are its shards."""
    from reasongrm_nemo.report.score_command import ScoreOptions, benchmark_and_files, score_command
    from reasongrm_nemo.run.manifest import check_path

    benchmark, files = benchmark_and_files(words, origin)
    for file in (*files, *options["compare"], *filter(None, [options["tasks"]])):
        check_path(file, "score")
    data, text = score_command(benchmark, files, ScoreOptions(**options, origin=origin))
    _print(as_json, data, text)


@main.command()
@click.argument("artefact", type=click.Path(path_type=Path))
@click.option("--verify", is_flag=True, help="Read every file again; status 2 if one is not as it was made.")
@_JSON
def show(artefact: Path, verify: bool, as_json: bool) -> None:
    """What ARTEFACT is: its stage, inputs, figures, drops, timings and files."""
    from reasongrm_nemo.report import summary

    manifest = summary.read_artefact(artefact)
    if verify:
        found, text = summary.verified(artefact, manifest)
        _print(as_json, found, text)
        if wrong := sum(len(found[kind]) for kind in ("missing", "changed", "unknown")):
            raise UserError(
                f"{artefact}: {wrong} {'files are' if wrong > 1 else 'file is'} not as {manifest['name']} "
                f"was made; restore {'them' if wrong > 1 else 'it'}, or run the stage again"
            )
        return
    _print(as_json, manifest, summary.describe(artefact, manifest))


@main.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@_JSON
def serve(recipe: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Serve the model of RECIPE with its rollout settings until Ctrl-C; prints its URL and token.

    It answers like OpenAI's API (/v1/completions, /v1/chat/completions) under the model name "policy".
    """
    from reasongrm_nemo.recipe.load import load_recipe
    from reasongrm_nemo.run.serving import as_text, described, served, watch

    cfg = load_recipe(recipe, overrides)
    with (
        _interruptible("the server is down"),
        served(cfg, str(recipe), _console(as_json)) as servers,
        suppress(KeyboardInterrupt),  # the end it is meant to have
    ):
        _print(as_json, described(servers), as_text(servers))
        sys.stdout.flush()
        watch(servers)
