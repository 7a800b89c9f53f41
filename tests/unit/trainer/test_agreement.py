# SPDX-License-Identifier: Apache-2.0
"""A log-prob gap past the stop bound ends GRPO, one past the warning bound is reported, others pass."""

import pytest

from reasongrm_nemo.grpo.agreement import Agreement, Disagreement, ages
from reasongrm_nemo.recipe.load import load_recipe, recipes_root
from reasongrm_nemo.rollout import Completion

GRPO = recipes_root() / "tiny" / "1_grpo_zero.yaml"
BF16 = ["rollout.dtype=bf16"]


def outcome(gap, words=(), age=0):
    """``fine``, ``warn`` or ``stop``."""
    agreement = Agreement(load_recipe(GRPO, words))
    try:
        warning = agreement.check_gap(1, {"log_prob_error_mean": gap, "log_prob_error_max": gap}, age)
    except Disagreement:
        return "stop"
    return "warn" if warning else "fine"


@pytest.mark.parametrize(
    ("gap", "words", "age", "expected"),
    [
        (3e-7, [], 0, "fine"),  # seen on the tiny model
        (1e-3, [], 0, "warn"),
        (0.02, [], 0, "stop"),
        (1.7, [], 0, "stop"),  # a base that vLLM reads with another rope
        (0.02, BF16, 0, "fine"),  # one of the two in bf16 is enough
        (0.1, BF16, 0, "warn"),
        (1.7, BF16, 0, "stop"),
        (0.1, ["grpo.max_lag=1"], 1, "fine"),  # the policy has moved by an update
        (0.1, ["grpo.max_lag=1"], 0, "stop"),  # on the first step it has not
        (0.5, ["grpo.max_lag=1"], 1, "warn"),
        (1.7, ["grpo.max_lag=1"], 1, "stop"),
        (0.015, ["rollout.temperature=0.5"], 0, "warn"),  # logits that differ by 0.0075
        (0.02, ["grpo.log_prob_gap.stop.fp32=0.1"], 0, "warn"),
        (float("nan"), [], 0, "fine"),  # the loss is NaN too, and counted as such
    ],
)
def test_the_outcome_of_a_gap(gap, words, age, expected):
    assert outcome(gap, words, age) == expected


def test_the_sentence_names_the_bound_and_the_likely_causes():
    agreement = Agreement(load_recipe(GRPO, ["rollout.temperature=0.7"]))
    with pytest.raises(Disagreement) as stop:
        agreement.check_gap(4, {"log_prob_error_mean": 1.7, "log_prob_error_max": 9.0}, 0)
    said = str(stop.value)
    assert said.startswith(
        "step 4: the trainer's log-probs differ from vLLM's by 1.7 nats per token on average (at most 9), "
        "more than grpo.log_prob_gap.stop.fp32 0.01; likely causes: rope"
    )
    for cause in (
        "tokenizer",
        "chat template",
        "model.dtype fp32",
        "rollout.temperature 0.7",
        "stale weights",
    ):
        assert cause in said
    assert "step_000003.jsonl" in said


def test_the_age_of_rollouts_is_known_from_their_weights_version():
    def made(version):
        return Completion("t", 0, [1], [-0.1], "stop", version)

    assert ages([made(5), made(4), made(None)], 5) == [0, 1]
    agreement = Agreement(load_recipe(GRPO, ["grpo.max_lag=1"]))
    agreement.check_age(6, None)  # rollouts kept by an earlier version of this package
    agreement.check_age(6, 1)
    with pytest.raises(Disagreement, match=r"step 6: .* 2 steps old, and grpo\.max_lag is 1"):
        agreement.check_age(6, 2)
