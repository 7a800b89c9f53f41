# SPDX-License-Identifier: Apache-2.0
"""The command `reasongrm`. Starts without torch; each command imports what it needs."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from reasongrm_nemo import __version__
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.processes.stop_requests import note_job_start, stop_on_signal
from reasongrm_nemo.run.commands import Group, as_json_option, interruptible, print_result
from reasongrm_nemo.run.console import Console


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="reasongrm")
def main() -> None:
    """ReasonGRM: generative reward models that reason, trained on NeMo-Aligner with vLLM rollouts."""
    note_job_start()


@main.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@as_json_option
def run(recipe: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Run one stage's RECIPE; what is done and unchanged is not done again, what was cut off is resumed."""
    from reasongrm_nemo.files.locks import RunsLock
    from reasongrm_nemo.recipe.load import artefacts_elsewhere, artefacts_read, load_recipe
    from reasongrm_nemo.run.rollout_pool import RolloutPool
    from reasongrm_nemo.run.stage import run_stage

    cfg = load_recipe(recipe, overrides)
    runs_dir, console = Path(cfg.runs_dir), Console(quiet=as_json)
    kept = f"{runs_dir / '.partial' / cfg.name} is kept; the same command goes on from there"
    with (
        interruptible(kept),
        RunsLock(runs_dir, cfg.name, artefacts_read(cfg), artefacts_elsewhere(cfg)),
        stop_on_signal(runs_dir, cfg.name),
        RolloutPool(runs_dir / ".logs" / cfg.name, console) as pool,
    ):
        outcome = run_stage(cfg, console, pool)
    print_result(as_json, outcome.manifest, str(outcome.path))


@main.command()
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--from", "first", metavar="STAGE", help="Begin at this recipe (its name or number).")
@click.option("--to", "last", metavar="STAGE", help="End with this recipe, included.")
@as_json_option
def pipeline(
    folder: Path, overrides: tuple[str, ...], first: str | None, last: str | None, as_json: bool
) -> None:
    """Run the numbered recipes of DIR in order, skipping, resuming or repeating each as needed.

    A KEY=VALUE goes to every recipe that knows the key, 1_grpo_zero:KEY=VALUE to that one.
    """
    from reasongrm_nemo.report import summary
    from reasongrm_nemo.run.pipeline import run_pipeline

    console = Console(quiet=as_json)
    with interruptible("finished artefacts and partial ones are kept; the same command goes on from there"):
        outcomes = run_pipeline(folder, console, first, last, overrides)
    report = summary.pipeline_report(folder, outcomes)
    print_result(as_json, report, summary.summary_as_text(report))


@main.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--sweep", metavar="tp,pp,cp", help="Compare the layouts along these axes.")
@click.option(
    "--simulate", is_flag=True, help="Hold the memory against a simulated step (trainer environment)."
)
@click.option("--no-check", is_flag=True, help="Leave out one micro-batch with the model's own code.")
@click.option(
    "--dry-start",
    is_flag=True,
    help="Check the fit, read the template, place and configure servers, step the model on fake tensors "
    "(training stages: trainer environment).",
)
@click.option("--rollouts", is_flag=True, help="Simulate the rollouts of GRPO's steps.")
@click.option("--lengths", type=click.Path(path_type=Path), help="Response lengths for it: a paths.jsonl.")
@click.option("--plot", type=click.Path(path_type=Path), help="A picture of a step's rollouts.")
@as_json_option
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
            recipe, overrides, simulate, not no_check, Console(quiet=as_json).line
        )
    print_result(as_json, data, text)
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
    from reasongrm_nemo.slurm.jobs import pipeline_jobs as jobs_of

    found = jobs_of(folder, overrides, shards, first, last, not no_conversion)
    click.echo("\n".join(as_lines(found)) if shell else json.dumps(found, indent=2))


@main.command()
@click.argument("runs_dir", type=click.Path(path_type=Path))
@as_json_option
def status(runs_dir: Path, as_json: bool) -> None:
    """Where the jobs of RUNS_DIR stand: stage, step, reward, time left, last error with its log line."""
    from reasongrm_nemo.slurm import status as report

    collected = report.collect_status(runs_dir)
    print_result(as_json, collected, report.status_as_text(collected))


@main.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--quick", is_flag=True, help="Leave out the collective over all ranks.")
@click.option("--off", is_flag=True, help="Check the recipe and the number of nodes alone.")
@click.option("--dry-run", is_flag=True, help="Print what would be run where; ask no node.")
@click.option(
    "--job-nodes",
    type=click.IntRange(1),
    help="For --dry-run outside of a job: suppose one of so many nodes.",
)
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

    if not check(recipe, overrides, Console(), quick, off, dry_run, job_nodes, notes):
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
@as_json_option
def score(words: tuple[Path, ...], origin: str | None, as_json: bool, **options: Any) -> None:
    """Score BENCHMARK (rewardbench, rm_bench or rmb) from its verdict log; several files are its shards."""
    from reasongrm_nemo.report.score_command import ScoreOptions, benchmark_and_files, score_command
    from reasongrm_nemo.run.manifest import check_path

    benchmark, files = benchmark_and_files(words, origin)
    for file in (*files, *options["compare"], *filter(None, [options["tasks"]])):
        check_path(file, "score")
    data, text = score_command(benchmark, files, ScoreOptions(**options, origin=origin))
    print_result(as_json, data, text)


@main.command()
@click.argument("artefact", type=click.Path(path_type=Path))
@click.option("--verify", is_flag=True, help="Read every file again; status 2 if one is not as it was made.")
@as_json_option
def show(artefact: Path, verify: bool, as_json: bool) -> None:
    """What ARTEFACT is: its stage, inputs, figures, drops, timings and files."""
    from reasongrm_nemo.report import summary

    manifest = summary.read_artefact(artefact)
    if verify:
        found, text = summary.verified(artefact, manifest)
        print_result(as_json, found, text)
        if wrong := sum(len(found[kind]) for kind in ("missing", "changed", "unknown")):
            raise UserError(
                f"{artefact}: {wrong} {'files are' if wrong > 1 else 'file is'} not as {manifest['name']} "
                f"was made; restore {'them' if wrong > 1 else 'it'}, or run the stage again"
            )
        return
    print_result(as_json, manifest, summary.describe_manifest(artefact, manifest))


@main.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@as_json_option
def serve(recipe: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Serve the model of RECIPE with its rollout settings until Ctrl-C; prints its URL and token.

    It answers like OpenAI's API (/v1/completions, /v1/chat/completions) under the model name "policy".
    """
    from reasongrm_nemo.recipe.load import load_recipe
    from reasongrm_nemo.run.serving import described, served, servers_as_text, watch

    cfg = load_recipe(recipe, overrides)
    with (
        interruptible("the server is down"),
        served(cfg, str(recipe), Console(quiet=as_json)) as servers,
        suppress(KeyboardInterrupt),  # the end it is meant to have
    ):
        print_result(as_json, described(servers), servers_as_text(servers))
        sys.stdout.flush()
        watch(servers)
