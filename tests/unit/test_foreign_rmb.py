# SPDX-License-Identifier: Apache-2.0
"""`reasongrm score --from rmb`: results in the formats of RMB's and RM-R1's scripts."""

import random

import pytest
from foreign_results import SWAPPED, answer, figures, refusal, save, turns, values

from reasongrm_nemo.evaluation import rmb


def rmb_pairs(count=2):
    return [
        (name, f"{1000 * n + i}")
        for n, name in enumerate(rmb.counts())
        if name.startswith("Pair")
        for i in range(count)
    ]


def test_rmb_scalar_scores_are_strict(tmp_path):
    rows = [
        {
            "pair_uid": uid,
            "category_path": name,
            "chosen_reward": s,
            "reject_reward": 0.5,
            "is_correct": int(s > 0.5),
        }
        for name, uid in rmb_pairs()
        for s in [(0.25, 0.5, 0.75, 0.75)[int(uid) % 4]]
    ]
    data = figures("--from", "rmb", save(tmp_path / "m_result.json", rows, 2), "--partial")
    share = sum(row["is_correct"] for row in rows if "/Help" in row["category_path"]) / 74
    assert data["scores"]["Pairwise Helpfulness"]["value"] == pytest.approx(share)
    assert data["statuses"]["tie"] == sum(row["chosen_reward"] == 0.5 for row in rows)
    assert data["scores"]["Overall"] is None and "98 of 25,845 judgements" in data["notes"][0]


def rm_r1_rmb(folder, scalar=False):
    """Write pairs and groups of 2 or 3 losers like RM-R1's log_result folders; return the right groups."""
    rng = random.Random(7)
    groups, idx = {}, 0
    for goal in ("Helpfulness", "Harmlessness"):
        pairs, losers = [], []
        for name in rmb.counts():
            if f"/{goal}/" not in name:
                continue
            for n in range(2):
                good, swapped = rng.random() < 0.7, rng.random() < 0.5
                common = {"text_chosen": turns(f"{name} {n}", "a"), "category_path": name}
                for loser in range(2 + n if name.startswith("BoN") else 1):
                    good = rng.random() < 0.8
                    said = common | {"text_rejected": turns(f"{name} {n}", f"b{loser}"), "results": int(good)}
                    if scalar:
                        said |= {
                            "text_chosen": "x",
                            "text_rejected": "y",
                            "score_chosen": float(good),
                            "score_rejected": 0.5,
                        }
                    else:
                        said |= {"answers": answer(good, swapped), SWAPPED: swapped}
                    if name.startswith("BoN"):
                        losers.append(said | {"bon_uid": f"{n}", "subset": "train", "idx": idx})
                        groups[name, n] = groups.get((name, n), True) and good
                    else:
                        pairs.append(said | {"pair_uid": f"{n}", "subset": name})
                idx += 1
        save(folder / f"Pairwise_set_{goal}" / "log_result" / "logs.json", pairs, 2)
        save(folder / f"BoN_set_{goal}" / "log_result" / "raw_logs.json", losers, 2)
        grouped = {}
        for row in losers:
            grouped.setdefault(str(row["idx"]), []).append(row)
        save(folder / f"BoN_set_{goal}" / "log_result" / "group_by_same_id_logs.json", grouped, 2)
        save(folder / f"BoN_set_{goal}" / "score_result" / "Final_score.json", [{"BoN Final Accuracy": 1.0}])
    save(folder / "META_RESULT.json", {"Pairwise Helpfulness": 1.0})
    return groups


@pytest.mark.parametrize("scalar", [False, True], ids=["judge", "scalar"])
def test_rmb_by_rm_r1(tmp_path, scalar):
    groups = rm_r1_rmb(tmp_path, scalar)
    data = figures("--from", "rmb", tmp_path, "--partial", "--policy", "rm_r1")
    for goal in ("Helpfulness", "Harmlessness"):
        right = [good for (name, _), good in groups.items() if f"/{goal}/" in name]
        assert data["scores"][f"BoN {goal}"]["value"] == pytest.approx(sum(right) / len(right))
    assert data["scores"]["Overall"]["value"] is not None
    assert len(data["notes"]) == 1 and "not the whole benchmark" in data["notes"][0]
    # the folder's other file holds the same groups
    raw = tmp_path / "BoN_set_Harmlessness" / "log_result" / "raw_logs.json"
    grouped = raw.with_name("group_by_same_id_logs.json")
    both = [values(figures("--from", "rmb", file, "--partial")) for file in (raw, grouped)]
    assert both[0] == both[1]
    assert "is repeated" in refusal("--from", "rmb", raw, grouped, "--partial")
