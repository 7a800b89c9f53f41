# SPDX-License-Identifier: Apache-2.0
"""The benchmarks' published files: items are read, or dropped and counted; faulty files are refused."""

import json
import random

import pyarrow.parquet as pq
import pytest
from benchmark_files import WRITERS, rm_bench_rows, write_rewardbench, write_rm_bench, write_rmb

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.evaluation import rewardbench, rm_bench, rmb
from reasongrm_nemo.evaluation.items import REASONS
from reasongrm_nemo.evaluation.published_files import read_items
from reasongrm_nemo.evaluation.tasks import BenchmarkTask, benchmark_tasks, draw_items
from reasongrm_nemo.judge import load_template

TEMPLATE = load_template("tiny")


def tasks_of(benchmark, folder, seed=1, both=False):
    return list(benchmark_tasks(read_items(benchmark, folder).items, seed, TEMPLATE, both, []))


def test_rewardbench_is_read_from_its_filtered_split_in_parquet_or_json(tmp_path):
    folder = write_rewardbench(tmp_path / "rb")
    loaded = read_items("rewardbench", folder)
    assert loaded.read == len(loaded.items) == 46 and not loaded.drops
    assert [file.name for file in loaded.unread_files] == ["raw-00000-of-00001.parquet"]
    assert {item.subset for item in loaded.items} == set(rewardbench.ITEMS)
    first = loaded.items[0]
    assert (first.item_id, list(first.pairs)) == ("0", [None])
    rows = pq.read_table(loaded.files[0]).to_pylist()
    for name, text in (
        ("rb.json", json.dumps(rows)),
        ("rb.jsonl", "".join(json.dumps(row) + "\n" for row in rows)),
    ):
        (tmp_path / name).write_text(text)
        assert read_items("rewardbench", tmp_path / name).items == loaded.items


def test_rm_bench_has_nine_cells_per_item_in_one_file_or_one_per_domain(tmp_path):
    whole = read_items("rm_bench", write_rm_bench(tmp_path / "whole", 2))
    parts = read_items("rm_bench", write_rm_bench(tmp_path / "parts", 2, whole=False))
    assert sorted(whole.items, key=lambda item: item.key) == sorted(parts.items, key=lambda item: item.key)
    assert len(whole.items) == 10 and {item.subset for item in whole.items} == set(rm_bench.ITEMS)
    for item in whole.items:
        assert set(item.pairs) == rm_bench.CELLS
        for cell, pair in item.pairs.items():
            trailing = [len(text) - len(text.rstrip()) for text in (pair.chosen, pair.rejected)]
            assert cell == "{}-{}".format(*trailing)
    # where a folder has both forms, total_dataset.json is read
    write_rm_bench(tmp_path / "parts", 2)
    both = read_items("rm_bench", tmp_path / "parts")
    assert len(both.items) == 10 and len(both.unread_files) == 5


def test_rmb_has_two_trees_with_groups_and_several_turns(tmp_path):
    folder = write_rmb(tmp_path / "rmb", 2)
    (folder / "counts.json").write_text('{"not": "an item"}')
    loaded = read_items("rmb", folder)
    assert len(loaded.items) == 2 * 98 and not loaded.drops
    assert [file.name for file in loaded.unread_files] == ["counts.json"]
    for item in loaded.items:
        assert list(item.pairs) == (["0", "1"] if rmb.is_best_of_n(item.subset) else [None])
    turns = {task.turns for task in tasks_of("rmb", folder)}
    assert turns == {1, 2}
    # a subtree or a single file gives the same items
    part = read_items("rmb", folder / "BoN_set")
    assert part.items == [item for item in loaded.items if rmb.is_best_of_n(item.subset)]
    one = read_items("rmb", folder / "BoN_set" / "Harmlessness" / "S1.json")
    assert [item.subset for item in one.items] == ["BoN_set/Harmlessness/S1"] * 2


def test_a_row_without_a_category_path_takes_that_of_its_file(tmp_path):
    folder = write_rmb(tmp_path / "rmb", 1, ["Pairwise_set/Harmlessness/S1"])
    file = folder / "Pairwise_set" / "Harmlessness" / "S1.json"
    rows = json.loads(file.read_text())
    del rows[0]["category_path"]
    file.write_text(json.dumps(rows))
    assert read_items("rmb", folder).items[0].subset == "Pairwise_set/Harmlessness/S1"
    rows[0]["category_path"] = "Pairwise_set/Harmlessness/S2"
    file.write_text(json.dumps(rows))
    with pytest.raises(
        UserError, match=r"S1\.json\[0\]: the row's category_path is .*S2'.*the file is at .*S1'"
    ):
        read_items("rmb", folder)


@pytest.mark.parametrize("benchmark", WRITERS)
def test_the_order_of_a_task_depends_on_the_seed_and_the_item_alone(benchmark, tmp_path):
    folder = WRITERS[benchmark](tmp_path / "b")
    tasks = tasks_of(benchmark, folder)
    assert all(task.benchmark == benchmark for task in tasks)
    assert len({task.id for task in tasks}) == len(tasks)
    items = read_items(benchmark, folder).items
    random.Random(0).shuffle(items)
    again = benchmark_tasks(items[: len(items) // 2], 1, TEMPLATE, False, [])
    by_id = {task.id: task for task in tasks}
    assert all(by_id[task.id] == task for task in again)
    assert {task.order for task in tasks} == {"chosen_first", "rejected_first"}
    assert [task.order for task in tasks] != [task.order for task in tasks_of(benchmark, folder, seed=2)]
    both = tasks_of(benchmark, folder, both=True)
    assert len(both) == 2 * len(tasks) and both[::2] == tasks
    for one, other in zip(both[::2], both[1::2], strict=True):
        assert one.pair_id == other.pair_id and one.order != other.order
    assert BenchmarkTask.from_dict(json.loads(json.dumps(tasks[0].to_dict()))) == tasks[0]


def test_the_cells_of_an_item_draw_their_orders_independently(tmp_path):
    tasks = tasks_of("rm_bench", write_rm_bench(tmp_path / "b", 4))
    by_item = {}
    for task in tasks:
        by_item.setdefault((task.subset, task.item_id), set()).add(task.order)
    assert sum(len(orders) == 2 for orders in by_item.values()) > 15


def test_items_are_drawn_whole_by_the_seed(tmp_path):
    items = read_items("rm_bench", write_rm_bench(tmp_path / "b", 6)).items
    some = draw_items(items, 10, seed=1)
    assert len(some) == 10 and [item for item in items if item in some] == some
    assert draw_items(items[::-1], 10, seed=1) == some[::-1]
    assert draw_items(items, 10, seed=2) != some
    assert draw_items(items, None, 1) == draw_items(items, 99, 1) == items
    assert len({item.subset for item in some}) > 1


# -- faulty files -------------------------------------------------------------------------------------------


def rows_with(change):
    rows = rm_bench_rows(2)
    change(rows)
    return rows


FAULTS = {
    "another subset": (
        "rm_bench",
        "total_dataset.json",
        rows_with(lambda rows: rows[3].update(domain="maths")),
        r"total_dataset\.json\[3\]: rm_bench has no subset 'maths' \(did you mean 'math'\?\)",
    ),
    "no domain and no name": (
        "rm_bench",
        "mine.json",
        rows_with(lambda rows: rows[0].pop("domain")),
        r"mine\.json\[0\]: the row has no 'domain', and the file's name is not <domain>_filtered\.json",
    ),
    "a name that says otherwise": (
        "rm_bench",
        "chat_filtered.json",
        rows_with(lambda rows: None),
        r"chat_filtered\.json\[2\]: the row's domain is 'math', but the file's is 'chat'",
    ),
    "a rotated copy": (
        "rm_bench",
        "total_dataset_2.json",
        rm_bench_rows(),
        "one of RM-R1's three copies with rotated",
    ),
    "another benchmark": (
        "rewardbench",
        "total_dataset.json",
        rm_bench_rows(),
        r"none of the 5 rows is an item of rewardbench \(5 the row is not an item of this benchmark; the "
        r"first is .*total_dataset\.json\[0\]\); give that benchmark's own files",
    ),
    "rmb without a place": (
        "rmb",
        "x.json",
        [{"conversation_input": [], "chosen": {}, "reject": {}}],
        r"x\.json\[0\]: the row has no 'category_path', and the file is outside of Pairwise_set or BoN_set",
    ),
    "nothing": ("rmb", "x.json", [], r"x\.json: the file holds an empty list"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_file_is_one_sentence_that_names_the_place(fault, tmp_path):
    benchmark, name, rows, says = FAULTS[fault]
    (tmp_path / name).write_text(json.dumps(rows))
    with pytest.raises(UserError, match=says) as caught:
        read_items(benchmark, tmp_path / name)
    assert "\n" not in str(caught.value)


def test_an_item_with_a_bad_part_is_left_out_whole_and_counted(tmp_path):
    rows = rm_bench_rows(4)
    rows[0]["chosen"][1] = 7
    rows[1]["rejected"] = rows[1]["rejected"][:2]
    rows[2]["prompt"] = {"a": 1}
    rows[3]["chosen"][2] = "\ud800"
    rows[4]["prompt"] = " "
    rows[5] = "text"
    rows[6]["id"] = ["no name"]
    rows.append(dict(rows[7]))
    path = tmp_path / "total_dataset.json"
    path.write_text(json.dumps(rows))
    loaded = read_items("rm_bench", path)
    assert loaded.drops == {
        "wrong_form": 3,
        "wrong_type": 1,
        "bad_text": 1,
        "empty_prompt": 1,
        "repeated": 1,
    }
    assert loaded.read == len(rows) == len(loaded.items) + sum(loaded.drops.values())
    assert {drop.where for drop in loaded.dropped} == {f"{path}[{i}]" for i in (0, 1, 2, 3, 4, 5, 20)}
    assert loaded.drops.keys() <= REASONS.keys()
    assert len({item.key for item in loaded.items}) == len(loaded.items)


def test_broken_lines_and_invalid_losers_are_counted(tmp_path):
    folder = write_rmb(tmp_path / "rmb", 4, ["BoN_set/Harmlessness/S1"])
    file = folder / "BoN_set" / "Harmlessness" / "S1.json"
    rows = json.loads(file.read_text())
    rows[0]["loser_list"] = []
    rows[1]["loser_list"][1] = {"answer": None}
    rows[2]["loser_list"] = "x"
    file.write_text("\n".join([json.dumps(rows[3]), "{broken", *map(json.dumps, rows[:3])]))
    loaded = read_items("rmb", folder)
    assert len(loaded.items) == 1
    assert loaded.drops == {"broken_line": 1, "wrong_form": 2, "wrong_type": 1}


def test_empty_and_equal_answers_are_kept(tmp_path):
    rows = [{"prompt": "q", "chosen": "", "rejected": "", "subset": "hep-go", "id": 1}]
    (tmp_path / "rb.json").write_text(json.dumps(rows))
    (item,) = read_items("rewardbench", tmp_path / "rb.json").items
    assert item.pairs[None].chosen == item.pairs[None].rejected == ""


def test_items_that_share_an_id_are_identified_by_their_contents(tmp_path):
    rows = [
        {"prompt": f"q{i}", "chosen": "y", "rejected": "n\0", "subset": "hep-go", "id": 1} for i in range(2)
    ]
    ids = []
    for order in (rows, rows[::-1]):
        (tmp_path / "rb.json").write_text(json.dumps(order))
        ids.append({item.item_id for item in read_items("rewardbench", tmp_path / "rb.json").items})
    assert ids[0] == ids[1] and len(ids[0]) == 2
    assert (
        read_items("rewardbench", tmp_path / "rb.json").items[0].pairs[None].rejected
        == "n\N{REPLACEMENT CHARACTER}"
    )
