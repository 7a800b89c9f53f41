# SPDX-License-Identifier: Apache-2.0
"""Reading preference pairs and making tasks from them."""

import gzip
import json
import random
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasongrm_nemo.data import rows as rows_module
from reasongrm_nemo.data.pairs import content_id
from reasongrm_nemo.data.problems import DROP_REASONS
from reasongrm_nemo.data.records import PreferencePair
from reasongrm_nemo.data.rows import read_rows
from reasongrm_nemo.data.sources import read_pairs
from reasongrm_nemo.data.tasks import make_tasks, prompt_key, split_pairs
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.judge import load_template


def turn(role, content):
    return {"role": role, "content": content}


def row(question="q", chosen="good", rejected="bad", source="s"):
    start = [turn("user", question)]
    return {
        "chosen": [*start, turn("assistant", chosen)],
        "rejected": [*start, turn("assistant", rejected)],
        "source": source,
    }


def write_lines(path, rows):
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return path


def test_the_papers_format(tmp_path):
    turns = [turn("system", "be kind"), turn("user", "a"), turn("assistant", "b"), turn("user", "c")]
    multi = {
        "chosen": [*turns, turn("assistant", " yes ")],
        "rejected": [*turns, turn("assistant", "no")],
        "source": "multi",
        "agreement": 3,
    }
    loaded = read_pairs(write_lines(tmp_path / "prefs.jsonl", [row(), multi]))
    assert loaded.read == 2
    assert not loaded.drops
    first, second = loaded.pairs
    assert (first.source, first.prompt, first.chosen, first.rejected) == (
        "s", [turn("user", "q")], "good", "bad",
    )  # fmt: skip
    assert (second.source, second.prompt, second.chosen) == ("multi", turns, " yes ")
    assert first.id != second.id
    assert first.id == content_id(first.prompt, "good", "bad")


def test_plain_records_and_bare_prompts(tmp_path):
    pair = PreferencePair("mine", "s", [turn("user", "q")], "good", "bad")
    bare = {"prompt": "other", "chosen": "good", "rejected": "bad"}
    loaded = read_pairs(write_lines(tmp_path / "plain.jsonl", [pair.to_dict(), bare]))
    assert loaded.pairs[0] == pair
    assert loaded.pairs[1].prompt == [turn("user", "other")]
    assert loaded.pairs[1].source == "plain"


def test_every_form_of_file_gives_the_same_pairs(tmp_path):
    rows = [row(f"question {index} \u2028 ü", "good", "bad") for index in range(5)]
    write_lines(tmp_path / "a.jsonl", rows)
    (tmp_path / "b.json").write_text("\ufeff" + json.dumps(rows, indent=1))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "c.parquet")
    (tmp_path / "d.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    (tmp_path / "e.json.gz").write_bytes(gzip.compress((tmp_path / "b.json").read_bytes()))
    (tmp_path / "f.jsonl").write_text(json.dumps(rows))  # an array in a file named .jsonl
    write_lines(tmp_path / "g.json", rows)  # and lines in a file named .json
    (tmp_path / "h.jsonl").write_bytes((tmp_path / "a.jsonl").read_bytes().replace(b"\n", b"\r\n\r\n"))
    expected = read_pairs(tmp_path / "a.jsonl").pairs
    assert len(expected) == 5
    for name in ("b.json", "c.parquet", "d.jsonl.gz", "e.json.gz", "f.jsonl", "g.json", "h.jsonl"):
        assert read_pairs(tmp_path / name).pairs == expected, name
    for plain in ("a.jsonl", "b.json"):
        with pa.output_stream(str(tmp_path / f"{plain}.zst"), compression="zstd") as file:
            file.write((tmp_path / plain).read_bytes())
        assert read_pairs(tmp_path / f"{plain}.zst").pairs == expected
    (tmp_path / "notes.txt").write_text("not data")
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / ".cache").mkdir()
    for folder in ("er", ".cache"):
        write_lines(tmp_path / "deep" / folder / "z.jsonl", rows)
    loaded = read_pairs(tmp_path)
    assert loaded.pairs == expected
    assert loaded.drops == {"duplicate": 50}


def test_dropped_rows_are_counted_with_their_lines(tmp_path):
    good = row()
    rows = [
        '{"chosen": [',
        good,
        "also broken",
        "[1, 2]",
        "7",
        {"chosen": "a"},
        {**good, "rejected": "text"},
        {**good, "rejected": [turn("user", "q"), {"role": "assistant", "content": None}]},
        {**good, "rejected": ["x"]},
        {"prompt": 3, "chosen": "a", "rejected": "b"},
        {**good, "rejected": [turn("narrator", "q"), turn("assistant", "x")]},
        row(chosen="\ud800"),
        row(question=" \n"),
        {"chosen": [turn("user", "q")], "rejected": [turn("user", "q")]},
        {"prompt": [turn("user", "q"), turn("assistant", "c")], "chosen": "a", "rejected": "b"},
        {"chosen": [], "rejected": []},
        {**good, "rejected": row("other")["rejected"]},
        {"chosen": [turn("assistant", "a")], "rejected": [turn("assistant", "b")]},
        {**good, "rejected": [*good["chosen"], turn("user", "more"), turn("assistant", "x")]},
        row(rejected=" "),
        row("same", "x", "x \n"),
        good,
        row("disputed", "one", "two"),
        row("disputed", "two", "one"),
        row("disputed", "one", "two "),
    ]
    loaded = read_pairs(write_lines(tmp_path / "p.jsonl", rows))
    assert len(loaded.pairs) == 1
    assert loaded.drops == {
        "broken_line": 2,
        "wrong_type": 6,
        "unknown_form": 1,
        "unknown_role": 1,
        "bad_text": 1,
        "empty_prompt": 1,
        "no_assistant_turn": 3,
        "no_shared_prompt": 2,
        "early_fork": 1,
        "empty_answer": 1,
        "identical_answers": 1,
        "duplicate": 1,
        "contradiction": 3,
    }
    assert set(loaded.drops) <= set(DROP_REASONS)
    assert loaded.read == len(loaded.pairs) + sum(loaded.drops.values())
    assert loaded.examples["broken_line"] == [f"{tmp_path}/p.jsonl:{line}" for line in (1, 3)]
    assert len(loaded.examples["wrong_type"]) == 3


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", b"", "is empty"),
        ("a.jsonl", b" \n\n", "is empty"),
        ("a.json", b"[]", "empty list"),
        ("a.json", b'[{"a": 1}, ', "not valid JSON"),
        ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\noid x\n", "no line of the file is JSON"),
        ("a.jsonl", "[{}".encode("utf-16"), "no line of the file is JSON"),
        ("a.jsonl", b"PAR1\x00\xff", "no line of the file is JSON"),
        ("a.jsonl", b"[" * 100_000, "no line of the file is JSON"),
        ("a.parquet", b"{}", "not readable as Parquet"),
        ("a.jsonl.gz", b"{}", "damaged data"),
        ("a.jsonl.zst", b"{}", "damaged data"),
        ("a.xls", b"x", "unknown kind of file"),
        ("a.jsonl", b"{}\n", "none of the 1 rows is a preference pair"),
    ],
)
def test_a_file_without_usable_rows_is_refused(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=says):
        read_pairs(tmp_path / name)


@settings(deadline=None)
@given(
    st.lists(st.recursive(st.none() | st.integers() | st.floats(allow_nan=False) | st.text(), st.lists)),
    st.data(),
)
def test_an_array_is_read_piece_by_piece_as_json_reads_it(tmp_path_factory, rows, data):
    path = tmp_path_factory.mktemp("array") / data.draw(st.sampled_from(["a.json", "a.jsonl"]))
    text = json.dumps(
        rows, indent=data.draw(st.none() | st.integers(0, 3)), ensure_ascii=data.draw(st.booleans())
    )
    raw = text.encode("utf-8", "surrogatepass")
    path.write_bytes(raw)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "PIECE_CHARS", data.draw(st.integers(1, 9)))
        if not rows:
            with pytest.raises(UserError, match="holds an empty list"):
                list(read_rows(path))
            return
        assert list(read_rows(path)) == [(f"{path}[{n}]", row) for n, row in enumerate(rows)]
        if path.name == "a.json":
            path.write_bytes(raw[: data.draw(st.integers(1, len(raw) - 1))])
            with pytest.raises(UserError, match="not valid JSON"):
                list(read_rows(path))
            path.write_bytes(raw + b" ]")
            with pytest.raises(UserError, match="data after the end of the list"):
                list(read_rows(path))


def test_an_array_is_not_held_in_memory_whole(tmp_path):
    item = row("q" * 2000)
    (tmp_path / "big.json").write_text(json.dumps([item] * 10_000))  # 40 MB
    tracemalloc.start()
    count = sum(1 for _ in read_rows(tmp_path / "big.json"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 10_000
    assert peak < 16e6  # a few pieces of 1 MiB


def test_missing_files_damaged_files_and_empty_folders(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_pairs(tmp_path / "none.jsonl")
    with pytest.raises(UserError, match="the folder has no file"):
        read_pairs(tmp_path)
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"chosen": pa.array([], pa.string())}), path)
    with pytest.raises(UserError, match="no rows"):
        read_pairs(path)
    packed = tmp_path / "a.jsonl.gz"
    lines = "".join(json.dumps(row(str(random.Random(i).random()))) + "\n" for i in range(500))
    packed.write_bytes(gzip.compress(lines.encode())[:-100])
    with pytest.raises(UserError, match="damaged data"):
        read_pairs(packed)


def test_an_id_shared_by_pairs_is_replaced(tmp_path):
    rows = [{"id": "x", "prompt": "q", "chosen": c, "rejected": "bad"} for c in ("one", "two")]
    forward = read_pairs(write_lines(tmp_path / "p.jsonl", rows)).pairs
    backward = read_pairs(write_lines(tmp_path / "p.jsonl", rows[::-1])).pairs
    assert len({pair.id for pair in forward}) == 2
    assert forward == backward[::-1]


PAIRS = [
    PreferencePair(f"p{i}", "s", [turn("user", f"q{i // 2}")], f"good{i}", f"bad{i}") for i in range(400)
]
TINY = load_template("tiny")


def test_tasks_show_the_answers_in_a_seeded_order():
    tasks = list(make_tasks(PAIRS, 7, TINY))
    shuffled = list(PAIRS)
    random.Random(0).shuffle(shuffled)
    assert {task.id: task for task in make_tasks(shuffled, 7, TINY)} == {task.id: task for task in tasks}
    assert [task.label for task in make_tasks(PAIRS, 8, TINY)] != [task.label for task in tasks]
    assert 150 < sum(task.label == "A" for task in tasks) < 250
    for pair, task in zip(PAIRS, tasks, strict=True):
        text = task.messages[0]["content"]
        first = pair.chosen if task.label == "A" else pair.rejected
        assert text.index(first) == min(text.index(pair.chosen), text.index(pair.rejected))
        assert (task.pair_id, task.source) == (pair.id, "s")
        type(task).from_dict(task.to_dict())


def test_both_orders_give_two_tasks_per_pair():
    tasks = list(make_tasks(PAIRS, 7, TINY, both_orders=True))
    assert len({task.id for task in tasks}) == len(tasks) == 800
    assert {task.pair_id: {t.label for t in tasks if t.pair_id == task.pair_id} for task in tasks[:20]} == {
        task.pair_id: {"A", "B"} for task in tasks[:20]
    }
    assert tasks[::2] == list(make_tasks(PAIRS, 7, TINY))


def test_the_split_keeps_prompts_together_and_is_stable():
    train, validation = split_pairs(PAIRS, 0.25, 3)
    assert len(train) + len(validation) == 400
    assert 60 < len(validation) < 140
    assert not {prompt_key(p.prompt) for p in train} & {prompt_key(p.prompt) for p in validation}
    assert split_pairs(PAIRS[:100][::-1], 0.25, 3)[1] == [p for p in PAIRS[:100][::-1] if p in validation]
    assert split_pairs(PAIRS, 0.0, 3) == (PAIRS, [])
    assert {p.id for p in split_pairs(PAIRS, 0.1, 3)[1]} <= {p.id for p in validation}
    assert prompt_key([turn("user", " A  b\n")]) == prompt_key([turn("user", "a B")])
    for wrong in (1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match="fraction"):
            split_pairs(PAIRS, wrong, 3)


@given(st.text(), st.text(), st.text(min_size=1))
def test_content_ids_separate_their_parts(prompt, a, b):
    turns = [turn("user", prompt)]
    assert content_id(turns, a, b) != content_id(turns, a + b, "")
