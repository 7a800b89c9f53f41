# SPDX-License-Identifier: Apache-2.0
"""Kills in every stage, at chosen moments and at random; the same command again ends as if uninterrupted."""

import json
import random
import signal
import time
from dataclasses import dataclass

from chaos import chain
from chaos.runs import TRACEBACK, Run, environment

KILL, TERM, INT, HUP = signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP
_TIMEOUT_S = 900


@dataclass(frozen=True)
class Kill:
    """One kill.

    Attributes:
        name: says what is killed and when.
        stage: the stage that is killed.
        event: the audit event that triggers the kill, see inject/sitecustomize.py; "random": a random time.
        path: pattern that the event's arguments must match.
        nth: which matching event triggers the kill.
        who: the process that is killed.
        signal: the signal sent.
        survives: the run continues to its end by itself.
    """

    name: str
    stage: str
    event: str
    path: str = ""
    nth: int = 1
    who: str = "command"
    signal: int = KILL
    survives: bool = False


def table():
    """All kills."""
    return [*_training(), *_sampling(), *_around_each()]


def _training():
    grpo, sft, hard = "1_grpo_zero", "4_sft", "6_grpo_hard"
    rollout, metrics = r"rollouts/step_000001", r"metrics\.jsonl"
    checkpoint, export = r"checkpoints/.*step_0", r"/\.?hf[./]"
    yield Kill("rank killed in rollout", grpo, "open", rollout, who="self")
    yield Kill("command killed in rollout", grpo, "open", rollout)
    yield Kill("server killed in rollout", grpo, "open", rollout, who="server", survives=True)
    yield Kill("hung up in training", grpo, "open", metrics, 2, signal=HUP)
    yield Kill("rank killed in training", grpo, "open", metrics, 2, who="self")
    yield Kill("rank's parent killed in training", grpo, "open", metrics, 2, who="parent")
    yield Kill("command killed in a checkpoint save", grpo, "open", checkpoint, 2)
    yield Kill("rank killed in a checkpoint save", grpo, "open", checkpoint, 3, who="self")
    yield Kill("before a checkpoint's rename", grpo, "os.rename", r"checkpoints/")
    yield Kill("rank killed in the export", grpo, "open", export, who="self")
    yield Kill("command ended in the export", grpo, "open", export, 2, signal=TERM)
    yield Kill("rank killed in training", sft, "open", metrics, 2, who="self")
    yield Kill("interrupted in a checkpoint save", sft, "open", checkpoint, 2, signal=INT)
    yield Kill("command killed in the export", sft, "open", export, 2)
    yield Kill("rank ended in training", hard, "open", metrics, 2, who="self", signal=TERM)
    yield Kill("server killed in the last rollout", hard, "open", r"rollouts/step_000001", who="server",
               survives=True)  # fmt: skip


def _sampling():
    for stage, file in (("2_generate", "paths"), ("5_mine", "paths"), ("7_evaluate", "")):
        sampled, ordered = rf"{file}.*\.partial|verdicts", rf"\.tmp.*{file}.*jsonl"
        yield Kill("interrupted while sampling", stage, "open", sampled, signal=INT)
        yield Kill("while paths are put in order", stage, "os.rename", ordered)


def _around_each():
    for number, stage in enumerate(chain.STAGES):
        sign = (KILL, TERM, INT, HUP)[number % 4]
        yield Kill("before the last rename", stage, "os.rename", rf"\.partial/{stage} ")
        yield Kill("at random", stage, "random", signal=(TERM, KILL)[number % 2])
        if stage != "6_grpo_hard":  # same kind of stage as the first GRPO
            yield Kill("at its start", stage, "open", rf"\.partial/{stage}/stage\.json", signal=sign)
            yield Kill("while the manifest is written", stage, "open", rf"{stage}/manifest\.json")


def moment(kill, runs):
    """The settings for inject/sitecustomize.py."""
    spec = runs / ".logs" / kill.stage / "rollout-server.spec.json"
    return {
        "event": kill.event, "path": kill.path, "nth": kill.nth, "who": kill.who, "signal": int(kill.signal),
        "once": str(runs / ".once"), "spec": str(spec),
    }  # fmt: skip


def run(kill, work, whole, seconds):
    """Kill a run and give the same command again.

    Args:
        kill: the kill.
        work: a folder for this case.
        whole: the runs folder of the uninterrupted run.
        seconds: stage -> its duration in the uninterrupted run, for a random moment.

    Returns:
        What is wrong ("" if nothing), and notes.
    """
    runs = chain.before(kill.stage, whole, work / "runs")
    words = chain.words(kill.stage, runs, 'rollout.extra_env={CHAOS_PAUSE: "0.02"}')
    if kill.event == "random":
        struck = Run(words, environment())
        time.sleep(random.Random(kill.stage).uniform(0.3, 0.9) * seconds[kill.stage])
        struck.process.send_signal(kill.signal)
    else:
        told = json.dumps(moment(kill, runs))
        struck = Run(words, environment(CHAOS_MOMENT=told))
    status, output = struck.end(_TIMEOUT_S)
    if orphans := struck.orphans():
        return f"{len(orphans)} processes outlived it", output
    if kill.event != "random" and not (runs / ".once").exists():
        return "the moment never came", output
    if status is None:
        return "hung", output
    if TRACEBACK in output:
        return "traceback", output
    if kill.survives and status:
        return f"ended with {status} although a lost server is started again", output
    if not kill.survives and status == 0 and kill.event != "random":
        return "ended with 0 although it was killed", output
    again = Run(words, environment())
    status, output = again.end(_TIMEOUT_S)
    if status or TRACEBACK in output:
        return f"the same command then ended with {status}", output
    if orphans := again.orphans():
        return f"{len(orphans)} processes outlived the command given again", output
    return chain.difference(kill.stage, whole, runs), output
