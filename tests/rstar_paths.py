# SPDX-License-Identifier: Apache-2.0
"""Reasoning paths with given probabilities, for tests of R*."""

import math
import random

from reasongrm_nemo.data.records import ReasoningPath


def path(
    task="t", sample=0, reasoning=(0.5, 0.5), answer=(0.5,), correct=True, finish="stop", text="x</think>"
):
    return ReasoningPath(
        task_id=task,
        sample=sample,
        text=text,
        reasoning_tokens=len(reasoning),
        answer_tokens=len(answer),
        reasoning_prob_sum=math.fsum(reasoning),
        answer_prob_sum=math.fsum(answer),
        verdict="A" if correct else "B",
        parse_status="ok",
        correct=correct,
        finish_reason=finish,
        model="zero",
    )


def many(tasks=60, samples=8, seed=0):
    rng = random.Random(seed)
    return [
        path(
            f"task{task:03}",
            sample,
            [rng.random() for _ in range(rng.randrange(1, 9))],
            [rng.random() for _ in range(rng.randrange(1, 4))],
            correct=rng.random() < 0.6,
            text="wait, " * rng.randrange(3) + "</think>",
        )
        for task in range(tasks)
        for sample in range(samples)
    ]
