# SPDX-License-Identifier: Apache-2.0
"""A run stopped after a step and resumed equals the uninterrupted run bitwise (fp32, one layout)."""

import json
import shutil
from pathlib import Path

import pytest

from reasongrm_nemo.data.jsonl import write_jsonl
from reasongrm_nemo.data.records import JudgeTask, SftExample
from reasongrm_nemo.megatron.weights import convert
from reasongrm_nemo.models.architecture import Layout
from reasongrm_nemo.processes.work_order import WorkOrder
from reasongrm_nemo.recipe.load import load_recipe, resolve_path
from reasongrm_nemo.rollout import RolloutServer, RolloutSettings

ROOT = Path(__file__).resolve().parents[2]
MODEL = "asset:tiny_judge"


def order_for(recipe, overrides, work, inputs, servers=()):
    work.mkdir(exist_ok=True)
    cfg = load_recipe(ROOT / "recipes" / recipe, overrides)
    return WorkOrder(cfg, work, resolve_path(MODEL, work), inputs, servers)


def stopped_after(work, step, copy):
    """Copy what a kill right after the checkpoint of ``step`` leaves behind, including rollouts."""
    shutil.copytree(work, copy)
    shutil.rmtree(copy / "hf")
    for checkpoint in (copy / "checkpoints").glob("step_*"):
        if int(checkpoint.name.removeprefix("step_")) > step:
            shutil.rmtree(checkpoint)
    assert (copy / "checkpoints" / f"step_{step:06d}").is_dir()


def weights(work):
    return (work / "hf" / "model.safetensors").read_bytes()


def metric_lines(work):
    return (work / "metrics.jsonl").read_text().splitlines()


@pytest.fixture
def questions():
    text = "Q:a=1;b=a+{};c=b*2;c?\n surely {}(A)\n maybe {}(B)"
    digits = ["zero", "two", "four", "six"]
    return [text.format(i % 3 + 1, digits[i % 4], digits[(i + 1) % 4]) for i in range(12)]


def test_sft_resumes_bitwise(launch, tmp_path, questions):
    """Eleven examples in batches of four: the last batch of an epoch holds three."""
    examples = [
        SftExample(
            task_id=f"t{i}",
            messages=[
                {"role": "user", "content": question},
                {"role": "assistant", "content": "a=1;b=1+1=2;c=2*2=4 is four(A)\n</think>\n\n[[A]]"},
            ],
            r_star=0.5,
            self_consistency=0.5,
            validity=1.0,
            strategy="r_star",
        )
        for i, question in enumerate(questions[:11])
    ]
    write_jsonl(tmp_path / "examples.jsonl", examples)
    overrides = ["sft.batch_size=4", "sft.epochs=2", "sft.save_every=2", "sft.keep_checkpoints=9"]
    overrides += ["sft.optim.schedule=cosine", "sft.optim.warmup_steps=1"]
    inputs = {"examples": tmp_path / "examples.jsonl"}
    unbroken = order_for("tiny/4_sft.yaml", overrides, tmp_path / "unbroken", inputs)
    launch("reasongrm_nemo.sft.main", 1, unbroken.write())
    lines = [json.loads(line) for line in metric_lines(unbroken.work)]
    assert [line["consumed_samples"] for line in lines] == [4, 8, 11, 15, 19, 22]
    assert [line["epoch"] for line in lines] == [1, 1, 1, 2, 2, 2]
    assert lines[-1]["lr"] == pytest.approx(unbroken.recipe.sft.optim.min_lr), "the cosine's end"

    stopped_after(unbroken.work, 2, tmp_path / "resumed")
    resumed = order_for("tiny/4_sft.yaml", overrides, tmp_path / "resumed", inputs)
    launch("reasongrm_nemo.sft.main", 1, resumed.write())
    assert len(metric_lines(resumed.work)) == 6
    assert weights(resumed.work) == weights(unbroken.work)
    assert weights(unbroken.work) != (resolve_path(MODEL, tmp_path) / "model.safetensors").read_bytes()

    # starting from a converted checkpoint (model.megatron_path) gives the same run
    convert.hf_to_megatron(resolve_path(MODEL, tmp_path), tmp_path / "megatron", Layout(2, 2))
    inputs["megatron"] = tmp_path / "megatron"
    converted = order_for("tiny/4_sft.yaml", overrides, tmp_path / "converted", inputs)
    launch("reasongrm_nemo.sft.main", 1, converted.write())
    assert weights(converted.work) == weights(unbroken.work)


def test_grpo_on_the_same_rollouts_resumes_bitwise(launch, tmp_path, questions, rollout_python):
    tasks = [
        JudgeTask(f"t{i}", f"p{i}", "test", [{"role": "user", "content": question}], "A", "chosen_first")
        for i, question in enumerate(questions)
    ]
    write_jsonl(tmp_path / "tasks.jsonl", tasks)
    overrides = ["grpo.steps=4", "grpo.prompts_per_step=4", "grpo.samples_per_prompt=4", "grpo.save_every=2"]
    overrides += ["grpo.keep_checkpoints=9", "grpo.optimizer_steps=2", "grpo.kl_coefficient=0.05"]
    # every option that keeps or reads additional state
    overrides += ["grpo.kl_in=reward", "grpo.refill_rounds=1", "grpo.importance.correction=truncated"]
    overrides += ["grpo.loss_aggregation=sequence", "grpo.mask_truncated=true", "grpo.overlong.buffer=40"]
    inputs = {"tasks": tmp_path / "tasks.jsonl"}
    cfg = load_recipe(ROOT / "recipes/tiny/1_grpo_zero.yaml", overrides)
    with RolloutServer(
        RolloutSettings.from_config(cfg), resolve_path(MODEL, tmp_path), tmp_path / "server.log"
    ) as server:
        unbroken = order_for(
            "tiny/1_grpo_zero.yaml", overrides, tmp_path / "unbroken", inputs, [server.spec()]
        )
        launch("reasongrm_nemo.grpo.main", 1, unbroken.write())
        assert len(metric_lines(unbroken.work)) == 4

        stopped_after(unbroken.work, 2, tmp_path / "resumed")
        resumed = order_for("tiny/1_grpo_zero.yaml", overrides, tmp_path / "resumed", inputs, [server.spec()])
        launch("reasongrm_nemo.grpo.main", 1, resumed.write())
    assert len(metric_lines(resumed.work)) == 4
    assert weights(resumed.work) == weights(unbroken.work)
