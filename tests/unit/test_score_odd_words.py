# SPDX-License-Identifier: Apache-2.0
"""Slips in the arguments of `reasongrm score`, or a damaged count in a log, destroy nothing."""

import json

import pytest
from click.testing import CliRunner

from reasongrm_nemo.cli import main

ROW = {
    "benchmark": "rewardbench",
    "subset": "alpacaeval-easy",
    "item_id": "1",
    "cell": None,
    "order": "chosen_first",
    "verdict": "A",
    "correct": True,
    "tie": False,
    "parse_status": "ok",
    "tokens": 12,
    "text": "[[A]]",
    "sample": 0,
}


@pytest.fixture
def score(tmp_path):
    def run(*words, **change):
        log = tmp_path / "v.jsonl"
        log.write_text(json.dumps(ROW | change) + "\n")
        told = CliRunner().invoke(main, ["score", "rewardbench", str(log), "--partial", *map(str, words)])
        assert told.exception is None or isinstance(told.exception, SystemExit), told.exception
        return told

    return run


def test_a_page_is_not_written_over_an_input(score, tmp_path):
    (tmp_path / "link").symlink_to("v.jsonl")
    for page in ("v.jsonl", "link"):
        told = score("--page", tmp_path / page)
        assert (
            told.exit_code == 2
            and "would overwrite an input of this command; name another file" in told.stderr
        )
        assert json.loads((tmp_path / "v.jsonl").read_text()) == ROW
    told = score("--page", tmp_path)
    assert told.exit_code == 2 and f"{tmp_path} is a folder where a file is expected" in told.stderr
    assert not list(tmp_path.parent.glob("*.tmp"))
    assert score("--page", tmp_path / "new" / "page.md").exit_code == 0


@pytest.mark.parametrize("name", ["tokens", "sample", "prompt_tokens"])
def test_a_negative_count_is_refused(score, name):
    assert score("--details").exit_code == 0
    told = score("--details", **{name: -5})
    assert told.exit_code == 2 and f"v.jsonl:1: {name} is -5; it cannot be below 0" in told.stderr
