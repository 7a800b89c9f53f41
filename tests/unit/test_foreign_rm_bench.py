# SPDX-License-Identifier: Apache-2.0
"""`reasongrm score --from rm_bench`: results in the formats of RM-Bench's and RM-R1's scripts."""

import random

import pytest
from foreign_results import SWAPPED, answer, figures, refusal, save, values

from reasongrm_nemo.evaluation import rm_bench
from reasongrm_nemo.evaluation.benchmarks import read_log


def rm_bench_items(domain=True):
    return [
        {"id": i, "prompt": f"{name} {i}", "chosen": ["c", "cc", "ccc"], "rejected": ["r", "rr", "rrr"]}
        | ({"domain": name} if domain else {"subset": "alpacaeval"})
        for name, count in rm_bench.ITEMS.items()
        for i in range(count)
    ]


def scored_items(domain=True):
    rng = random.Random(3)
    items = rm_bench_items(domain)
    for item in items:
        item["score_chosen"] = [rng.random() + 0.2 for _ in range(3)]
        item["score_rejected"] = [rng.random() for _ in range(3)]
    return items


def by_hand(items, names):
    """The eight figures as RM-Bench's utils.py computes them."""

    def cell(name, i, j):
        of_domain = [item for item in items if item["prompt"].startswith(name)]
        return sum(item["score_chosen"][i] > item["score_rejected"][j] for item in of_domain) / len(of_domain)

    mean = lambda numbers: sum(numbers) / len(numbers)  # noqa: E731
    parts = {
        "hard": [(0, 1), (0, 2), (1, 2)],
        "normal": [(0, 0), (1, 1), (2, 2)],
        "easy": [(1, 0), (2, 0), (2, 1)],
    }
    table = {d: {k: mean([cell(d, i, j) for i, j in cells]) for k, cells in parts.items()} for d in names}
    averages = {domain: mean(list(row.values())) for domain, row in table.items()}
    averages |= {k: mean([table[d][k] for d in names]) for k in parts}
    return averages | {"avg": mean([averages[d] for d in names])}


def test_rm_bench_scalar_scores(tmp_path):
    items = scored_items()
    file = save(tmp_path / "total_dataset_m_REWORD_MODEL_20250101_000000.json", items)
    data = figures("--from", "rm_bench", file)
    assert values(data) == pytest.approx(by_hand(items, rm_bench.DOMAINS), abs=1e-12)
    assert data["notes"] == [] and data["coverage"]["judgements"] == 11943


def test_rm_bench_files_of_one_domain_are_told_apart_by_their_names(tmp_path):
    items = scored_items(domain=False)
    files = [
        save(
            tmp_path / f"{name}_filtered_m_REWORD_MODEL_1.json",
            [x for x in items if x["prompt"].startswith(f"{name} ")],
        )
        for name in rm_bench.ITEMS
    ]
    assert values(figures("--from", "rm_bench", *files)) == pytest.approx(by_hand(items, rm_bench.DOMAINS))
    renamed = files[0].rename(tmp_path / "chat.json")
    assert "has no 'domain'" in refusal("--from", "rm_bench", renamed)


def rm_r1_rm_bench(folder):
    """Write three files of three judgements per item; return right by (domain, item, chosen, rejected)."""
    rng = random.Random(5)
    right = {}
    for number in (1, 2, 3):
        items = rm_bench_items()
        for item in items:
            item["rejected"] = [item["rejected"][(i + number - 1) % 3] for i in range(3)]
            judged = [(rng.random() < 0.7, rng.random() < 0.5) for _ in range(3)]
            for i, (good, _) in enumerate(judged):
                right[item["domain"], item["id"], i, (i + number - 1) % 3] = good
            item["result"] = [int(good) for good, _ in judged]
            item["output"] = [answer(good, swapped) for good, swapped in judged]
            item[SWAPPED] = [swapped for _, swapped in judged]
        save(folder / f"total_dataset_{number}_m.json", items)
    save(folder / "final_result.json", {"chat": 0.7})
    return right


def test_rm_bench_by_rm_r1_right_and_as_released(tmp_path):
    right = rm_r1_rm_bench(tmp_path)
    data = figures("--from", "rm_bench", tmp_path, "--policy", "rm_r1")
    # the fault: hard is (2 · [0-2] + [1-0]) / 3, see docs/evaluation.md
    hard = {
        domain: sum(
            (2 * right[name, i, 0, 2] + right[name, i, 1, 0]) / 3
            for name, i in {key[:2] for key in right}
            if name.startswith(domain)
        )
        / sum(count for name, count in rm_bench.ITEMS.items() if name.startswith(domain))
        for domain in rm_bench.DOMAINS
    }
    assert data["scores"]["hard"]["value"] == pytest.approx(sum(hard.values()) / 4, abs=1e-12)
    assert "as released" in data["notes"][0] and len(data["notes"]) == 1
    rows = list(read_log([tmp_path], "rm_bench"))
    assert len(rows) == 11943
    for v in rows:
        i, j = map(int, v.cell.split("-"))
        assert v.correct == right[v.subset, int(v.item_id), i, j]
        assert (v.chosen_chars, v.rejected_chars) == (i + 1, j + 1)


def test_rm_bench_by_rm_r1_needs_the_names_of_its_files(tmp_path):
    rm_r1_rm_bench(tmp_path)
    renamed = (tmp_path / "total_dataset_2_m.json").rename(tmp_path / "mine.json")
    assert "total_dataset_1_*.json to total_dataset_3_*.json" in refusal("--from", "rm_bench", renamed)
    assert "lacks the cells 0-1, 1-2, 2-0" in refusal("--from", "rm_bench", *sorted(tmp_path.glob("total*")))
