# SPDX-License-Identifier: Apache-2.0
"""Response lengths: a lognormal distribution, stated or fitted, or a sample drawn again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.lines import read_dicts
from reasongrm_nemo.files.shapes import shaped

Drawn = NDArray[np.int64]
_ROUNDS = 500
_PATH = {"task_id": str, "reasoning_tokens": int, "answer_tokens": int, "finish_reason": str}
_NORMAL = NormalDist()


class Lengths(Protocol):
    """Draws response lengths in tokens."""

    def draw(self, groups: int, samples: int, seed: int) -> Drawn:
        """Lengths, int64 [groups, samples]; a group holds the samples of one task."""


@dataclass(frozen=True)
class Lognormal:
    """A lognormal distribution, clipped at a limit.

    Attributes:
        median: in tokens.
        sigma: standard deviation of the logarithm.
        alike: share of the variance common to the samples of a task, 0 to 1.
        limit: longest response.
    """

    median: float
    sigma: float
    alike: float
    limit: int

    def draw(self, groups: int, samples: int, seed: int) -> Drawn:
        """See ``Lengths``."""
        random = np.random.default_rng(seed)
        common = random.normal(size=(groups, 1)) * math.sqrt(self.alike)
        separate = random.normal(size=(groups, samples)) * math.sqrt(1 - self.alike)
        lengths = self.median * np.exp(self.sigma * (common + separate))
        return np.clip(np.rint(lengths), 1, self.limit).astype(np.int64)


@dataclass(frozen=True)
class Sampled:
    """Observed lengths, resampled: a task, then lengths of that task.

    Attributes:
        tasks: lengths of each task's samples.
        limit: longest response.
    """

    tasks: Sequence[Sequence[int]]
    limit: int

    def draw(self, groups: int, samples: int, seed: int) -> Drawn:
        """See ``Lengths``."""
        random = np.random.default_rng(seed)
        picked = random.integers(len(self.tasks), size=groups)
        rows = [random.choice(np.asarray(self.tasks[task]), size=samples) for task in picked]
        return np.minimum(np.stack(rows), self.limit).astype(np.int64)


@dataclass(frozen=True)
class Fit:
    """A lognormal fitted to a sample.

    Attributes:
        lognormal: the fitted distribution.
        responses: number of lengths in the sample.
        cut: share of them that reached the limit; the fit treats them as censored.
        distance: Kolmogorov-Smirnov distance between sample and fit.
    """

    lognormal: Lognormal
    responses: int
    cut: float
    distance: float


def read_paths(path: Path) -> tuple[list[list[int]], list[list[bool]]]:
    """Response lengths in a ``paths.jsonl`` by task, and whether each was cut at the limit.

    Raises:
        UserError: the file is missing, unreadable or empty, or a line is not a reasoning path.
    """
    lengths: dict[str, list[int]] = {}
    cut: dict[str, list[bool]] = {}
    try:
        for where, data in read_dicts(path):
            row = shaped(data, _PATH, where)
            ended = row["finish_reason"] == "length"
            # neither count includes the end-of-turn token, which was decoded too
            tokens = row["reasoning_tokens"] + row["answer_tokens"] + (not ended)
            lengths.setdefault(row["task_id"], []).append(max(1, tokens))
            cut.setdefault(row["task_id"], []).append(ended)
    except UserError as error:
        raise UserError(f"--lengths (a generate stage's paths.jsonl): {error}") from None
    if not lengths:
        raise UserError(f"--lengths: {path} holds no reasoning path")
    return list(lengths.values()), list(cut.values())


def fit(tasks: Sequence[Sequence[int]], cut: Sequence[Sequence[bool]], limit: int) -> Fit:
    """Maximum-likelihood lognormal of the lengths, with cut ones censored from above.

    Mean and deviation by expectation maximisation (Dempster et al. 1977); ``alike`` by analysis of variance
    of the logarithms.

    Args:
        tasks: lengths by task.
        cut: whether each reached the limit.
        limit: ``limit`` of the returned distribution.
    """
    flat = np.array([length for task in tasks for length in task], dtype=float)
    ended = np.array([yes for task in cut for yes in task])
    if ended.all():
        raise UserError(
            "--lengths: every response was cut at the limit; give a sample with complete responses"
        )
    logs = np.log(flat)
    mean, sigma = float(logs.mean()), max(float(logs.std()), 1e-6)
    for _ in range(_ROUNDS if ended.any() else 0):
        z = (logs[ended] - mean) / sigma
        hazard = np.array([_hazard(value) for value in z])
        first = np.where(ended, 0.0, logs)
        first[ended] = mean + sigma * hazard
        spread = np.zeros_like(logs)
        spread[ended] = sigma**2 * (1 + z * hazard - hazard**2)
        mean = float(first.mean())
        sigma = max(math.sqrt(float(((first - mean) ** 2 + spread).mean())), 1e-6)
    nearest = Lognormal(math.exp(mean), sigma, _alike(tasks), limit)
    ordered = np.sort(flat[~ended]) if ended.any() else np.sort(flat)
    share = np.arange(1, len(ordered) + 1) / len(flat)
    model = np.array([_NORMAL.cdf((math.log(length) - mean) / sigma) for length in ordered])
    distance = float(np.maximum(abs(share - model), abs(share - 1 / len(flat) - model)).max())
    return Fit(nearest, len(flat), float(ended.mean()), distance)


def _alike(tasks: Sequence[Sequence[int]]) -> float:
    """Intraclass correlation of the logarithms, by one-way analysis of variance."""
    groups = [np.log(np.asarray(task, dtype=float)) for task in tasks if len(task) > 1]
    sizes = np.array([len(group) for group in groups])
    if len(groups) < 2:
        return 0.0
    every = np.concatenate(groups)
    means = np.array([group.mean() for group in groups])
    between = float((sizes * (means - every.mean()) ** 2).sum()) / (len(groups) - 1)
    within = sum(float(((group - group.mean()) ** 2).sum()) for group in groups) / (len(every) - len(groups))
    size = (len(every) - float((sizes**2).sum()) / len(every)) / (len(groups) - 1)
    variance = max(0.0, (between - within) / size)
    return variance / (variance + within) if variance + within > 0 else 0.0


def _hazard(z: float) -> float:
    """Hazard rate of the standard normal: density over upper tail."""
    above = _NORMAL.cdf(-z)
    return _NORMAL.pdf(z) / above if above else z
