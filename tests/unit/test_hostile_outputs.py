# SPDX-License-Identifier: Apache-2.0
"""Every row of the table in docs/hostile_outputs.md."""

import json
import re
from pathlib import Path

import pytest

from reasongrm_nemo.data.records import Verdict
from reasongrm_nemo.evaluation.outcomes import outcome
from reasongrm_nemo.evaluation.policies import SCORING_RULES
from reasongrm_nemo.judge import Parsed, parse_verdict

TABLE = Path(__file__).parents[2] / "docs" / "hostile_outputs.md"
PIECE = re.compile(r"`([^`]*)`(?: × ([\d,]+))?")
SURROUNDINGS = [(before, after) for before in ("", "\n", "\ufeff") for after in ("", "\n", " .")]


def read_table():
    lines = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    head, *rows = ([cell.strip() for cell in line.strip("|").split(" | ")] for line in lines)
    policies = [name.strip("`") for name in head[2:]]
    for name, output, *expected in rows:
        pieces = PIECE.findall(output)
        text = "".join(json.loads(piece) * int((times or "1").replace(",", "")) for piece, times in pieces)
        yield pytest.param(text, dict(zip(policies, expected, strict=True)), id=name)


ROWS = list(read_table())


def test_there_are_500_outputs_and_a_column_for_each_policy():
    assert len(ROWS) * len(SURROUNDINGS) >= 500
    assert {tuple(row.values[1]) for row in ROWS} == {tuple(SCORING_RULES)}
    seen = {status for row in ROWS for status in row.values[1].values()}
    assert seen == {"A", "B", "unfinished", "no_verdict", "conflicting", "no_think_close"}
    assert max(len(row.values[0]) for row in ROWS) > 180_000


@pytest.mark.parametrize(("text", "expected"), ROWS)
def test_each_policy_reads_what_the_table_says(text, expected):
    for name, policy in SCORING_RULES.items():
        said = expected[name] if expected[name] in ("A", "B") else None
        unread = 0.5 if name == "rewardbench" else 0.0
        for before, after in SURROUNDINGS:
            whole = before + text + after
            assert parse_verdict(whole, policy.parser or "last") == Parsed(
                said, "ok" if said else expected[name]
            )
            for order, label in (("chosen_first", "A"), ("rejected_first", "B")):
                row = Verdict("rmb", "s", "i", None, order, None, False, False, "no_verdict", 0, whole)
                credit, right, status = outcome(row, policy)
                assert credit == (float(said == label) if said else unread), (name, before, after)
                assert right == (said == label)
                assert status == (("ok" if said else expected[name]) if whole else "no_verdict")
