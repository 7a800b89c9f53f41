# SPDX-License-Identifier: Apache-2.0
"""Trainer ranks: started by a stage with a work order, watched through metrics, ended with the stage."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from reasongrm_nemo.errors import StageFailed
from reasongrm_nemo.files.figures import NewFigures
from reasongrm_nemo.processes import placement, stop_requests
from reasongrm_nemo.processes.child import describe_exit
from reasongrm_nemo.processes.cpu_memory import KEEPS_FREED
from reasongrm_nemo.processes.work_order import WorkOrder, losses, own_caches, python_environment
from reasongrm_nemo.run.console import figures_line
from reasongrm_nemo.run.local_ranks import LocalRanks, begin_child
from reasongrm_nemo.run.stage import StageContext

_POLL_S = 0.2


def run_ranks(ctx: StageContext, module: str, steps: int, servers: Sequence[Path] = ()) -> None:
    """Run ``module`` on all ranks until they end, and show each step as it is logged.

    Args:
        ctx: the stage's context.
        module: a module with ``main(work_order)``.
        steps: steps of the whole run, for the progress.
        servers: files that describe the rollout servers.

    Raises:
        StageFailed: a rank failed; the message is that of the first failure, with the log's path.
    """
    place = placement.find(ctx.cfg)
    inputs = {name: path for name, path in ctx.inputs.items() if name != "model"}
    runs_dir = Path(ctx.cfg.runs_dir)
    order = WorkOrder(ctx.cfg, ctx.work, ctx.inputs["model"], inputs, servers, runs_dir).write()
    failures = ctx.work / "failures.jsonl"
    failures.unlink(missing_ok=True)
    log = ctx.work / "trainer.log"
    old_bytes = log.stat().st_size if log.exists() else 0
    process = _start(ctx.cfg.cluster, place, module, order, log)
    try:
        _watch(ctx, process, steps)
    finally:
        _end(process)
    code = process.returncode
    if code:
        first = process.first_failure if isinstance(process, LocalRanks) else None
        raise StageFailed(_cause(failures, log, old_bytes, code, first))
    if marker := stop_requests.marked(ctx.work):
        raise stop_requests.Stopped(f"{ctx.cfg.name} has saved and ended: {marker['reason']}")


def _start(
    cluster: DictConfig, place: placement.Placement, module: str, order: Path, log: Path
) -> subprocess.Popen[bytes] | LocalRanks:
    """The ranks on this machine, or the srun process that starts them on the nodes."""
    python, env = cluster.trainer_python or sys.executable, _environment(cluster)
    per_node = cluster.devices_per_node
    if not place.slurm:
        return LocalRanks([python, "-m", module, str(order)], per_node, env, log)
    command = place.rank_command(
        python, per_node, ["-m", "reasongrm_nemo.processes.srun_rank", module, str(order)]
    )
    parent = os.getpid()
    with log.open("ab") as out:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=placement.srun_environment(env) | place.rank_environment(per_node),
            start_new_session=True,
            # on SIGTERM srun ends its ranks; on SIGKILL they would survive
            preexec_fn=lambda: begin_child(parent, signal.SIGTERM),
        )


def _environment(cluster: DictConfig) -> dict[str, str]:
    env = (KEEPS_FREED if cluster.platform == "cpu" else {}) | own_caches()
    env = env | python_environment()  # the user's tunables win
    return env | {"OMP_NUM_THREADS": str(cluster.threads_per_rank), "TOKENIZERS_PARALLELISM": "false"}


def _watch(ctx: StageContext, process: subprocess.Popen[bytes] | LocalRanks, steps: int) -> None:
    seen, validated = NewFigures(ctx.work / "metrics.jsonl"), NewFigures(ctx.work / "validation.jsonl")
    told = len(losses(ctx.work))
    with ctx.console.progress(ctx.cfg.stage, total=steps, done=0) as progress:
        while True:
            ended = process.poll() is not None
            for cause in losses(ctx.work)[told:]:
                ctx.say_loss(cause)
                told += 1
            for figures in seen.read():
                shown = {k: v for k, v in figures.items() if k in _SHOWN or (k in COUNTED and v)}
                progress.update(figures["step"], **shown)
                if warning := figures.get("warning"):
                    ctx.console.warn(warning)
            for figures in validated.read():
                shown = {k: v for k, v in figures.items() if k not in ("step", "time")}
                ctx.console.line(f"  validation after step {figures['step']}: {figures_line(shown)}")
            if ended:
                return
            time.sleep(_POLL_S)


COUNTED = ("servers_lost", "stragglers", "spare_groups", "skipped")
"""Counters of a step that are shown if not zero, and summed in the manifest."""
_SHOWN = (
    "reward",
    "kept",
    "groups",
    "loss",
    "response_tokens",
    "log_prob_error_mean",
    "log_prob_error_max",
    "tokens_per_second",
)


def _end(process: subprocess.Popen[bytes] | LocalRanks) -> None:
    """End all ranks, however the stage ends."""
    if isinstance(process, LocalRanks):
        process.end()
    elif process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


# srun's message on a failed task: "srun: error: node3: task 5: Exited with exit code 7", "... Killed"
_TASK = re.compile(rb"^srun: error: (\S+): tasks? ([\d,-]+): (.+)$", re.MULTILINE)


def _cause(
    failures: Path, log: Path, old_bytes: int, code: int, first_failure: tuple[int, int] | None = None
) -> str:
    """Why the ranks ended: the error of the first rank that failed or, if it left none, its exit status.

    Args:
        failures: the file in which ranks record their errors.
        log: the ranks' output.
        old_bytes: length of the log before this start.
        code: the launcher's exit status; srun's is often not that of the task that failed.
        first_failure: rank and exit status, if this process started the ranks itself.
    """
    rows = _failures(failures)
    with log.open("rb") as handle:
        handle.seek(old_bytes)
        task = _TASK.search(handle.read())
    named, where = [row for row in rows if row["user"]], ""
    if task:
        node, ranks, how = (part.decode(errors="replace") for part in task.groups())
        where, how = f" on {node}:", _explained(how)
    elif first_failure:
        ranks, how = str(first_failure[0]), describe_exit(first_failure[1])
    if (task or first_failure) and not named:
        named = [row for row in rows if str(row["rank"]) in re.split(r"[,-]", ranks)]
        if not named:
            # this rank died without an error; the others only report their lost peer
            return f"rank {ranks}{where} {how} (full output: {log})"
    if rows:
        # ranks that lost a peer fail too, later and with a less useful error
        first = min(named or rows, key=lambda row: row["time"])
        return f"rank {first['rank']}: {first['error']} (full output: {log})"
    return f"the trainer {describe_exit(code)}; its last output is in {log}"


def _explained(how: str) -> str:
    """Slurm's message on how a task ended, with an explanation of the signal."""
    code = re.fullmatch(r"Exited with exit code (\d+)", how)
    status = int(code[1]) if code else next((-n for words, n in _SIGNALS.items() if words in how), 0)
    words = describe_exit(status)
    return f"{how} ({words})" if "killed" in words else how


_SIGNALS = {  # the names of strsignal, and Slurm's for its memory limit
    "Out Of Memory": signal.SIGKILL,
    "Killed": signal.SIGKILL,
    "Segmentation fault": signal.SIGSEGV,
    "Aborted": signal.SIGABRT,
    "Bus error": signal.SIGBUS,
    "Terminated": signal.SIGTERM,
}


def _failures(path: Path) -> list[dict]:
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue  # two nodes wrote at once, and some shared file systems mix their lines
    return rows
