# SPDX-License-Identifier: Apache-2.0
"""GRPO's loss against numbers worked out by hand."""

import math

import pytest
import torch

from reasongrm_nemo.grpo.loss import clipped_surrogate, importance_weights, kl_estimate, sample_weights


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped"),
    [
        (1.0, 2.0, -2.0, False),
        (1.5, 2.0, -2.4, True),  # past 1 + 0.2: no more reward for going further
        (0.5, 2.0, -1.0, False),  # the unclipped term is the smaller one
        (1.5, -1.0, 1.5, False),
        (0.5, -1.0, 0.8, True),  # past 1 - 0.2
    ],
)
def test_clipped_surrogate(ratio, advantage, loss, clipped):
    value, was_clipped = clipped_surrogate(
        torch.tensor([[math.log(ratio)]]), torch.zeros(1, 1), torch.tensor([[advantage]]), 0.2, 0.2
    )
    assert value.item() == pytest.approx(loss, rel=1e-6)
    assert was_clipped.item() is clipped


def test_gradient_is_the_policy_gradient_on_policy_and_zero_where_clipped():
    log_probs = torch.tensor([-1.0, math.log(1.5)], requires_grad=True)
    value, _ = clipped_surrogate(log_probs, torch.tensor([-1.0, 0.0]), torch.tensor([3.0, 3.0]), 0.2, 0.2)
    value.sum().backward()
    assert log_probs.grad.tolist() == [-3.0, 0.0]


def test_clip_higher_moves_only_the_upper_bound():
    value, _ = clipped_surrogate(
        torch.tensor([math.log(1.5), math.log(0.5)]), torch.zeros(2), torch.tensor([1.0, -1.0]), 0.2, 0.28
    )
    assert value.tolist() == pytest.approx([-1.28, 0.8])


def test_kl_estimators_agree_in_expectation():
    policy = torch.tensor([0.7, 0.2, 0.1])
    reference = torch.tensor([0.5, 0.3, 0.2])
    exact = (policy * (policy / reference).log()).sum()
    for estimator in ("k1", "k3"):
        estimate = (policy * kl_estimate(policy.log(), reference.log(), estimator)).sum()
        assert estimate.item() == pytest.approx(exact.item(), rel=1e-6)
    assert kl_estimate(torch.tensor(-1.0), torch.tensor(-1.5), "k2").item() == pytest.approx(0.125)
    with pytest.raises(ValueError, match="k4"):
        kl_estimate(policy, reference, "k4")


def test_dual_clip_bounds_the_loss_where_the_advantage_is_negative():
    """Ye et al. 2020, eq. 5: max(min(r A, clip(r) A), c A) for A < 0."""
    ratios, c = [0.5, 1.0, 2.9, 3.1, 50.0], 3.0
    for advantage in (-2.0, 2.0):
        value, clipped = clipped_surrogate(
            torch.tensor(ratios).log(), torch.zeros(5), torch.tensor([advantage] * 5), 0.2, 0.2, c
        )
        for ratio, loss in zip(ratios, value.tolist(), strict=True):
            gain = min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage)
            expected = max(gain, c * advantage) if advantage < 0 else gain
            assert loss == pytest.approx(-expected, rel=1e-6)
        assert clipped.tolist() == (
            [True, False, False, True, True] if advantage < 0 else [False] * 2 + [True] * 3
        )


def test_the_gradient_is_zero_below_the_dual_clip():
    log_probs = torch.tensor([math.log(5.0)], requires_grad=True)
    value, _ = clipped_surrogate(log_probs, torch.zeros(1), torch.tensor([-1.0]), 0.2, 0.2, 3.0)
    value.sum().backward()
    assert log_probs.grad.item() == 0.0


@pytest.mark.parametrize(
    ("correction", "expected"),
    [
        ("none", [1.0, 1.0, 1.0, 1.0]),
        ("truncated", [0.25, 0.8, 1.5, 2.0]),
        ("masked", [0.0, 0.8, 1.5, 0.0]),
    ],
)
def test_importance_weights(correction, expected):
    old = torch.tensor([0.25, 0.8, 1.5, 7.0]).log().requires_grad_()
    weights = importance_weights(old, torch.zeros(4), correction, (0.5, 2.0))
    assert weights.tolist() == pytest.approx(expected)
    assert not weights.requires_grad


def test_weights_at_the_limits_are_kept():
    assert importance_weights(torch.zeros(1), torch.zeros(1), "masked", (1.0, 1.0)).item() == 1.0


def test_an_unknown_correction_is_named():
    with pytest.raises(ValueError, match="clipped"):
        importance_weights(torch.zeros(1), torch.zeros(1), "clipped", (0.5, 2.0))


def test_aggregations_by_their_definitions():
    """The loss of a batch, computed from the sample weights and by each paper's definition."""
    lengths, limit = [2, 5, 3], 10
    generator = torch.Generator().manual_seed(0)
    losses = [torch.randn(n, generator=generator) for n in lengths]
    by_definition = {
        "token": torch.cat(losses).mean(),
        "sequence": torch.stack([loss.mean() for loss in losses]).mean(),
        "constant": torch.stack([loss.sum() / limit for loss in losses]).mean(),
    }
    for aggregation, expected in by_definition.items():
        weights = sample_weights(lengths, [True] * 3, aggregation, limit)
        value = sum(w * loss.sum() for w, loss in zip(weights, losses, strict=True))
        assert value.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("aggregation", ["token", "sequence", "constant"])
def test_samples_left_out_have_no_weight_and_are_not_counted(aggregation):
    with_it = sample_weights([2, 99, 3], [True, False, True], aggregation, 10)
    without = sample_weights([2, 3], [True, True], aggregation, 10)
    assert with_it == [without[0], 0.0, without[1]]
    assert sample_weights([4], [False], aggregation, 10) == [0.0]


def test_a_weight_that_overflows_is_masked():
    weights = importance_weights(torch.tensor([-1.0]), torch.tensor([-95.0]), "masked", (0.5, 2.0))
    assert weights.tolist() == [0.0]
