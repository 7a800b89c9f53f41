# SPDX-License-Identifier: Apache-2.0
"""Small benchmarks in the three published forms, made from the tiny task: the real texts are not ours."""

import json

import pyarrow as pa
import pyarrow.parquet as pq

from reasongrm_nemo.demo.tiny_judge import questions
from reasongrm_nemo.evaluation import rewardbench, rm_bench, rmb


def _pairs(count, seed=5):
    return questions(count, seed, "train")


def write_rewardbench(folder, items=2):
    """data/filtered-*.parquet with `items` per subset, beside the raw split, which must not be read."""
    names = [name for name in rewardbench.ITEMS for _ in range(items)]
    rows = [
        {
            "prompt": pair.prompt[0]["content"],
            "chosen": pair.chosen,
            "chosen_model": "m",
            "rejected": pair.rejected,
            "rejected_model": "n",
            "subset": name,
            "id": number,
        }
        for number, (name, pair) in enumerate(zip(names, _pairs(len(names)), strict=True))
    ]
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), data / "filtered-00000-of-00001.parquet")
    pq.write_table(pa.Table.from_pylist(rows * 2), data / "raw-00000-of-00001.parquet")
    return folder


def rm_bench_rows(items=1):
    """Rows of total_dataset.json: the styles differ only by spaces, which the judge's task ignores."""
    names = [name for name in rm_bench.ITEMS for _ in range(items)]
    return [
        {
            "id": number,
            "prompt": pair.prompt[0]["content"],
            "chosen": [pair.chosen + " " * style for style in range(3)],
            "rejected": [pair.rejected + " " * style for style in range(3)],
            "domain": name,
        }
        for number, (name, pair) in enumerate(zip(names, _pairs(len(names), 6), strict=True))
    ]


def write_rm_bench(folder, items=1, whole=True):
    """total_dataset.json, or one file per domain without the field `domain`."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = rm_bench_rows(items)
    if whole:
        (folder / "total_dataset.json").write_text(json.dumps(rows))
        return folder
    for name in rm_bench.ITEMS:
        of_domain = [{k: v for k, v in row.items() if k != "domain"} for row in rows if row["domain"] == name]
        (folder / f"{name}_filtered.json").write_text(json.dumps(of_domain))
    return folder


def write_rmb(folder, items=1, subsets=None):
    """The two sets as folders, every subset or those given; each second conversation has three turns."""
    names = list(rmb.counts()) if subsets is None else subsets
    pairs = iter(_pairs(len(names) * items * 2, 7))
    for name in names:
        rows = []
        for number in range(items):
            pair = next(pairs)
            turns = [{"role": "user", "content": pair.prompt[0]["content"], "language": "English"}]
            if number % 2:
                turns = [*turns, {"role": "assistant", "content": "?"}, *turns]
            chosen = {"llm_name": "m", "answer": pair.chosen}
            losers = [{"llm_name": f"n{i}", "answer": pair.rejected + " " * i} for i in range(2)]
            row = {"conversation_input": turns, "category_path": name}
            if rmb.is_best_of_n(name):
                rows.append({**row, "bon_best": chosen, "loser_list": losers, "bon_uid": f"{number}"})
            else:
                rows.append({**row, "chosen": chosen, "reject": losers[0], "pair_uid": f"{number}"})
        file = folder / f"{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(rows))
    return folder


WRITERS = {"rewardbench": write_rewardbench, "rm_bench": write_rm_bench, "rmb": write_rmb}
