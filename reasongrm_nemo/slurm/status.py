# SPDX-License-Identifier: Apache-2.0
"""The state of a runs folder's Slurm jobs, from the files they leave and from squeue."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.cells import cell_len

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.documents import read_json, read_text
from reasongrm_nemo.files.figures import read_figures
from reasongrm_nemo.files.lines import bounded_lines, open_packed
from reasongrm_nemo.files.shapes import FIGURE, object_at
from reasongrm_nemo.processes.work_order import losses
from reasongrm_nemo.run.text import padded

_FIELDS = {"id": "%A", "task": "%K", "state": "%T", "why": "%r", "left": "%L", "nodes": "%N"}
_ERROR = re.compile(
    r"^reasongrm: |pre-flight: FIX |[\w.]*(?:Error|Exception)\b: |srun: error: |slurmstepd.*error: "
)
_FIGURES = {"step": int, "reward?": FIGURE, "loss?": FIGURE}
_STATES = ("failed", "requeued", "stopped", "done")


def collect_status(runs_dir: Path) -> dict[str, Any]:
    """The state of each artefact, sorted by name.

    Raises:
        UserError: the folder does not exist.
    """
    if not runs_dir.is_dir():
        what = "is a file" if runs_dir.is_file() else "does not exist"
        raise UserError(f"{runs_dir} {what}; give the runs folder of a pipeline, such as runs/qwq_32b")
    book = runs_dir / ".launch"
    jobs = _jobs(book)
    queue = _queue(sorted({job["job"] for job in jobs}))
    done = {path.parent.name for path in runs_dir.glob("*/manifest.json")}
    partial = {path.name for path in (runs_dir / ".partial").glob("*") if path.is_dir()}
    names = done | partial | {job["name"] for job in jobs}
    rows = []
    for name in sorted(names):
        mine = [job for job in jobs if job["name"] == name]
        rows.append(_row(runs_dir, name, mine[-1] if mine else None, queue, name in done))
    return {"runs_dir": str(runs_dir), "stages": rows}


def _row(
    runs_dir: Path, name: str, job: Mapping[str, Any] | None, queue: Mapping[str, Any], done: bool
) -> dict[str, Any]:
    row: dict[str, Any] = {"name": name, "state": "done" if done else "unfinished"}
    row |= _progress(runs_dir / name if done else runs_dir / ".partial" / name)
    if lost := losses(runs_dir / name if done else runs_dir / ".partial" / name):
        row |= {"servers_lost": len(lost), "last_loss": lost[-1]}
    if job is None:
        return row
    row["job"] = job["job"]
    log = Path(job["log"]) if job["log"] else None
    if log is not None:
        row["log"] = str(log)
    live = queue.get(job["job"])
    summary = job["summary"]
    if live:
        row |= {"state": live["state"].lower(), "left": live["left"], "nodes": live["nodes"]}
        if live["state"] == "PENDING":
            row["why"] = live["why"]
    elif not done and summary:
        state, _, cause = summary.partition("\n")[0].partition(": ")
        row["state"] = state if state in _STATES else "ended"
        if state != "done":
            row["why"] = cause
    elif not done:
        facts = _ask_slurm(job["job"])
        row["state"] = facts.get("JobState", "ended").lower()
        if row["state"] == "cancelled":
            row["why"] = "the job never started: it was cancelled, or a job it depends on failed"
        else:
            row["why"] = "the job left no summary: killed, its node failed, or its log was not writable"
        log = log or (Path(facts["StdOut"]) if "StdOut" in facts else None)
    if row["state"] in ("failed", "ended") and log is not None:
        row["error"] = _last_error(log)
    return row


def _jobs(book: Path) -> list[dict[str, Any]]:
    """Jobs submitted by pipeline.sh (<name>.id) or started (<job>.job, <job>.summary), oldest first."""
    jobs: dict[str, dict[str, Any]] = {}
    for path in sorted(book.glob("*.id"), key=lambda path: path.stat().st_mtime):
        number = read_text(path).strip()
        jobs[number] = {"name": path.stem, "job": number, "log": "", "began": False, "summary": ""}
    for path in sorted(book.glob("*.job"), key=lambda path: path.stat().st_mtime):
        name, tab, log = read_text(path).rstrip("\n").partition("\t")
        if not tab:
            raise UserError(f"{path} names no job and log, as launch/common.sh would write: remove the file")
        jobs[path.stem] = {"name": name, "job": path.stem, "log": log, "began": True, "summary": ""}
    for path in book.glob("*.summary"):
        if path.stem in jobs:
            jobs[path.stem] |= {"summary": read_text(path), "began": True}
    return list(jobs.values())


def _queue(ids: list[str]) -> dict[str, dict[str, str]]:
    """The jobs that are pending or running, by id; empty if Slurm does not answer."""
    if not ids:
        return {}
    command = ["squeue", "-h", "-o", "\t".join(_FIELDS.values())]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    rows = [dict(zip(_FIELDS, line.split("\t"), strict=True)) for line in answer.stdout.splitlines() if line]
    return {row["id"]: row for row in rows if row["id"] in ids}


def _ask_slurm(job: str) -> dict[str, str]:
    """What Slurm still knows about a job that has ended."""
    try:
        answer = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return {}
    fields = re.findall(r"^ *(StdOut|JobState)=(.+?)(?: Reason=.*)?$", answer.stdout, re.MULTILINE)
    return dict(fields)


def _progress(folder: Path) -> dict[str, Any]:
    """Step, number of steps, and reward or loss of a training."""
    metrics, order = folder / "metrics.jsonl", folder / "work_order.json"
    if not metrics.exists():
        return {}
    figures: dict[str, Any] = {}
    for _, line_figures in read_figures(metrics, _FIGURES):
        figures = line_figures
    progress = {name: figures[name] for name in ("step", "reward", "loss") if figures.get(name) is not None}
    if order.exists():
        steps = object_at(read_json(order), "recipe", "grpo").get("steps")
        if isinstance(steps, int):
            progress["steps"] = steps
    return progress


def _last_error(log: Path) -> str | None:
    """The last line that reports an error, as FILE:LINE: text."""
    if not log.exists():
        return f"{log} was never written: its folder is missing or not writable on the job's first node"
    last = None
    with open_packed(log) as file:
        lines = [line.decode(errors="replace") for line in bounded_lines(file, log)]
    for number, line in enumerate(lines, 1):
        if _ERROR.search(line):
            last = f"{log}:{number}: {line.strip()}"
    return last


def status_as_text(collected: Mapping[str, Any]) -> str:
    """One line per stage, with its last error below."""
    lines = [collected["runs_dir"]]
    width = max((cell_len(row["name"]) for row in collected["stages"]), default=0)
    for row in collected["stages"]:
        words = [padded(row["name"], width), f"{row['state']:<10}"]
        if "step" in row:
            words.append(f"step {row['step']}" + (f"/{row['steps']}" if "steps" in row else ""))
        words += [f"{name} {row[name]:.3f}" for name in ("reward", "loss") if name in row]
        if "servers_lost" in row:
            words.append(f"{row['servers_lost']} server{'s' * (row['servers_lost'] > 1)} lost")
        if "job" in row:
            words.append(f"job {row['job']}")
        if row.get("nodes"):
            words.append(f"on {row['nodes']}")
        if row["state"] == "running" and "left" in row:
            words.append(f"{row['left']} left")
        lines.append("  " + "  ".join(words))
        lines += [f"      {row[key]}" for key in ("why", "error", "last_loss") if row.get(key)]
    if len(lines) == 1:
        lines.append("  nothing has been started here yet")
    return "\n".join(lines)
