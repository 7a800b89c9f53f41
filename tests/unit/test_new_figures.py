# SPDX-License-Identifier: Apache-2.0
"""Following a training run's metrics as they are appended: every line is read once."""

import json
import os

import pytest

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.figures import NewFigures


def lines(*steps):
    return "".join(json.dumps({"step": step}) + "\n" for step in steps)


def append(path, text):
    with path.open("a") as file:
        file.write(text)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "metrics.jsonl"


def test_lines_that_already_exist_are_skipped(file):
    file.write_text(lines(1, 2))
    figures = NewFigures(file)
    assert figures.read() == []
    append(file, lines(3, 4))
    assert figures.read() == [{"step": 3}, {"step": 4}]
    assert figures.read() == []


def test_a_file_that_is_created_later(file):
    figures = NewFigures(file)
    assert figures.read() == []
    file.write_text(lines(1))
    assert figures.read() == []  # written by a resumed run: the metrics up to its checkpoint
    append(file, lines(2))
    assert figures.read() == [{"step": 2}]


def test_an_incomplete_line_is_read_once_it_is_complete(file):
    file.write_text(lines(1))
    figures = NewFigures(file)
    append(file, lines(2)[:4])
    assert figures.read() == []
    append(file, lines(2)[4:])
    assert figures.read() == [{"step": 2}]


def test_a_rewritten_file_is_followed_from_its_end(file, tmp_path):
    file.write_text(lines(1, 2, 3))
    figures = NewFigures(file)
    (tmp_path / "new").write_text(lines(1, 2))
    os.replace(tmp_path / "new", file)
    assert figures.read() == []
    append(file, lines(3))
    assert figures.read() == [{"step": 3}]


def test_old_lines_are_not_read_again(file):
    """Otherwise a run of 10,000 steps would parse 25 MB several times a second; the test spoils old lines."""
    file.write_text(lines(*range(100)))
    figures = NewFigures(file)
    with file.open("r+") as spoilt:
        spoilt.write("no json")
    append(file, lines(100))
    assert figures.read() == [{"step": 100}]


def test_a_malformed_line_is_one_sentence(file):
    file.write_text(lines(1))
    figures = NewFigures(file)
    append(file, '{"loss": 1}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl:2: step is missing"):
        figures.read()
