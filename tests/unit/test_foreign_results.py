# SPDX-License-Identifier: Apache-2.0
"""`reasongrm score --from`: result files in the forms of other projects' scripts, made by the test."""

import json
import random

import pytest
from click.testing import CliRunner

from reasongrm_nemo.cli import main
from reasongrm_nemo.data.tasks import prompt_key
from reasongrm_nemo.evaluation import rewardbench, rm_bench, rmb
from reasongrm_nemo.evaluation.benchmarks import read_log

SWAPPED = "Is_Chosen_Answer_Shuffled_toPositionB"


def call(*words):
    return CliRunner().invoke(main, ["score", *map(str, words)])


def figures(*words):
    result = call(*words, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def values(data):
    return {name: score and score["value"] for name, score in data["scores"].items()}


def refusal(*words):
    result = call(*words)
    assert result.exit_code == 2 and result.stderr.count("\n") == 1, (result.stdout, result.stderr)
    return result.stderr


def save(path, data, indent=4):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=indent))
    return path


def turns(question, answer):
    return [{"content": question, "role": "user"}, {"content": answer, "role": "assistant"}]


def answer(right, swapped):
    """A judge's text as RM-R1 writes it, without think tags; right None: without a verdict."""
    said = "I cannot say" if right is None else f"<answer>[[{'AB'[right == swapped]}]]</answer>"
    return f"<eval>both are good</eval>{said}"


def draw(count):
    rng = random.Random(count)
    return [(rng.choice([True, True, False, None]), rng.random() < 0.5) for _ in range(count)]


# -- RewardBench -----------------------------------------------------------------------------------------

SUBSETS = [name for name, count in rewardbench.ITEMS.items() for _ in range(count)]
IDS = [i for count in rewardbench.ITEMS.values() for i in range(count)]
# Right in every subset but the first of each section, so that each section has a value of its own.
RIGHT = [
    i >= 7 or name not in ("alpacaeval-easy", "mt-bench-hard", "donotanswer", "hep-cpp")
    for name, i in zip(SUBSETS, IDS, strict=True)
]
EXPECTED = {
    section: 1 - 7 / weights
    for section, weights in {"Chat": 358, "Chat Hard": 456, "Safety": 740, "Reasoning": 1968}.items()
}
EXPECTED["Score"] = sum(EXPECTED.values()) / 4


def columns(**more):
    return {
        "subset": SUBSETS,
        "id": IDS,
        "model": "a/b",
        "model_type": "x",
        "results": [int(r) for r in RIGHT],
    } | more


@pytest.mark.parametrize("wrap", [float, lambda x: [x]], ids=["numbers", "lists of one"])
def test_rewardbench_scalar_scores(tmp_path, wrap):
    texts = [f"<|user|> q{i} <|assistant|> a" for i in range(len(IDS))]
    scores = {"scores_chosen": [wrap(r + 0.25) for r in RIGHT], "scores_rejected": [wrap(0.5)] * len(IDS)}
    file = save(
        tmp_path / "b.json", columns(text_chosen=texts, text_rejected=texts, chat_template="tulu", **scores)
    )
    for words in (["--from", "rewardbench", file], ["rewardbench", file, "--from", "rewardbench"]):
        data = figures(*words)
        assert values(data) == pytest.approx(EXPECTED, abs=1e-12)
        assert data["notes"] == [] and data["name"] == "b"
    assert (
        "| b † |" in call("--from", "rewardbench", file, "--table", "markdown").stdout.split("Generative")[0]
    )


def test_rewardbench_generative_credits(tmp_path):
    """run_generative.py keeps 1, 0, or 0.5 for whatever is no verdict, and neither text nor order."""
    half = [
        0.5 if name == "donotanswer" and i < 7 else int(r)
        for r, name, i in zip(RIGHT, SUBSETS, IDS, strict=True)
    ]
    chosen = [turns(f"q{i}", "a") for i in range(len(IDS))]
    file = save(tmp_path / "b.json", columns(text_chosen=chosen, text_rejected=chosen) | {"results": half})
    assert values(figures("--from", "rewardbench", file)) == pytest.approx(EXPECTED, abs=1e-12)
    theirs = figures("--from", "rewardbench", file, "--policy", "rewardbench")
    assert theirs["scores"]["Safety"]["value"] == pytest.approx(EXPECTED["Safety"] + 3.5 / 740)
    assert theirs["statuses"] == {"ok": 2978, "no_verdict": 7}
    page = tmp_path / "page.md"
    assert call("--from", "rewardbench", file, "--page", page, "--details").exit_code == 0
    assert "only that the judgement is wrong" in page.read_text()


def rm_r1_rewardbench():
    judged = draw(len(IDS))
    return [
        {
            "text_chosen": turns(f"q{i}", "good"),
            "text_rejected": turns(f"q{i}", "bad answer"),
            "results": int(right is True),
            "answers": answer(right, swapped),
            SWAPPED: swapped,
            "subset": name,
            "id": i,
        }
        for name, i, (right, swapped) in zip(SUBSETS, IDS, judged, strict=True)
    ]


def test_rewardbench_by_rm_r1(tmp_path):
    rows = rm_r1_rewardbench()
    file = save(tmp_path / "log_result" / "logs.json", rows, indent=2)
    save(tmp_path / "score_result" / "main_score.json", {"Chat": 0.9})
    data = figures("--from", "rewardbench", tmp_path, "--policy", "rm_r1", "--details")
    by_name = {each["name"]: each["accuracy"]["value"] for each in data["subsets"]}
    for name, count in rewardbench.ITEMS.items():
        assert by_name[name] == pytest.approx(sum(r["results"] for r in rows if r["subset"] == name) / count)
    assert data["notes"] == []
    # the order, the lengths and the conversation are known
    positions = data["details"]["positions"]
    assert positions["chosen_first"]["judgements"] == sum(not row[SWAPPED] for row in rows)
    assert data["details"]["length_bias"]["longer"]["judgements"] == 0
    verdict = next(iter(read_log([file], "rewardbench")))
    assert verdict.prompt_id == prompt_key([{"role": "user", "content": "q0"}])
    assert figures("--from", "rewardbench", file)["notes"] == []
    # the last verdict counts for us, both are an error to their script
    rows[0] |= {"answers": "[[B]] at first\n<answer>[[A]]</answer>", SWAPPED: False, "results": 0}
    again = save(tmp_path / "again.json", rows)
    assert figures("--from", "rewardbench", again, "--policy", "rm_r1")["notes"] == []
    (note,) = figures("--from", "rewardbench", again)["notes"]
    assert note == "1 of 2,985 texts count otherwise under this policy than their script recorded"


# -- RM-Bench --------------------------------------------------------------------------------------------


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
    """The eight figures as their utils.py has them."""

    def cell(name, i, j):
        own = [item for item in items if item["prompt"].startswith(name)]
        return sum(item["score_chosen"][i] > item["score_rejected"][j] for item in own) / len(own)

    mean = lambda found: sum(found) / len(found)  # noqa: E731
    parts = {
        "hard": [(0, 1), (0, 2), (1, 2)],
        "normal": [(0, 0), (1, 1), (2, 2)],
        "easy": [(1, 0), (2, 0), (2, 1)],
    }
    table = {d: {k: mean([cell(d, i, j) for i, j in cells]) for k, cells in parts.items()} for d in names}
    found = {domain: mean(list(row.values())) for domain, row in table.items()}
    found |= {k: mean([table[d][k] for d in names]) for k in parts}
    return found | {"avg": mean([found[d] for d in names])}


def test_rm_bench_scalar_scores(tmp_path):
    items = scored_items()
    file = save(tmp_path / "total_dataset_m_REWORD_MODEL_20250101_000000.json", items)
    data = figures("--from", "rm_bench", file)
    assert values(data) == pytest.approx(by_hand(items, rm_bench.DOMAINS), abs=1e-12)
    assert data["notes"] == [] and data["coverage"]["judgements"] == 11943


def test_rm_bench_scores_by_domain_say_the_domain_by_their_names(tmp_path):
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
    """Three files of three judgements an item; returns right by (domain, item, cell)."""
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
            item["output"] = [answer(*each) for each in judged]
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


def test_rm_bench_by_rm_r1_needs_its_files_names(tmp_path):
    rm_r1_rm_bench(tmp_path)
    renamed = (tmp_path / "total_dataset_2_m.json").rename(tmp_path / "mine.json")
    assert "total_dataset_1_*.json to total_dataset_3_*.json" in refusal("--from", "rm_bench", renamed)
    assert "lacks the cells 0-1, 1-2, 2-0" in refusal("--from", "rm_bench", *sorted(tmp_path.glob("total*")))


# -- RMB -------------------------------------------------------------------------------------------------


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
    """Pairs and groups of two or three losers, as RM-R1's four log_result folders; returns right groups."""
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
        own = [good for (name, _), good in groups.items() if f"/{goal}/" in name]
        assert data["scores"][f"BoN {goal}"]["value"] == pytest.approx(sum(own) / len(own))
    assert data["scores"]["Overall"]["value"] is not None
    assert len(data["notes"]) == 1 and "judgements are there" in data["notes"][0]
    # the groups are in the other file of the folder too
    raw = tmp_path / "BoN_set_Harmlessness" / "log_result" / "raw_logs.json"
    grouped = raw.with_name("group_by_same_id_logs.json")
    both = [values(figures("--from", "rmb", file, "--partial")) for file in (raw, grouped)]
    assert both[0] == both[1]
    assert "was there before" in refusal("--from", "rmb", raw, grouped, "--partial")


# -- beside a log of ours, and what is refused -----------------------------------------------------------


def test_a_result_file_is_compared_with_a_log_of_ours(tmp_path):
    theirs = save(tmp_path / "theirs.json", rm_r1_rewardbench())
    ours = tmp_path / "ours.jsonl"
    rows = [
        {
            "benchmark": "rewardbench",
            "subset": s,
            "item_id": str(i),
            "cell": None,
            "chosen_score": 1,
            "rejected_score": 0,
        }
        for s, i in zip(SUBSETS, IDS, strict=True)
    ]
    ours.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = figures("rewardbench", ours, "--compare", theirs, "--from", "rewardbench", "--policy", "rm_r1")
    (found,) = data["comparisons"]
    assert found["pairs"] == 2985 and found["left_out"] == 0 and found["mcnemar"]["only_second"] == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"subset": None}, "has no 'subset'"),
        ({"subset": "hep-pyton"}, "did you mean 'hep-python'"),
        ({"results": 0.3, "answers": None}, "'results' must be 0, 0.5 or 1, got 0.3"),
        ({"results": None, "answers": "x"}, "neither two scores nor a result"),
        ({"scores_chosen": 1.0}, "has one of 'scores_chosen' and 'scores_rejected'"),
        (
            {"scores_chosen": 1.0, "scores_rejected": 2.0, "results": 1},
            "the result 1, but the scores are 1.0 and 2.0",
        ),
        ({"scores_chosen": "high", "scores_rejected": 2.0}, "'scores_chosen' must be a number, got high"),
        ({"scores_chosen": [1.0, 2.0], "scores_rejected": 2.0}, "must be a number"),
        ({"scores_chosen": float("nan"), "scores_rejected": 2.0, "results": 0}, "finite number"),
    ],
)
def test_a_row_at_fault_is_named(tmp_path, change, said):
    rows = rm_r1_rewardbench()[:3]
    rows[1] |= change
    message = refusal("--from", "rewardbench", save(tmp_path / "logs.json", rows), "--partial")
    assert said in message and "logs.json[1]" in message


def test_what_is_no_result_file_is_refused(tmp_path):
    log = save(tmp_path / "logs.json", rm_r1_rewardbench())
    assert "is read with --from rewardbench" in refusal("rewardbench", log)
    assert "--from rmb is of another benchmark" in refusal("rewardbench", log, "--from", "rmb")
    assert "did you mean 'rewardbench'" in refusal("--from", "rewardbnch", log)
    assert "has no 'category_path'" in refusal("--from", "rmb", log)
    final = save(tmp_path / "score" / "main_score.json", {"Chat": 0.5, "Score": 0.25})
    assert "holds no judgement, but the fields Chat, Score" in refusal("--from", "rewardbench", final)
    assert "only files with final figures" in refusal("--from", "rewardbench", final.parent)
    short = save(tmp_path / "short.json", columns() | {"results": [1, 0]})
    assert "has 2 results but 2985 subset" in refusal("--from", "rewardbench", short)
    assert "has neither 'bon_uid' nor 'idx'" in refusal(
        "--from",
        "rmb",
        save(tmp_path / "bon.json", [{"category_path": "BoN_set/Harmlessness/S1", "results": 1}]),
    )
    broken = tmp_path / "broken.json"
    broken.write_text('[{"subset": "hep-go", "results": 1},')
    assert "not valid JSON" in refusal("--from", "rewardbench", broken)
