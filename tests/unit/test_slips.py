# SPDX-License-Identifier: Apache-2.0
"""Slips on the command line: an empty argument, a file instead of a folder, a range the wrong way round."""

import pytest
from click.testing import CliRunner
from fake_pool import RECIPES

from reasongrm_nemo.cli import main
from reasongrm_nemo.processes.secret_values import is_secret


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("pipeline", RECIPES, "--from", ""),
            '--from "" is not a stage',
        ),  # from an unset variable: every stage would run
        (("pipeline", RECIPES, "--to", ""), '--to "" is not a stage'),
        (("chain", RECIPES, "--from", ""), '--from "" is not a stage'),
        (("chain", RECIPES, "--from", "5", "--to", "2"), "--from 5 comes after --to 2"),
        (
            ("pipeline", RECIPES / "3_filter.yaml"),
            "3_filter.yaml is a file; give the folder that its pipeline's",
        ),
        (("show", __file__), "is a file; give the folder of its artefact"),
        (("status", __file__), "is a file; give the runs folder"),
        (("preflight", RECIPES / "3_filter.yaml", "--dry-run", "--job-nodes", "0"), "0 is not in the range"),
    ],
)
def test_a_slip_is_refused(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = CliRunner().invoke(main, list(map(str, words)))
    assert told.exit_code == 2 and said in told.stderr, told.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["AUTH", "BEARER", "PGPASS"])
def test_a_name_of_one_word_may_be_secret(name):
    assert is_secret(name, "a value of some length") and not is_secret(f"{name}ORITY_NAME", "a value")
