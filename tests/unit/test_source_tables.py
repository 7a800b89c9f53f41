# SPDX-License-Identifier: Apache-2.0
"""CSV and TSV files as preference sources."""

import csv
import gzip
import io
import json

import pyarrow as pa
import pytest

from reasongrm_nemo.data import read_pairs
from reasongrm_nemo.data.rows import BrokenRow, read_rows
from reasongrm_nemo.errors import UserError

HEADER = ["", "prompt", "chosen", "rejected"]
ROWS = [
    ["0", "Which sea?", 'It is "the one",\nas you say.', "none"],
    ["1", "[1, 2]", '{"a": 1}', "[[B]] ü \u2028 x"],
]


def table(separator=",", rows=ROWS, header=HEADER):
    text = io.StringIO()
    csv.writer(text, delimiter=separator).writerows([header, *rows])
    return text.getvalue()


@pytest.mark.parametrize("kind", ["csv", "tsv", "csv.gz", "tsv.zst", "semicolons.csv", "bom.csv"])
def test_a_table_gives_the_same_pairs_as_its_rows_in_json(kind, tmp_path):
    raw = table("\t" if kind.startswith("tsv") else ";" if kind.startswith("semi") else ",").encode()
    raw = b"\xef\xbb\xbf" + raw if kind == "bom.csv" else raw
    path = tmp_path / f"rows.{kind}"
    if kind.endswith(".zst"):
        with pa.output_stream(str(path), compression="zstd") as file:
            file.write(raw)
    else:
        path.write_bytes(gzip.compress(raw) if kind.endswith(".gz") else raw)
    plain = tmp_path / "rows.jsonl"
    plain.write_text("".join(json.dumps(dict(zip(HEADER[1:], row[1:], strict=True))) + "\n" for row in ROWS))
    assert read_pairs(path).pairs == read_pairs(plain).pairs


def test_locations_are_lines_and_a_broken_row_affects_no_other(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes(table().encode() + b"2,\xff,a,b\r\n\r\n3,only,three\r\n4,q,a,b\r\n")
    rows = list(read_rows(path))
    assert [where.rpartition(":")[2] for where, _ in rows] == ["2", "4", "5", "7", "8"]
    assert [row.problem for _, row in rows if isinstance(row, BrokenRow)] == [
        "not UTF-8",
        "3 cells under a header of 4",
    ]
    loaded = read_pairs(path)
    assert len(loaded.pairs) == 3 and loaded.drops == {"broken_line": 2}


@pytest.mark.parametrize("spelled", [json.dumps, repr])
def test_conversations_within_cells(spelled, tmp_path):
    turns = [
        [{"role": "user", "content": "it's"}, {"role": "assistant", "content": text}] for text in ("x", "y")
    ]
    (tmp_path / "rows.csv").write_text(
        table(rows=[[spelled(turn) for turn in turns]], header=["chosen", "rejected"])
    )
    (pair,) = read_pairs(tmp_path / "rows.csv").pairs
    assert (pair.prompt, pair.chosen, pair.rejected) == (turns[0][:1], "x", "y")


def test_labels_are_text_in_a_table(tmp_path):
    rows = [["q1", "x", "y", "0"], ["q2", "x", "y", "1"], ["q3", "x", "y", ""]]
    (tmp_path / "rows.csv").write_text(table(rows=rows, header=["question", "answer_a", "answer_b", "label"]))
    loaded = read_pairs(tmp_path / "rows.csv")
    assert [pair.chosen for pair in loaded.pairs] == ["x", "y"] and loaded.drops == {"no_label": 1}


def test_a_long_cell_is_read(tmp_path):
    (tmp_path / "rows.csv").write_text(table(rows=[["0", "q", "x" * 300_000, "y"]]))
    assert len(read_pairs(tmp_path / "rows.csv").pairs[0].chosen) == 300_000


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "is empty"),
        (b"\r\n \r\n", "is empty"),
        (b"prompt,chosen,rejected\n", "a header and no rows"),
        (b"prompt,prompt\na,b\n", "must name each column once"),
        ("prompt,chosen\na,b\n".encode("utf-16"), "UTF-16; save it as UTF-8"),
        (b"prompt,chosen,winner\na,b,c\n", r"rows.csv:2 has the fields prompt .text., chosen .text., winner"),
    ],
)
def test_a_table_without_rows_is_refused(raw, says, tmp_path):
    (tmp_path / "rows.csv").write_bytes(raw)
    with pytest.raises(UserError, match=says):
        read_pairs(tmp_path / "rows.csv")
