# SPDX-License-Identifier: Apache-2.0
"""SFT's batches are the same for any number of ranks, and every rank's share costs the same."""

import itertools

import pytest
from omegaconf import OmegaConf

from reasongrm_nemo.sft.data import SeededBatchSampler
from reasongrm_nemo.sft.steps import epoch_steps, step_count

COSTS = [float(1 + index * 7 % 40) for index in range(50)]


def batches(rank, ranks, done=0, count=10):
    sampler = SeededBatchSampler(COSTS, done, 12, rank, ranks, seed=3, shuffle=True)
    passes = itertools.chain.from_iterable(itertools.repeat(sampler))
    return list(itertools.islice(passes, count))


def test_an_epoch_uses_every_example_once_and_its_last_batch_the_remainder():
    first, second = batches(0, 1)[:5], batches(0, 1)[5:]
    assert [len(batch) for batch in first] == [12, 12, 12, 12, 2]
    assert sorted(itertools.chain(*first)) == sorted(itertools.chain(*second)) == list(range(50))
    assert first != second


@pytest.mark.parametrize("ranks", [2, 3, 5, 8])
def test_any_number_of_ranks_shares_the_batches_of_one_rank(ranks):
    shares = [batches(rank, ranks) for rank in range(ranks)]
    for whole, *parts in zip(batches(0, 1), *shares, strict=True):
        assert sorted(itertools.chain(*parts)) == sorted(whole)
        loads = [sum(COSTS[index] for index in part) for part in parts]
        assert max(loads) - min(loads) <= max(COSTS[index] for index in whole)


@pytest.mark.parametrize("done", [3, 5, 7])
def test_a_resumed_run_continues_with_the_next_batch_at_another_number_of_ranks(done):
    shares = [batches(rank, 2, done, 10 - done) for rank in range(2)]
    resumed = [sorted(a + b) for a, b in zip(*shares, strict=True)]
    assert resumed == [sorted(batch) for batch in batches(0, 1)[done:]]


@pytest.mark.parametrize(
    ("examples", "size", "of_epoch"), [(7, 4, 2), (8, 4, 2), (3, 4, 1), (4, 4, 1), (1, 256, 1), (257, 256, 2)]
)
def test_the_steps_of_a_run(examples, size, of_epoch):
    assert epoch_steps(examples, size) == of_epoch
    assert step_count(examples, OmegaConf.create({"batch_size": size, "epochs": 3})) == 3 * of_epoch
