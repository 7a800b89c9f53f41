# SPDX-License-Identifier: Apache-2.0
"""A pipeline's time, against schedules drawn by hand and lower bounds from dependent passes."""

import random

import pytest

from reasongrm_nemo.plan.schedule import seconds


def same(batches, stages):
    return [list(stages)] * batches


@pytest.mark.parametrize("batches", [1, 2, 5])
def test_one_stage_never_waits(batches):
    assert seconds(same(batches, [2.0]), same(batches, [3.0])) == 5.0 * batches


@pytest.mark.parametrize(("stages", "batches"), [(2, 1), (2, 8), (4, 1), (4, 3), (4, 8), (8, 64)])
def test_equal_stages_fill_and_drain(stages, batches):
    took = seconds(same(batches, [1.0] * stages), same(batches, [3.0] * stages))
    assert took == 4.0 * (batches + stages - 1)


@pytest.mark.parametrize("batches", [1, 2, 4, 9])
def test_a_last_stage_that_is_slowest_never_waits_once_it_has_work(batches):
    forward, backward = [1.0, 1.0, 1.5], [3.0, 3.0, 4.5]
    assert seconds(same(batches, forward), same(batches, backward)) == 2 * (1.0 + 3.0) + batches * 6.0


def test_two_stages_by_hand():
    """Two stages, three micro-batches; the first stage is slow.

    Stage 0: F0 0-4, F1 4-8, B0 8-12, F2 12-16, B1 16-20, B2 20-24: B0 is ready at 6 and waits for F1, since
    one forward pass more than a backward is in flight; B2 is ready at 18.
    Stage 1: F0 4-5, B0 5-6, F1 8-9, B1 9-10, F2 16-17, B2 17-18.
    """
    assert seconds(same(3, [4.0, 1.0]), same(3, [4.0, 1.0])) == 24.0


def test_micro_batches_of_different_sizes_by_hand():
    """Stage 0: F0 0-3, F1 3-4, B0 10-14, B1 14-15; stage 1: F0 3-6, B0 6-10, F1 10-11, B1 11-12."""
    assert seconds([[3.0, 3.0], [1.0, 1.0]], [[4.0, 4.0], [1.0, 1.0]]) == 15.0


def test_forward_passes_alone():
    assert seconds(same(5, [1.0, 2.0, 1.0])) == 1.0 + 5 * 2.0 + 1.0
    assert seconds([[3.0, 3.0], [1.0, 1.0]]) == 7.0


def test_the_time_is_never_shorter_than_any_chain_of_passes():
    draw = random.Random(0)
    for _ in range(200):
        batches, stages = draw.randint(1, 9), draw.randint(1, 6)
        forward, backward = (
            [[draw.uniform(0.1, 2) for _ in range(stages)] for _ in range(batches)] for _ in range(2)
        )
        took = seconds(forward, backward)
        both = [[f + b for f, b in zip(*pair, strict=True)] for pair in zip(forward, backward, strict=True)]
        through = max(sum(batch) for batch in both)
        busiest = max(sum(batch[stage] for batch in both) for stage in range(stages))
        assert max(through, busiest) - 1e-9 <= took <= sum(map(sum, both)) + 1e-9
