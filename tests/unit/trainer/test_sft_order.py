# SPDX-License-Identifier: Apache-2.0
"""SFT's batches are the same for any number of ranks, and each rank's share costs as much."""

import itertools

import pytest

from reasongrm_nemo.sft.data import SeededBatchSampler

COSTS = [float(1 + index * 7 % 40) for index in range(50)]


def batches(rank, ranks, consumed=0, count=9):
    sampler = SeededBatchSampler(COSTS, consumed, 12, rank, ranks, seed=3, shuffle=True)
    passes = itertools.chain.from_iterable(itertools.repeat(sampler))
    return list(itertools.islice(passes, count))


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share_the_batches_of_one(ranks):
    shares = [batches(rank, ranks) for rank in range(ranks)]
    for whole, *parts in zip(batches(0, 1), *shares, strict=True):
        assert sorted(itertools.chain(*parts)) == sorted(whole)
        loads = [sum(COSTS[index] for index in part) for part in parts]
        assert max(loads) - min(loads) <= 10


def test_a_resumed_run_goes_on_with_the_next_batch_at_another_number_of_ranks():
    shares = [batches(rank, 2, consumed=5 * 12, count=4) for rank in range(2)]
    resumed = [sorted(a + b) for a, b in zip(*shares, strict=True)]
    assert resumed == [sorted(batch) for batch in batches(0, 1)[5:]]
