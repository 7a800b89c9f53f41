# SPDX-License-Identifier: Apache-2.0
"""Stage evaluate on the tiny task, with answers made up by the test."""

import json

import pytest
from fake_pool import TINY, FakePool

from reasongrm_nemo.data import Verdict, read_jsonl, read_tasks
from reasongrm_nemo.stages import evaluate


@pytest.fixture
def evaluated(context, tasks, tmp_path):
    def run(pool, work="runs/7_evaluate"):
        held_out = list(read_tasks(tmp_path / "runs" / "0_prepare" / "validation.jsonl"))
        pool.tasks = {task.id: task for task in held_out}
        for name in ("1_grpo_zero", "4_sft", "6_grpo_hard"):
            folder = tmp_path / "runs" / name / "hf"
            if not folder.exists():
                folder.parent.mkdir()
                folder.symlink_to(TINY)
                manifest = {"name": name, "stage": "grpo", "timings": {"seconds": 61.0}}
                (folder.parent / "manifest.json").write_text(json.dumps(manifest))
        ctx = context("7_evaluate", pool=pool, work=work)
        return evaluate.run(ctx), ctx

    return run


def test_evaluate_every_model_at_every_setting(evaluated):
    pool = FakePool()
    result, ctx = evaluated(pool)
    scores = json.loads((ctx.work / "scores.json").read_text())["scores"]
    assert [(s["model"], s["temperature"]) for s in scores] == [
        (m, t) for m in ("base", "zero", "sft", "final") for t in (1.0, 0.6, 0.0)
    ]
    verdicts = list(read_jsonl(ctx.work / "verdicts" / "zero_t0.6.jsonl", Verdict))
    assert len(verdicts) == 20
    assert scores[4]["accuracy"]["value"] == sum(v.correct for v in verdicts) / 20
    assert scores[4]["accuracy"]["items"] == 10
    assert scores[4]["format"] == sum(v.verdict is not None for v in verdicts) / 20
    assert scores[4]["modes"] == {"concise": 1.0}
    assert result["report"]["rows"][1]["seconds"] == 61.0
    text = (ctx.work / "report.md").read_text()
    assert "| base |" in text and "greedy" in text and "1:01" in text and "say nothing about judging" in text
    assert sorted(path.name for path in ctx.work.glob("verdicts/*")) == sorted(
        f"{m}_t{t}.jsonl" for m in ("base", "zero", "sft", "final") for t in ("0", "0.6", "1")
    )


def test_evaluate_resumes_by_model_setting_and_task(evaluated):
    whole, first = evaluated(FakePool())

    class Cut(FakePool):
        def stream(self, prompts, sampling):
            self.stop_after = 4 if len(self.samplings) == 4 else None
            return super().stream(prompts, sampling)

    with pytest.raises(KeyboardInterrupt):
        evaluated(Cut(), work="runs/cut")
    rest = FakePool()
    again, second = evaluated(rest, work="runs/cut")
    assert len(rest.samplings) == 12 - 4 and len(rest.prompts) == 8 * 10 - 4
    assert again["report"]["rows"] == whole["report"]["rows"]
    for path in (first.work / "verdicts").iterdir():
        assert path.read_bytes() == (second.work / "verdicts" / path.name).read_bytes()
