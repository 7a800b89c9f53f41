# SPDX-License-Identifier: Apache-2.0
"""R* against a second implementation in exact arithmetic, and the paper's Figure 3 worked by hand."""

import math
import random
from fractions import Fraction

import pytest

from reasongrm_nemo.data.records import ReasoningPath
from reasongrm_nemo.judge import answer_start, parse_verdict
from reasongrm_nemo.rstar import path_sums, score_path, score_sums, select_paths


def as_path(pieces, log_probs, label="A", sample=0):
    """A record made from a response's tokens as rollouts make it."""
    text = "".join(pieces)
    sums = path_sums(log_probs, answer_start(pieces))
    parsed = parse_verdict(text)
    return ReasoningPath(
        "t", sample, text, *sums, parsed.verdict, parsed.status, parsed.verdict == label, "stop", "zero"
    )


def exact(reasoning, answer):
    """The equation of section 3.3 in rational numbers, sharing nothing with the package."""
    means = [sum(map(Fraction, part)) / len(part) for part in (reasoning, answer)]
    return means[0] * means[1]


def draw(rng):
    """A path of up to 400 tokens, its probabilities spread over many orders of magnitude."""
    length = rng.choice((1, 2, 3, 10, 100, 400))
    return [rng.random() ** rng.choice((0.1, 1, 30)) for _ in range(length)]


def test_ten_thousand_random_paths_agree_with_exact_arithmetic():
    rng = random.Random(20)
    worst = 0.0
    for _ in range(10_000):
        reasoning, answer = draw(rng), draw(rng)[:20]
        truth = exact(reasoning, answer)
        logs = [math.log(p) if p else -math.inf for p in (*reasoning, *answer)]
        sums = path_sums(logs, len(reasoning))
        kept = ReasoningPath("t", 0, "x", *sums, "A", "ok", True, "stop", "zero")
        for score in (score_path(reasoning, answer).score, score_sums(kept).score):
            worst = max(worst, float(abs(Fraction(score) - truth)))
    # log and exp cost about 1e-15 per token; 1e-12 is required
    assert worst < 1e-12


def test_the_mean_of_log_probs_would_fail_that_comparison():
    rng = random.Random(20)
    far = 0
    for _ in range(1000):
        reasoning, answer = draw(rng), draw(rng)[:20]
        if min(*reasoning, *answer, 1.0) <= 0.0:
            continue
        wrong = math.exp(math.fsum(map(math.log, reasoning)) / len(reasoning)) * math.exp(
            math.fsum(map(math.log, answer)) / len(answer)
        )
        far += abs(wrong - float(exact(reasoning, answer))) > 1e-12
    assert far > 850  # all paths except those with a single token on a side


# Figure 3's workflow: G paths are sampled for one task (label A), the wrong ones are filtered out, R* is
# computed for the rest, and the best becomes the training example.  Probabilities are short decimals, so
# that the means can be checked on paper; each item is (token, probability).
PATHS = {
    # right and sure: (.9 + .7 + .8 + 1.0) / 4 = .85; (.9 + .8 + .7) / 3 = .8; R* = .68
    "sure": [
        ("A ", 0.9), ("is ", 0.7), ("right", 0.8), ("</think>", 1.0),
        ("\n\n", 0.9), ("[[A", 0.8), ("]]", 0.7),
    ],
    # right after hesitation: (.5 + .2 + .9 + .8) / 4 = .6; (1.0 + .9) / 2 = .95; R* = .57
    "hesitant": [("Wait", 0.5), (", ", 0.2), ("A", 0.9), ("</think>", 0.8), ("[[A", 1.0), ("]]", 0.9)],
    # wrong, and the most certain: filtered out before R* is compared
    "wrong": [("B", 1.0), ("</think>", 1.0), ("[[B", 1.0), ("]]", 1.0)],
    # right, with an answer out of nowhere: (.9 + 1.0) / 2 = .95; (.5 + .7) / 2 = .6; R* = .57
    "guess": [("A", 0.9), ("</think>", 1.0), ("[[A", 0.5), ("]]", 0.7)],
    # never closes its reasoning: no verdict
    "open": [("A ", 1.0), ("[[A]]", 1.0)],
}  # fmt: skip
BY_HAND = {"sure": (0.68, 0.85, 0.8), "hesitant": (0.57, 0.6, 0.95), "guess": (0.57, 0.95, 0.6)}


def test_figure_3_by_hand():
    paths = {
        name: as_path([piece for piece, _ in tokens], [math.log(p) for _, p in tokens], sample=sample)
        for sample, (name, tokens) in enumerate(PATHS.items())
    }
    assert {name for name, path in paths.items() if path.correct} == set(BY_HAND)
    for name, figures in BY_HAND.items():
        # the decimals are exact; 1e-12 is for log and exp
        assert score_sums(paths[name]) == pytest.approx(figures, abs=1e-12), name
    assert select_paths(paths.values()) == [paths["sure"]]
    assert select_paths(paths.values(), top_k=2)[1:] == [paths["hesitant"]]  # tied by R*; validity decides
    assert select_paths(paths.values(), "shortest") == [paths["guess"]]
    # the mean of log-probs ranks them otherwise: guess .949 * .592, hesitant .518 * .949
    logs = {name: [math.log(p) for _, p in PATHS[name]] for name in BY_HAND}
    cut = {"sure": 4, "hesitant": 4, "guess": 2}
    geometric = {
        name: math.exp(sum(logs[name][: cut[name]]) / cut[name])
        * math.exp(sum(logs[name][cut[name] :]) / len(logs[name][cut[name] :]))
        for name in BY_HAND
    }
    assert geometric["guess"] > geometric["hesitant"] + 0.05
