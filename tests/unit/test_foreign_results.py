# SPDX-License-Identifier: Apache-2.0
"""`reasongrm score --from`: made-up result files in the formats of other projects' scripts."""

import json

import pytest
from foreign_results import SWAPPED, answer, call, draw, figures, refusal, save, turns, values

from reasongrm_nemo.data.tasks import prompt_key
from reasongrm_nemo.evaluation import rewardbench
from reasongrm_nemo.evaluation.benchmarks import read_log

SUBSETS = [name for name, count in rewardbench.ITEMS.items() for _ in range(count)]
IDS = [i for count in rewardbench.ITEMS.values() for i in range(count)]
# Every section has 7 wrong items, all in one subset, so that the sections differ in their scores.
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
    """run_generative.py records 1, 0, or 0.5 without a verdict, and neither the text nor the order."""
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
    by_name = {subset["name"]: subset["accuracy"]["value"] for subset in data["subsets"]}
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
    # of two verdicts we read the last; their script reports an error
    rows[0] |= {"answers": "[[B]] at first\n<answer>[[A]]</answer>", SWAPPED: False, "results": 0}
    again = save(tmp_path / "again.json", rows)
    assert figures("--from", "rewardbench", again, "--policy", "rm_r1")["notes"] == []
    (note,) = figures("--from", "rewardbench", again)["notes"]
    assert note == "1 of 2,985 texts are scored differently by this policy than recorded by their script"


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
    (comparison,) = data["comparisons"]
    assert (
        comparison["pairs"] == 2985
        and comparison["left_out"] == 0
        and comparison["mcnemar"]["only_second"] == 0
    )


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
            "the result is 1, but the scores are 1.0 and 2.0",
        ),
        ({"scores_chosen": "high", "scores_rejected": 2.0}, "'scores_chosen' must be a number, got high"),
        ({"scores_chosen": [1.0, 2.0], "scores_rejected": 2.0}, "must be a number"),
        ({"scores_chosen": float("nan"), "scores_rejected": 2.0, "results": 0}, "finite number"),
    ],
)
def test_a_faulty_row_is_named(tmp_path, change, said):
    rows = rm_r1_rewardbench()[:3]
    rows[1] |= change
    message = refusal("--from", "rewardbench", save(tmp_path / "logs.json", rows), "--partial")
    assert said in message and "logs.json[1]" in message


def test_a_file_without_results_is_refused(tmp_path):
    log = save(tmp_path / "logs.json", rm_r1_rewardbench())
    assert "give --from rewardbench" in refusal("rewardbench", log)
    assert "--from rmb contradicts the benchmark" in refusal("rewardbench", log, "--from", "rmb")
    assert "did you mean 'rewardbench'" in refusal("--from", "rewardbnch", log)
    assert "has no 'category_path'" in refusal("--from", "rmb", log)
    final = save(tmp_path / "score" / "main_score.json", {"Chat": 0.5, "Score": 0.25})
    assert "not a judgement, but has the fields Chat, Score" in refusal("--from", "rewardbench", final)
    assert "only files with summary figures" in refusal("--from", "rewardbench", final.parent)
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
