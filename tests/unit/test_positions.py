# SPDX-License-Identifier: Apache-2.0
"""Position bias and consistency between the two orders of a pair."""

from __future__ import annotations

import random

import pytest

from reasongrm_nemo.evaluation.positions import Positions

FIRST, SECOND = "chosen_first", "rejected_first"


def position_figures(judgements):
    positions = Positions()
    for pair, order, verdict in judgements:
        positions.add(pair, order, verdict)
    return positions.figures()


def shares(figures):
    return {
        name: figures["both"][name]["value"]
        for name in ("consistent", "always_first", "always_second", "unread")
    }


def test_every_kind_of_pair_is_counted():
    figures = position_figures(
        [
            *[("right", FIRST, "A"), ("right", SECOND, "B")],
            *[("wrong", FIRST, "B"), ("wrong", SECOND, "A")],
            *[("first", FIRST, "A"), ("first", SECOND, "A")],
            *[("second", FIRST, "B"), ("second", SECOND, "B")],
            *[("mute", FIRST, None), ("mute", SECOND, "B")],
            ("single", FIRST, "A"),
        ]
    )
    assert figures["both"]["pairs"] == 5
    assert shares(figures) == pytest.approx(
        {"consistent": 0.4, "always_first": 0.2, "always_second": 0.2, "unread": 0.2}
    )
    assert figures["position_a"]["value"] == pytest.approx(5 / 10)
    assert figures["chosen_first"]["value"] == pytest.approx(3 / 6)
    assert figures["rejected_first"]["value"] == pytest.approx(3 / 5)


def test_with_several_samples_every_combination_across_the_two_orders_counts():
    rng = random.Random(0)
    one = [rng.choice(["A", "B", None]) for _ in range(5)]
    two = [rng.choice(["A", "B", None]) for _ in range(7)]
    figures = position_figures([("p", FIRST, v) for v in one] + [("p", SECOND, v) for v in two])
    pairs = [(x, y) for x in one for y in two]
    assert shares(figures) == pytest.approx(
        {
            "consistent": sum({x, y} == {"A", "B"} for x, y in pairs) / 35,
            "always_first": sum((x, y) == ("A", "A") for x, y in pairs) / 35,
            "always_second": sum((x, y) == ("B", "B") for x, y in pairs) / 35,
            "unread": sum(None in (x, y) for x, y in pairs) / 35,
        }
    )


def test_without_pairs_in_both_orders_the_shares_are_unknown_not_zero():
    figures = position_figures([("a", FIRST, "A"), ("b", SECOND, None)])
    assert figures["both"]["pairs"] == 0
    assert figures["both"]["consistent"]["value"] is None
    assert figures["rejected_first"]["value"] == 0.0
