# SPDX-License-Identifier: Apache-2.0
"""Cutting a batch: nothing is lost, nothing exceeds the budget, and padding never counts."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasongrm_nemo.megatron.balance import share
from reasongrm_nemo.megatron.cuts import laid_out, plan_micro_batches
from reasongrm_nemo.megatron.micro_batches import Sample, collate

lengths = st.lists(st.integers(2, 500), max_size=40)


@given(lengths, st.integers(1, 1000))
def test_plan_uses_each_sequence_once_within_the_budget(lengths, budget):
    groups = plan_micro_batches(lengths, budget)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[i] for i in group) <= budget


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


def test_scored_positions_are_those_of_the_mask():
    """In the memory order of hidden states: position by position, row by row."""
    batch = collate([Sample((5, 6, 7, 8, 9), 3), Sample((9, 3), 1)], [0, 1], multiple=3)
    assert sorted(batch.scored.tolist()) == batch.mask.t().flatten().nonzero().flatten().tolist()


def test_every_row_of_a_micro_batch_is_as_long_as_its_longest():
    assert laid_out([10, 10, 10], plan_micro_batches([10, 10, 10], 20)) == 30
    assert laid_out([10, 5], [[0, 1]]) == 20


@given(st.lists(st.integers(2, 60), min_size=1, max_size=9), st.integers(60, 200))
def test_no_other_cut_of_the_sorted_lengths_has_less_padding_and_fewer_micro_batches(lengths, budget):
    """Compared with every possible cut."""
    ordered = sorted(lengths, reverse=True)
    groups = plan_micro_batches(lengths, budget)
    ours = laid_out(lengths, groups)
    for cuts in itertools.product((False, True), repeat=len(ordered) - 1):
        edges = [0, *(i for i, yes in enumerate(cuts, 1) if yes), len(ordered)]
        other = [list(range(a, b)) for a, b in itertools.pairwise(edges)]
        if all(len(g) == 1 or len(g) * ordered[g[0]] <= budget for g in other):
            assert not (laid_out(ordered, other) < ours and len(other) <= len(groups))


def test_a_further_micro_batch_costs_a_quarter_of_the_mean_length():
    assert plan_micro_batches([10, 9], 100) == [[0, 1]]  # 1 token of padding against 2.4
    assert plan_micro_batches([10, 9, 9, 9], 100) == [[0], [1, 2, 3]]  # 3 tokens against 2.3


@pytest.mark.parametrize("ranks", [1, 4])
@pytest.mark.parametrize("seed", range(5))
def test_little_is_padded_at_realistic_lengths(seed, ranks):
    """A step of 256 sequences of 200 to 57,344 tokens, micro-batches of 65,536."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.lognormal(np.log(4000), 1.0, 256), 200, 57344).astype(int).tolist()
    real = padded = 0
    for indices in share(lengths, ranks):
        mine = [lengths[i] for i in indices]
        real, padded = real + sum(mine), padded + laid_out(mine, plan_micro_batches(mine, 65536))
    assert real / padded >= 0.95
