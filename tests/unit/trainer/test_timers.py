# SPDX-License-Identifier: Apache-2.0
"""Seconds by name, on a clock that the test sets."""

import itertools

import pytest

from reasongrm_nemo.megatron import timers as module
from reasongrm_nemo.megatron.timers import Timers


@pytest.fixture
def timers(monkeypatch):
    ticks = itertools.count(0.0, 1.5)
    monkeypatch.setattr(module.time, "monotonic", lambda: next(ticks))
    return Timers()


def test_adds_up_by_name_until_taken(timers):
    for name in ("forward_backward", "optimizer", "forward_backward"):
        with timers(name):
            pass
    assert timers.take() == {"forward_backward_s": 3.0, "optimizer_s": 1.5}
    assert timers.take() == {}


def test_a_failing_block_is_timed_too(timers):
    with pytest.raises(OSError), timers("checkpoint"):
        raise OSError
    assert timers.take() == {"checkpoint_s": 1.5}
