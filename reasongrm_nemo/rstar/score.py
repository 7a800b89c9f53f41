# SPDX-License-Identifier: Apache-2.0
"""R*, the paper's score of a reasoning path (section 3.3).

    R*(R', a, Q) = P(R' | Q) * P(a | Q, R') = mean_i p'_i * mean_i p''_i

where p' are the probabilities of the reasoning's tokens and p'' those of the answer's tokens.  The first mean
is the path's self-consistency, the second its validity.  Both are arithmetic means of probabilities, not
likelihoods or means of log-probabilities, which a single rare token would lower far more.
`table.PathTable` computes the same for all paths at once; selection uses that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reasongrm_nemo.data.records import ReasoningPath

TOLERANCE = 1e-6
"""Tolerance above 1 for probabilities exponentiated in single precision."""


class RStar(NamedTuple):
    """`score` = `self_consistency` * `validity`, each in [0, 1]."""

    score: float
    self_consistency: float
    validity: float


class PathSums(NamedTuple):
    """The probability sums and token counts in a `ReasoningPath`."""

    reasoning_tokens: int
    answer_tokens: int
    reasoning_prob_sum: float
    answer_prob_sum: float


def score_path(reasoning_probs: ArrayLike, answer_probs: ArrayLike) -> RStar:
    """Compute R* from token probabilities (equation of section 3.3, in float64).

    Args:
        reasoning_probs: (L_R,) raw probabilities of the reasoning's tokens, including `</think>`.
        answer_probs: (L_a,) raw probabilities of the answer's tokens.

    Raises:
        ValueError: a list is empty, or a value is not a probability.
    """
    consistency = _mean(_checked(reasoning_probs, "reasoning"))
    validity = _mean(_checked(answer_probs, "answer"))
    return RStar(consistency * validity, consistency, validity)


def path_sums(log_probs: Sequence[float], answer_start: int) -> PathSums:
    """Compute a response's token counts and probability sums from its log-probabilities.

    Args:
        log_probs: (L,) natural log-probabilities at temperature 1 over the full vocabulary, without the
            end-of-turn token.
        answer_start: index of the first answer token (`reasongrm_nemo.judge.answer_start`), 0..L.

    Raises:
        ValueError: the index is out of range, or a value is not a log-probability.
    """
    if not 0 <= answer_start <= len(log_probs):
        raise ValueError(f"answer_start {answer_start} is outside the {len(log_probs)} tokens")
    probs = np.exp(np.asarray(log_probs, dtype=np.float64))
    reasoning = _checked(probs[:answer_start], "reasoning", allow_empty=True)
    answer = _checked(probs[answer_start:], "answer", allow_empty=True)
    return PathSums(len(reasoning), len(answer), math.fsum(reasoning), math.fsum(answer))


def score_sums(path: ReasoningPath) -> RStar:
    """Compute a path's R* from its sums and counts.

    Raises:
        ValueError: there are no reasoning or answer tokens, or the sums exceed the token counts.
    """
    means = []
    for part, total, count in (
        ("reasoning", path.reasoning_prob_sum, path.reasoning_tokens),
        ("answer", path.answer_prob_sum, path.answer_tokens),
    ):
        where = f"Path {path.task_id} sample {path.sample}"
        if count < 1:
            raise ValueError(f"{where} has no {part} tokens, so R* is not defined")
        if not 0.0 <= total <= count * (1.0 + TOLERANCE):
            raise ValueError(f"{where}: {total} cannot be a sum of {count} probabilities ({part})")
        means.append(min(total / count, 1.0))
    return RStar(means[0] * means[1], means[0], means[1])


def _checked(values: ArrayLike, part: str, allow_empty: bool = False) -> NDArray[np.float64]:
    probs = np.asarray(values, dtype=np.float64)
    if probs.ndim != 1:
        raise ValueError(f"The {part} probabilities must be a flat list, got the shape {probs.shape}")
    if probs.size == 0 and not allow_empty:
        raise ValueError(f"The {part} has no tokens, so R* is not defined")
    wrong = ~((probs >= 0.0) & (probs <= 1.0 + TOLERANCE))  # also true for NaN
    if wrong.any():
        index = int(wrong.argmax())
        raise ValueError(f"{part} token {index}: {probs[index]} is not a probability")
    return np.minimum(probs, 1.0)


def _mean(probs: NDArray[np.float64]) -> float:
    return math.fsum(probs) / len(probs)
