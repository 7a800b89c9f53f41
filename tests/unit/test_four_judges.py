# SPDX-License-Identifier: Apache-2.0
"""Four made-up judges under the settings of every recipe of the paper's Tables 1 to 6.

Three name the right answer to exactly 80 % of the questions, each in the output format of a different kind of
model. The fourth is always truncated inside its reasoning, so it is never right.
"""

import json
import logging
import os
import shutil
from pathlib import Path

import pytest
from benchmark_files import write_rewardbench

from reasongrm_nemo.data import JudgeTask, Verdict, read_jsonl, write_jsonl
from reasongrm_nemo.evaluation.benchmarks import score_log
from reasongrm_nemo.evaluation.tasks import BenchmarkTask
from reasongrm_nemo.judge import JudgeSampling, JudgeSettings, load_template
from reasongrm_nemo.models.tokenization import load_tokenizer, response_ids
from reasongrm_nemo.recipe.load import input_paths, load_recipe, recipes_root, require_path
from reasongrm_nemo.rollout import Completion
from reasongrm_nemo.run.console import Console
from reasongrm_nemo.run.manifest import identity
from reasongrm_nemo.run.stage import StageContext
from reasongrm_nemo.stages import evaluate

TINY = Path(__file__).resolve().parents[2] / "reasongrm_nemo" / "assets" / "tiny_judge"
RECIPES = [
    "qwq_32b/7_evaluate",
    *(f"ablation/{m}/3_evaluate" for m in ("qwen2_5_7b", "qwen2_5_14b", "llama3_1_8b")),
]
PLAIN = (
    "{% for m in messages %}{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}ANSWER:\n{% endif %}"
)
OPENS = PLAIN.replace("ANSWER:\n", "ANSWER:\n<think>\n")
# name: chat template, text that judges for {right}, finish reason
JUDGES = {
    "no_tags": (PLAIN, "Clearer.\n\n[[{right}]]", "stop"),
    "tags": (OPENS, "[[{wrong}]]? no.\n</think>\n\n[[{right}]]", "stop"),
    "aloud": (PLAIN, "If short counts, [[{wrong}]]; it does not.\nSo: [[{right}]]\n", "stop"),
    "cut": (OPENS, "[[{right}]] is better, or is it", "length"),
}


class Pool:
    """Answers for the four judges: wrong on every fifth question of a list, right on the others."""

    def __init__(self, work, held_out):
        self.work, self.held_out, self.model = work, held_out, None
        self.sampling = {}

    def get(self, cfg, model_dir):
        self.model = model_dir.name
        return self

    def stream(self, prompts, sampling):
        tokenizer = load_tokenizer(TINY)
        self.sampling[self.model] = sampling
        tasks = [
            *self.held_out,
            *(t for f in self.work.glob("tasks/*") for t in read_jsonl(f, BenchmarkTask)),
        ]
        labels = {task.id: task.label for task in tasks}
        _, text, finish = JUDGES[self.model]
        for place, prompt in enumerate(prompts):
            right = labels[prompt.id] if place % 5 else "BA"["AB".index(labels[prompt.id])]
            said = text.format(right=right, wrong="BA"["AB".index(right)])
            ids = [*response_ids(tokenizer, said), *([tokenizer.eos_token_id] if finish == "stop" else [])]
            yield [Completion(prompt.id, i, ids, [-0.1] * len(ids), finish) for i in range(sampling.n)]


def folder(path, template):
    path.mkdir()
    for file in TINY.glob("*.json"):
        shutil.copy(file, path)
    config = json.loads((path / "tokenizer_config.json").read_text())
    (path / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}))
    return path


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    for name, (template, _, _) in JUDGES.items():
        folder(tmp_path / name, template)
    said = [{"role": "user", "content": "Which?"}]
    tasks = [
        JudgeTask(f"t{i}", f"p{i}", "s", said, "AB"[i % 2], ("chosen_first", "rejected_first")[i % 2])
        for i in range(10)
    ]
    write_jsonl(tmp_path / "held_out.jsonl", tasks)
    bench = write_rewardbench(tmp_path / "rewardbench", 5)

    def evaluated(recipe, *words):
        rows = list(load_recipe(recipes_root() / f"{recipe}.yaml").evaluate.models)[:3]
        named = dict(zip([*rows, "more"], JUDGES, strict=True))
        extra = [f"evaluate.models.{row}={tmp_path / judge}" for row, judge in named.items()]
        gone = list(load_recipe(recipes_root() / f"{recipe}.yaml").evaluate.models)[3:]
        extra += [f"evaluate.models.{row}={tmp_path / 'cut'}" for row in gone]
        given = [f"inputs.tasks={tmp_path / 'held_out.jsonl'}", f"inputs.rewardbench={bench}"]
        given += [f"model.hf_path={TINY}"]
        given += ["inputs.rm_bench=null", "inputs.rmb=null"] if "qwq" in recipe else []
        cfg = load_recipe(recipes_root() / f"{recipe}.yaml", [*given, *extra, *words])
        inputs = {n: require_path(v, cfg.runs_dir, key) for n, (key, v) in input_paths(cfg).items()}
        work = tmp_path / "work"
        work.mkdir()
        pool = Pool(work, tasks)
        ctx = StageContext(cfg, work, inputs, Console(quiet=True), logging.getLogger("test"), pool)
        evaluate.run(ctx)
        return {judge: row for row, judge in named.items()}, ctx, pool

    return evaluated


@pytest.mark.parametrize("recipe", RECIPES)
def test_each_judge_is_scored_by_its_verdicts(run, recipe):
    rows, ctx, _ = run(recipe)
    expected = {"no_tags": 0.8, "tags": 0.8, "aloud": 0.8, "cut": 0.0}
    scores = json.loads((ctx.work / "scores.json").read_text())
    held_out = {entry["model"]: entry for entry in scores["scores"]}
    accuracies = {judge: held_out[row]["accuracy"]["value"] for judge, row in rows.items()}
    assert accuracies == expected
    assert {judge: held_out[row]["truncated"] for judge, row in rows.items()} == {
        "no_tags": 0, "tags": 0, "aloud": 0, "cut": 1
    }  # fmt: skip
    runs = {run["name"]: run for run in scores["benchmarks"]["rewardbench"]["runs"]}
    for judge, row in rows.items():
        result = runs[f"{row}_published"]
        assert result["scores"]["Score"]["value"] == pytest.approx(expected[judge], abs=1e-12), judge
        # the log alone gives the same score
        log = ctx.work / "verdicts" / "rewardbench" / f"{row}_published.jsonl"
        assert score_log("rewardbench", [log]).result.values()["Score"] == pytest.approx(expected[judge])
    assert runs[f"{rows['cut']}_published"]["statuses"] == {"unfinished": 460}
    assert "100.0 %" in (ctx.work / "report.md").read_text()


def test_a_models_folder_decides_its_judging_unless_the_recipe_does(run, tmp_path):
    sampling = JudgeSampling(0.6, 0.95, 40)
    JudgeSettings(load_template("tiny"), "rm_r1", "So: ", sampling).write(tmp_path / "aloud")
    greedy = {"do_sample": False}
    (tmp_path / "no_tags" / "generation_config.json").write_text(json.dumps(greedy))
    rows, ctx, pool = run("ablation/qwen2_5_7b/3_evaluate", "evaluate.models.random.policy=rewardbench")
    aloud, tags, plain = rows["aloud"], rows["tags"], rows["no_tags"]
    logs = {
        row: list(read_jsonl(ctx.work / "verdicts" / f"{row}_published.jsonl", Verdict))
        for row in rows.values()
    }
    assert {row.policy for row in logs[aloud]} == {"rm_r1"} and {row.policy for row in logs[plain]} == {
        "last"
    }
    assert {row.verdict for row in logs[aloud]} == {None}  # the text names both; rm_r1 reads all of it
    assert {row.policy for row in logs[tags]} == {"rewardbench"}
    # the log records the sampling; greedy answers would all be the same, so one is drawn
    assert {(row.temperature, row.top_p, row.top_k) for row in logs[aloud]} == {(0.6, 0.95, 40)}
    assert {(row.temperature, row.top_p) for row in logs[plain]} == {(0.0, None)}
    assert (len(logs[aloud]), len(logs[plain])) == (40, 10)
    assert (pool.sampling["aloud"].top_k, pool.sampling["no_tags"].n) == (40, 1)
    # a model with its own wording gets its own tasks
    files = {
        file.name: next(iter(read_jsonl(file, BenchmarkTask))) for file in (ctx.work / "tasks").iterdir()
    }
    assert sorted(files) == ["rewardbench.jsonl", "rewardbench_2.jsonl"]
    assert files["rewardbench.jsonl"].messages != files["rewardbench_2.jsonl"].messages
    assert "So: " not in str(files["rewardbench_2.jsonl"].messages)
    changed = load_recipe(
        recipes_root() / "ablation/qwen2_5_7b/3_evaluate.yaml", ["evaluate.models.base.policy=last"]
    )
    assert identity(changed, {})["evaluate.models.base.policy"] == "last"
