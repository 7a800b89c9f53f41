# SPDX-License-Identifier: Apache-2.0
"""GRPO's loss against numbers worked out by hand."""

import math

import pytest
import torch

from reasongrm_nemo.grpo.loss import clipped_surrogate, kl_estimate


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped"),
    [
        (1.0, 2.0, -2.0, False),
        (1.5, 2.0, -2.4, True),  # past 1 + 0.2: no more reward for going further
        (0.5, 2.0, -1.0, False),  # the smaller term is the plain one
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
