# SPDX-License-Identifier: Apache-2.0
"""The pre-flight checks of a job: queries every node and checks the answers."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from reasongrm_nemo import plan as plans
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.disk import readable_bytes
from reasongrm_nemo.processes import placement
from reasongrm_nemo.processes.work_order import python_environment
from reasongrm_nemo.recipe import load
from reasongrm_nemo.rollout.server import versions
from reasongrm_nemo.rollout.server.settings import PYTHON_VARIABLE
from reasongrm_nemo.run.manifest import PACKAGES, Artefact
from reasongrm_nemo.slurm.preflight import node as node_check
from reasongrm_nemo.slurm.preflight.collective import RESULT
from reasongrm_nemo.stage_kinds import kind_of


@dataclass
class Findings:
    """The findings of a pre-flight.

    Attributes:
        problems: sentences, each with what to do.
        bad: nodes that fail while others pass; the job can run without them.
        good: sentences on what is in order.
    """

    problems: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    good: list[str] = field(default_factory=list)


def run(cfg: DictConfig, place: placement.Placement, quick: bool, timeout_s: float = 180.0) -> Findings:
    """Run all checks that apply to the recipe's stage.

    Args:
        cfg: the recipe.
        place: the nodes of the job.
        quick: skip the collective.
        timeout_s: time limit for the nodes' answers, and for the collective.
    """
    findings = Findings()
    for key, value in load.input_paths(cfg).values():
        try:
            load.require_path(value, cfg.runs_dir, key)
        except UserError as error:
            findings.problems.append(str(error))
    runs_dir = Path(cfg.runs_dir)
    try:
        runs_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        findings.problems.append(f"{runs_dir} cannot be created ({error.strerror}): correct runs_dir")
        return findings
    token_file, token = runs_dir / f".preflight-{os.getpid()}", secrets.token_hex(8)
    token_file.write_text(token)
    kind = kind_of(cfg)
    by_nccl = kind.on_policy and cfg.cluster.weight_transfer == "nccl"
    try:
        trainer = cfg.cluster.trainer_python or sys.executable
        if kind.trains or not place.slurm:
            asked = _asked(cfg, place, token_file, token, PACKAGES, {} if by_nccl else None)
            trains = _ask(place, place.trainer_nodes, trainer, asked, timeout_s, True)
            _judge(findings, "trainer", trains, cfg)
        if kind.samples:
            python = str(cfg.cluster.rollout_python or os.environ.get(PYTHON_VARIABLE) or "python3")
            nodes = tuple(dict.fromkeys(spot.node for spot in place.spots if spot.node))
            asked = _asked(
                cfg, place, token_file, token, versions.PACKAGES, _loading(cfg) if by_nccl else None
            )
            samples = _ask(place, nodes, python, asked, timeout_s, False)
            _judge(findings, "rollout", samples, cfg)
            if by_nccl:
                _check_nccl(findings, trains, samples)
    finally:
        token_file.unlink(missing_ok=True)
    if not findings.problems:
        _check_plan(findings, cfg)
    if kind.trains and place.slurm and not quick and not findings.problems:
        _check_collective(findings, cfg, place, timeout_s)
    return findings


def _loading(cfg: DictConfig) -> dict[str, str]:
    """The dynamic loader's variables of the servers; others may be secret and stay off command lines."""
    return {str(k): str(v) for k, v in cfg.rollout.extra_env.items() if str(k).startswith("LD_")}


def _asked(
    cfg: DictConfig,
    place: placement.Placement,
    token_file: Path,
    token: str,
    packages: Sequence[str],
    nccl: Mapping[str, str] | None,
) -> dict[str, Any]:
    return {
        "token_file": str(token_file.resolve()),
        "token": token,
        "folders": {
            "runs_dir": str(Path(cfg.runs_dir).resolve()),
            "scratch": os.environ.get("TMPDIR", "/tmp"),
        },
        "packages": list(packages),
        "gpu": cfg.cluster.platform == "gpu" and kind_of(cfg).runs_model,
        "nccl": nccl,
        "nodes": list(place.trainer_nodes),
        "ports": list(placement.job_ports(place.job)) if place.job is not None else [],
    }


def _ask(
    place: placement.Placement,
    nodes: Sequence[str],
    python: str,
    asked: Mapping[str, Any],
    timeout_s: float,
    trains: bool,
) -> dict[str, dict[str, Any] | None]:
    """The answer of each node; None if it did not answer."""
    arguments = ["-m", node_check.__name__, json.dumps(asked)]
    env = placement.srun_environment(python_environment())
    command = [python, *arguments]
    if place.slurm:
        command = place.node_command(nodes, python, arguments, trains)
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout_s)
        out, err = done.stdout, done.stderr
    except subprocess.TimeoutExpired as error:
        out, err = _text(error.stdout), _text(error.stderr)
    except OSError as error:
        raise UserError(f"{command[0]} cannot be run: {error.strerror}") from None
    answers: dict[str, dict[str, Any] | None] = dict.fromkeys(node.split(".")[0] for node in nodes)
    for line in out.splitlines():
        if node_check.MARK in line:
            answer = json.loads(line.partition(node_check.MARK)[2])
            answers[answer["node"]] = answer
    if not any(answers.values()):
        words = [line for line in err.splitlines() if line.strip()][-3:]
        raise UserError(
            f"no node could run {python} -m {node_check.__name__}: {' '.join(words) or 'no answer'}"
        )
    return answers


def _text(output: bytes | str | None) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""


def _judge(
    findings: Findings, what: str, answers: Mapping[str, dict[str, Any] | None], cfg: DictConfig
) -> None:
    """Compare the nodes' answers with the recipe's needs and with each other."""
    answered = {name: answer for name, answer in answers.items() if answer is not None}

    def bad(name: str, sentence: str) -> None:
        findings.problems.append(f"{name}: {sentence}")
        findings.bad.append(name)

    for name in answers:
        if name not in answered:
            bad(name, "did not answer the pre-flight check; have the node examined")
    for name, answer in answered.items():
        if answer["shared"]:
            bad(name, f"{answer['shared']}; runs_dir must be on a file system that all nodes share")
        for folder, free in answer["free"].items():
            if isinstance(free, str):
                bad(name, f"{folder}: {free}")
        if "network" in answer:
            bad(name, answer["network"])
        elif answer["taken"]:
            bad(name, f"the job's ports {answer['taken']} are in use there; see by what with `ss -ltnp`")
        if "gpus" in answer:
            wanted = cfg.cluster.devices_per_node
            if isinstance(answer["gpus"], str):
                bad(name, answer["gpus"])
            elif len(answer["gpus"]) < wanted:
                bad(
                    name,
                    f"has {len(answer['gpus'])} GPUs, but the recipe's cluster.devices_per_node is {wanted}",
                )
    nccl = {name: answer["nccl"] for name, answer in answered.items() if "nccl" in answer}
    _alike(findings, what, "NCCL", nccl)
    _alike(findings, what, "python", {name: answer["python"] for name, answer in answered.items()})
    _alike(findings, what, "reasongrm-nemo", {name: answer["code"] for name, answer in answered.items()})
    for package in next(iter(answered.values()))["versions"]:
        installed = {name: answer["versions"][package] for name, answer in answered.items()}
        _alike(findings, what, package, installed)
    gpus_of = {
        name: answer["gpus"] for name, answer in answered.items() if isinstance(answer.get("gpus"), list)
    }
    for key in ("name", "driver"):
        kind = {name: gpus[0][key] for name, gpus in gpus_of.items() if gpus}
        _alike(findings, what, f"GPU {key}", kind)
    findings.good.append(f"{what} environment on {', '.join(answered)}")


def _alike(findings: Findings, what: str, thing: str, values: Mapping[str, Any]) -> None:
    """Report the nodes whose value differs from the most frequent one."""
    if len(set(values.values())) < 2:
        return
    right = max(values.values(), key=list(values.values()).count)
    for name, value in values.items():
        if value != right:
            findings.problems.append(
                f"{name}: {thing} in the {what} environment is {value or 'missing'}, "
                f"but {right} on the others"
            )
            findings.bad.append(name)


def _check_nccl(
    findings: Findings,
    trains: Mapping[str, dict[str, Any] | None],
    samples: Mapping[str, dict[str, Any] | None],
) -> None:
    """Compare NCCL at both ends of a weight transfer; if torch cannot tell, the first transfer checks it."""
    ours, theirs = (
        next((answer["nccl"] for answer in answers.values() if answer is not None), None)
        for answers in (trains, samples)
    )
    if ours and theirs and ours != theirs:
        findings.problems.append(versions.other_nccl(ours, theirs))


def _check_plan(findings: Findings, cfg: DictConfig) -> None:
    """Check memory and disk by the estimates of `reasongrm plan`."""
    try:
        plan = plans.plan(cfg)
    except plans.ShapeUnknown as unknown:
        findings.good.append(f"memory was not checked: {unknown}")
        return
    if plan is None:
        return
    findings.problems += [misfit.sentence for misfit in plan.misfits]
    work = Artefact(Path(cfg.runs_dir), cfg.name).work
    there = sum(path.stat().st_size for path in work.rglob("*") if path.is_file())  # left by an earlier start
    stat = os.statvfs(cfg.runs_dir)
    free, needed = stat.f_bavail * stat.f_frsize + there, sum(plan.disk.values())
    checkpoints = f" (checkpoints of {readable_bytes(plan.checkpoint)})" if plan.checkpoint else ""
    words = f"{readable_bytes(needed)} of disk for {cfg.name}{checkpoints}, {readable_bytes(free)} free"
    if free < needed:
        findings.problems.append(
            f"runs_dir {cfg.runs_dir} is too small: {words}; free some, or keep fewer checkpoints"
        )
    elif needed:
        findings.good.append(words)


def _check_collective(
    findings: Findings, cfg: DictConfig, place: placement.Placement, timeout_s: float
) -> None:
    cluster = cfg.cluster
    python = cluster.trainer_python or sys.executable
    backend = "gloo" if cluster.platform == "cpu" else "nccl"
    arguments = [
        "-m",
        "reasongrm_nemo.processes.srun_rank",
        "reasongrm_nemo.slurm.preflight.collective",
        backend,
        str(timeout_s),
    ]
    command = place.rank_command(python, cluster.devices_per_node, arguments)
    env = placement.srun_environment(python_environment()) | place.rank_environment(cluster.devices_per_node)
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=2 * timeout_s)
        out, err = done.stdout, done.stderr
    except subprocess.TimeoutExpired as error:
        out, err = _text(error.stdout), _text(error.stderr)
    results = [line for line in out.splitlines() if line.startswith(RESULT)]
    if results:
        findings.good.append(results[0])
        return
    words = [line for line in err.splitlines() if "Error" in line or "srun: error" in line][:2]
    findings.problems.append(
        f"the ranks cannot reach each other over {backend} ({'; '.join(words) or 'no answer'}); check "
        "REASONGRM_INTERFACE and REASONGRM_IB_HCA in launch/site.env, and set NCCL_DEBUG=INFO"
    )


def describe_placement(cfg: DictConfig, place: placement.Placement) -> str:
    """Which processes would run where, with their command lines."""
    cluster, python = cfg.cluster, cfg.cluster.trainer_python or sys.executable
    lines = []
    if not place.slurm:
        lines.append("everything on this machine")
    if kind_of(cfg).trains and place.slurm:
        layout = f"TP{cluster.tensor_parallel} × PP{cluster.pipeline_parallel}"
        ranks = len(place.trainer_nodes) * cluster.devices_per_node
        lines.append(f"{ranks} ranks ({layout}) on {', '.join(place.trainer_nodes)}:")
        arguments = [
            "-m",
            "reasongrm_nemo.processes.srun_rank",
            f"reasongrm_nemo.{cfg.stage}.main",
            "WORK_ORDER",
        ]
        lines.append("  " + shlex.join(place.rank_command(python, cluster.devices_per_node, arguments)))
    if kind_of(cfg).samples:
        for spot in place.spots:
            where = spot.node or "this machine"
            lines.append(
                f"vLLM server, TP{cfg.rollout.tensor_parallel}, on {where}" + (":" if spot.node else "")
            )
            if spot.node:
                command = place.server_command(
                    spot, "ROLLOUT_PYTHON", ["-m", "reasongrm_nemo.rollout.server.agent"]
                )
                lines.append("  " + shlex.join(command))
    return "\n".join(lines)
