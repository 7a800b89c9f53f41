# SPDX-License-Identifier: Apache-2.0
"""Early stopping when validation no longer improves."""

from reasongrm_nemo.megatron.early_stop import EarlyStop


def ends_after(scores, patience):
    stop = EarlyStop(patience)
    for count, score in enumerate(scores, 1):
        stop.note(score)
        if stop.reached():
            return count
    return None


def test_ends_after_a_given_number_of_validations_without_improvement():
    assert ends_after([0.5, 0.6, 0.6, 0.5, 0.9], 2) == 4
    assert ends_after([0.5, 0.6, 0.6, 0.7, 0.6], 2) is None
    assert ends_after([0.5] * 100, 0) is None
    assert ends_after([0.5, 0.5], 1) == 2


def test_continues_counting_after_a_resume():
    first, second = EarlyStop(2), EarlyStop(2)
    first.note(0.5)
    first.note(0.4)
    second.load_state_dict(first.state_dict())
    assert not second.reached()
    second.note(0.5)
    assert second.reached()
