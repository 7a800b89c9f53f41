# SPDX-License-Identifier: Apache-2.0
"""The command `reasongrm`. Starts without torch: each command imports what it needs."""

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
    """Run one stage's RECIPE: skip it if its artefact is up to date, resume it if it was interrupted."""
    from reasongrm_nemo.files.locks import RunsLock
    from reasongrm_nemo.recipe.load import artefacts_elsewhere, artefacts_read, load_recipe
    from reasongrm_nemo.run.rollout_pool import RolloutPool
    from reasongrm_nemo.run.stage import run_stage

    cfg = load_recipe(recipe, overrides)
    runs_dir, console = Path(cfg.runs_dir), Console(quiet=as_json)
    kept = f"{runs_dir / '.partial' / cfg.name} is kept; run the same command again to resume"
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
@click.option("--from", "first", metavar="STAGE", help="Start at this recipe (name or number).")
@click.option("--to", "last", metavar="STAGE", help="Stop after this recipe.")
@as_json_option
def pipeline(
    folder: Path, overrides: tuple[str, ...], first: str | None, last: str | None, as_json: bool
) -> None:
    """Run the numbered recipes of DIR in order; each is skipped, resumed or rerun as needed.

    KEY=VALUE applies to every recipe that has the key, 1_grpo_zero:KEY=VALUE to that recipe alone.
    """
    from reasongrm_nemo.report import summary
    from reasongrm_nemo.run.pipeline import run_pipeline

    console = Console(quiet=as_json)
    with interruptible("finished and partial artefacts are kept; run the same command again to resume"):
        outcomes = run_pipeline(folder, console, first, last, overrides)
    report = summary.pipeline_report(folder, outcomes)
    print_result(as_json, report, summary.summary_as_text(report))


@main.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--sweep", metavar="tp,pp,cp", help="Compare the layouts along these axes, e.g. tp,pp.")
@click.option(
    "--simulate", is_flag=True, help="Compare the memory with a simulated step (trainer environment)."
)
@click.option("--no-check", is_flag=True, help="Skip the trial micro-batch through the model's code.")
@click.option(
    "--dry-start",
    is_flag=True,
    help="Check the fit, read the template, place and configure servers, and step the model on fake tensors "
    "(training stages: trainer environment).",
)
@click.option("--rollouts", is_flag=True, help="Simulate the rollouts of GRPO steps.")
@click.option(
    "--lengths", type=click.Path(path_type=Path), help="Response lengths for --rollouts: a paths.jsonl."
)
@click.option("--plot", type=click.Path(path_type=Path), help="Draw one step's rollouts into this file.")
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
    """Check RECIPE, print every key with its origin, and estimate memory, disk and time; nothing runs.

    If RECIPE is a folder, the estimates of its stages are added up.
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
            f"{', '.join(given)} cannot be combined; give one (--lengths and --plot belong to --rollouts)"
        )
    if lengths is not None:
        check_path(lengths, "--lengths")
    folder = find_recipe(recipe).is_dir()
    if folder and given and not dry_start:
        raise UserError(
            f"{', '.join(given)} {'works' if len(given) == 1 else 'work'} on a single recipe, "
            f"but {recipe} is a folder; name one of its recipes"
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
@click.option("--from", "first", metavar="STAGE", help="Start at this recipe (name or number).")
@click.option("--to", "last", metavar="STAGE", help="Stop after this recipe.")
@click.option("--shards", default=8, show_default=True, type=click.IntRange(1), help="Size of job arrays.")
@click.option("--no-conversion", is_flag=True, help="Plan no jobs that convert to and from Megatron.")
@click.option("--shell", is_flag=True, help="Separate words by tabs, for launch/pipeline.sh.")
def chain(
    folder: Path,
    overrides: tuple[str, ...],
    first: str | None,
    last: str | None,
    shards: int,
    no_conversion: bool,
    shell: bool,
) -> None:
    """Print the jobs that launch/pipeline.sh submits for the recipes of DIR, and which are already done."""
    from reasongrm_nemo.slurm.jobs import as_lines, pipeline_jobs

    jobs = pipeline_jobs(folder, overrides, shards, first, last, not no_conversion)
    click.echo("\n".join(as_lines(jobs)) if shell else json.dumps(jobs, indent=2))


@main.command()
@click.argument("runs_dir", type=click.Path(path_type=Path))
@as_json_option
def status(runs_dir: Path, as_json: bool) -> None:
    """Show the jobs of RUNS_DIR: stage, step, reward, time left, last error with its log line."""
    from reasongrm_nemo.slurm import status as report

    collected = report.collect_status(runs_dir)
    print_result(as_json, collected, report.status_as_text(collected))


@main.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--quick", is_flag=True, help="Skip the collective over all ranks.")
@click.option("--off", is_flag=True, help="Check only the recipe and the number of nodes.")
@click.option("--dry-run", is_flag=True, help="Print what would run where, without contacting a node.")
@click.option(
    "--job-nodes",
    type=click.IntRange(1),
    help="For --dry-run outside a job: assume this many nodes.",
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
    """Check that the nodes of this Slurm job, or this machine, can run RECIPE, before any model loads."""
    from reasongrm_nemo.slurm.preflight.command import preflight as check

    if not check(recipe, overrides, Console(), quick, off, dry_run, job_nodes, notes):
        raise click.exceptions.Exit(2)


@main.command()
@click.argument("words", type=_FILE, nargs=-1, required=True, metavar="BENCHMARK VERDICTS...")
@click.option(
    "--from",
    "origin",
    metavar="BENCHMARK",
    help="Read the output of this benchmark's published script (rewardbench, rm_bench or rmb) or of RM-R1's.",
)
@click.option(
    "--policy", default="paper", show_default=True, help="paper, last, strict_last, rm_r1 or rewardbench."
)
@click.option("--vote", default="mean", show_default=True, help="Combine samples by mean or majority.")
@click.option("--partial", is_flag=True, help="Accept a log that lacks subsets; omit their figures.")
@click.option("--details", is_flag=True, help="Also show positions, lengths, turns and tokens.")
@click.option(
    "--compare", type=_FILE, multiple=True, help="Another run's log of the same items (repeatable)."
)
@click.option("--table", type=click.Choice(["markdown", "latex"]), help="The paper's table with these runs.")
@click.option("--name", help="The run's name in tables (default: the log's).")
@click.option("--page", type=_FILE, help="Write a page with the worst disagreements (Markdown).")
@click.option("--tasks", type=_FILE, help="The tasks shown to the judge (tasks/*.jsonl), for --page.")
@as_json_option
def score(words: tuple[Path, ...], origin: str | None, as_json: bool, **options: Any) -> None:
    """Score BENCHMARK (rewardbench, rm_bench or rmb) from a verdict log; several files are shards of one."""
    from reasongrm_nemo.report.score_command import ScoreOptions, benchmark_and_files, score_command
    from reasongrm_nemo.run.manifest import check_path

    benchmark, files = benchmark_and_files(words, origin)
    for file in (*files, *options["compare"], *filter(None, [options["tasks"]])):
        check_path(file, "score")
    data, text = score_command(benchmark, files, ScoreOptions(**options, origin=origin))
    print_result(as_json, data, text)


@main.command()
@click.argument("artefact", type=click.Path(path_type=Path))
@click.option("--verify", is_flag=True, help="Hash every file again; exit with status 2 if one has changed.")
@as_json_option
def show(artefact: Path, verify: bool, as_json: bool) -> None:
    """Show ARTEFACT: its stage, inputs, figures, drops, timings and files."""
    from reasongrm_nemo.report import artefact as artefacts

    manifest = artefacts.read_artefact(artefact)
    if verify:
        files_by_state, text = artefacts.verified(artefact, manifest)
        print_result(as_json, files_by_state, text)
        if wrong := sum(len(files_by_state[state]) for state in ("missing", "changed", "unknown")):
            raise UserError(
                f"{artefact}: {wrong} {'files differ' if wrong > 1 else 'file differs'} from the manifest of "
                f"{manifest['name']}; restore {'them' if wrong > 1 else 'it'}, or run the stage again"
            )
        return
    print_result(as_json, manifest, artefacts.describe_manifest(artefact, manifest))


@main.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@as_json_option
def serve(recipe: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Serve the model of RECIPE with its rollout settings until Ctrl-C; print the server's URL and token.

    The server speaks OpenAI's API (/v1/completions, /v1/chat/completions) under the model name "policy".
    """
    from reasongrm_nemo.recipe.load import load_recipe
    from reasongrm_nemo.run.serving import described, served, servers_as_text, watch

    cfg = load_recipe(recipe, overrides)
    with (
        interruptible("the server is down"),
        served(cfg, str(recipe), Console(quiet=as_json)) as servers,
        suppress(KeyboardInterrupt),  # Ctrl-C is the normal way to stop
    ):
        print_result(as_json, described(servers), servers_as_text(servers))
        sys.stdout.flush()
        watch(servers)
