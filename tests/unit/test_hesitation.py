# SPDX-License-Identifier: Apache-2.0
"""Hesitation markers in a path are counted as the regular expression would."""

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reasongrm_nemo.rstar import (
    HesitationCounter,
    count_hesitations,
    hesitation,
)
from reasongrm_nemo.rstar.hesitation import HESITATION


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("A is right.", 0),
        ("Wait, let me check again. Hmm, wait: actually no.", 5),
        ("the waiter awaits; factually", 0),
        ("I am not entirely sure. On second thought, B. Alternatively", 3),
        ("hmmm let me double-check", 2),
    ],
)
def test_hesitation_markers(text, count):
    assert count_hesitations([text]).tolist() == [count]


MARKERS = [
    "wait",
    "Hmmm",
    "hold on",
    " second thought",
    "let me ",
    "re-check",
    "not",
    "so sure",
    " ",
    "actually",
    "a",
]


@example(["hold on second thought", "caf\u00e9wait", "\ud800 wait"])  # overlapping markers; edges are ASCII
@settings(deadline=None)  # the first case compiles the pattern, which exceeds any limit on a busy machine
@given(st.lists(st.lists(st.sampled_from(MARKERS), max_size=12).map("".join), max_size=3))
def test_hesitations_are_counted_as_the_regular_expression_would(texts):
    pattern = re.compile(HESITATION, re.IGNORECASE | re.ASCII)
    assert count_hesitations(texts).tolist() == [len(pattern.findall(text)) for text in texts]


def test_texts_are_counted_in_batches_in_order(monkeypatch):
    monkeypatch.setattr(hesitation, "_BATCH_CHARS", 20)
    texts = ["wait " * (n * n % 7) for n in range(100)]
    with HesitationCounter() as counter:
        for text in texts:
            counter.add(text)
        assert counter.counts().tolist() == [n * n % 7 for n in range(100)]
    with HesitationCounter() as counter:
        assert counter.counts().tolist() == []
