# SPDX-License-Identifier: Apache-2.0
"""Cutting a batch: nothing lost, nothing over budget, and what is padding never counts."""

from hypothesis import given
from hypothesis import strategies as st

from reasongrm_nemo.megatron.micro_batches import Sample, collate, padding_share, plan, share

lengths = st.lists(st.integers(2, 500), max_size=40)


@given(lengths, st.integers(1, 1000))
def test_plan_uses_each_sequence_once_within_the_budget(lengths, budget):
    groups = plan(lengths, budget)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[i] for i in group) <= budget


@given(lengths, st.integers(1, 5))
def test_ranks_share_everything_between_them(lengths, size):
    shares = [share(lengths, rank, size) for rank in range(size)]
    assert sorted(i for mine in shares for i in mine) == list(range(len(lengths)))
    counts = [len(mine) for mine in shares]
    assert max(counts) - min(counts) <= 1


def test_shares_are_balanced_by_length():
    lengths = [100, 99, 98, 97, 4, 3, 2, 1]
    totals = [sum(lengths[i] for i in share(lengths, rank, 2)) for rank in range(2)]
    assert abs(totals[0] - totals[1]) <= 4


def test_collate_scores_the_response_only():
    samples = [
        Sample((5, 6, 7, 8), 2, 0.5, {"rollout": (-1.0, -2.0)}),
        Sample((9, 3), 1, -1.0, {"rollout": (-3.0,)}),
    ]
    batch = collate(samples, [0, 1], multiple=4)
    assert batch.tokens.tolist() == [[5, 6, 7, 0], [9, 0, 0, 0]]
    assert batch.targets.tolist() == [[6, 7, 8, 0], [3, 0, 0, 0]]
    assert batch.mask.tolist() == [[0, 1, 1, 0], [1, 0, 0, 0]]
    assert batch.per_token["rollout"].tolist() == [[0, -1, -2, 0], [-3, 0, 0, 0]]
    assert batch.advantages.tolist() == [[0.5], [-1.0]]


def test_padding_share_of_equal_lengths_is_zero():
    assert padding_share([10, 10, 10], plan([10, 10, 10], 20)) == 0.0
    assert padding_share([10, 5], [[0, 1]]) == 0.25
