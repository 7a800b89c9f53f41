# SPDX-License-Identifier: Apache-2.0
"""Data that does not fit the trained model is left out and counted before its ranks start."""

import json
import shutil
from types import SimpleNamespace

import pytest
from fake_pool import TINY, FakePool
from msgspec.structs import replace

from reasongrm_nemo.data import JudgeTask, SftExample, read_tasks, write_jsonl
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.grpo.order import taken
from reasongrm_nemo.models.tokenization import load_tokenizer, prompt_ids
from reasongrm_nemo.processes.work_order import WorkOrder
from reasongrm_nemo.stages import evaluate, generate, grpo, mine, sft

LONG = "example longer than model.max_model_len"


@pytest.fixture
def started(monkeypatch):
    """The number of steps of every start of the ranks, which do nothing."""
    steps = []

    def run_ranks(ctx, module, count, servers=()):
        steps.append(count)
        (ctx.work / "metrics.jsonl").write_text("")
        (ctx.work / "hf").mkdir(exist_ok=True)

    for stage in ("sft", "grpo"):
        monkeypatch.setattr(f"reasongrm_nemo.stages.{stage}.run_ranks", run_ranks)
        monkeypatch.setattr(f"reasongrm_nemo.stages.{stage}.check_export", lambda ctx: None)
    return steps


def example(name, words, turns=1):
    asked = [{"role": "user", "content": "Q:a=1;a?"}] * turns
    return SftExample(
        name,
        [*asked, {"role": "assistant", "content": "a" * words + "</think>\n\n[[A]]"}],
        0.5,
        0.5,
        0.5,
        "r_star",
    )


@pytest.fixture
def examples(tmp_path):
    """Seven short examples and one that no context of 320 tokens holds."""
    (tmp_path / "runs" / "3_filter").mkdir(parents=True, exist_ok=True)
    file = tmp_path / "runs" / "3_filter" / "examples.jsonl"
    write_jsonl(file, [example(f"t{i}", 2000 if i == 3 else 8) for i in range(8)])
    return file


def test_an_example_longer_than_the_context_is_left_out_of_sft(context, examples, started):
    ctx = context("4_sft", "sft.batch_size=4", "sft.epochs=3")
    assert sft.run(ctx)["examples"] == 7
    assert started == [6], "seven examples in fours are two steps an epoch"
    assert ctx.drops == {LONG: 1}
    assert json.loads((ctx.work / "left_out.json").read_text()) == {"examples": {LONG: [3]}}
    order = WorkOrder(ctx.cfg, ctx.work, TINY, ctx.inputs)
    assert order.left_out("examples") == {3} and order.left_out("tasks") == frozenset()


def test_the_ranks_read_the_remaining_examples(context, examples, started):
    pytest.importorskip("nemo")
    from reasongrm_nemo.sft.data import read_samples

    ctx = context("4_sft", "sft.validation={every: 10, fraction: 0.4}")
    figures = sft.run(ctx)
    order = WorkOrder(ctx.cfg, ctx.work, TINY, ctx.inputs)
    trained, held_out = read_samples(examples, ctx.cfg, TINY, order.left_out("examples"))
    assert (len(trained), len(held_out)) == (figures["examples"], figures["held_out"])
    assert len(trained) + len(held_out) == 7
    assert max(len(sample.tokens) for sample in trained + held_out) < 320


def test_an_error_counts_the_examples_if_none_fits(context, examples, started):
    write_jsonl(examples, [example("t", 2000), example("u", 3000)])
    with pytest.raises(UserError, match=rf"holds no example to train on \({LONG}: 2\)"):
        sft.run(context("4_sft"))
    write_jsonl(examples, [])
    with pytest.raises(UserError, match=r"holds no example to train on$"):
        sft.run(context("4_sft"))
    write_jsonl(examples, [example("t", 8)])
    with pytest.raises(UserError, match=r"of the 1 examples in .* leaves none to validate on"):
        sft.run(context("4_sft", "sft.validation={every: 10, fraction: 0.0001}"))
    assert not started


def refusing(folder):
    """The tiny judge with a chat template that accepts only one turn."""
    shutil.copytree(TINY, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    check = "{% if messages|length > 1 %}{{ raise_exception('one turn') }}{% endif %}"
    config["chat_template"] = check + config["chat_template"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def talkative(task):
    """The task with another question and its answer before it."""
    turns = [{"role": "user", "content": "hm"}, {"role": "assistant", "content": "yes"}]
    return replace(task, messages=[*turns, *task.messages])


@pytest.mark.parametrize(("stage", "recipe"), [(generate, "2_generate"), (mine, "5_mine")])
def test_tasks_that_a_chat_template_refuses_are_not_sent(stage, recipe, context, tasks, tmp_path):
    """The turns of single tasks do not end the stage."""
    some = [talkative(task) if i in (1, 4) else task for i, task in enumerate(tasks[:8])]
    file = tmp_path / "some.jsonl"
    write_jsonl(file, some)
    pool = FakePool(tasks)
    overrides = [f"{recipe[2:]}.skip_tasks=0", f"inputs.tasks={file}"]
    strict = refusing(tmp_path / "strict")
    ctx = context(recipe, f"model.hf_path={strict}", *overrides, pool=pool)
    assert stage.run(ctx)["tasks"] == 6
    assert ctx.drops["task whose turns the chat template refuses"] == 2
    assert {prompt.id for prompt in pool.prompts} == {
        task.id for i, task in enumerate(some) if i not in (1, 4)
    }
    write_jsonl(file, map(talkative, tasks[:3]))
    with pytest.raises(UserError, match=r"none of the 3 tasks can be put into a prompt: .* one turn"):
        stage.run(context(recipe, f"model.hf_path={strict}", *overrides, pool=pool, work="again"))


def test_held_out_tasks_that_a_chat_template_refuses_have_no_verdict(context, tasks, tmp_path):
    file = tmp_path / "some.jsonl"
    write_jsonl(file, [talkative(task) if i == 2 else task for i, task in enumerate(tasks[:5])])
    strict = refusing(tmp_path / "strict")
    models = f"evaluate.models={{loose: {TINY}, strict: {strict}}}"
    setting = "evaluate.settings=[{temperature: 1.0, samples: 2}]"
    ctx = context("7_evaluate", models, setting, f"inputs.tasks={file}", pool=FakePool(tasks))
    evaluate.run(ctx)
    assert ctx.drops == {"task whose turns the chat template refuses, counted as no verdict": 2}
    rows = [json.loads(line) for line in (ctx.work / "verdicts" / "strict_t1.jsonl").read_text().splitlines()]
    refused = [row for row in rows if row["parse_status"] == "prompt_refused"]
    assert len(rows) == 10 and [row["item_id"] for row in refused] == [rows[4]["item_id"]] * 2
    assert [row["correct"] for row in refused] == [False, False]


def test_tasks_that_a_chat_template_refuses_are_left_out_of_grpo(context, tasks, started, pool, tmp_path):
    file = tmp_path / "some.jsonl"
    write_jsonl(file, [talkative(task) if i in (0, 3) else task for i, task in enumerate(tasks[:6])])
    words = [f"model.hf_path={refusing(tmp_path / 'strict')}", f"inputs.tasks={file}"]
    ctx = context("1_grpo_zero", *words, pool=pool)
    assert grpo.run(ctx)["tasks"] == 4
    assert ctx.drops == {"task whose turns the chat template refuses": 2}
    assert WorkOrder(ctx.cfg, ctx.work, TINY, ctx.inputs).left_out("tasks") == {0, 3}


def test_turns_that_a_chat_template_refuses_are_left_out(context, examples, started, tmp_path):
    strict = refusing(tmp_path / "strict")
    write_jsonl(examples, [example("t", 8), example("u", 8, turns=2), example("v", 8)])
    ctx = context("4_sft", f"model.hf_path={strict}")
    assert sft.run(ctx)["examples"] == 2
    assert ctx.drops == {"example whose turns the chat template refuses": 1}


@pytest.fixture
def pool():
    return SimpleNamespace(get=lambda cfg, model: SimpleNamespace(servers=[]))


def test_prompts_that_are_too_long_are_left_out_of_grpo(context, tasks, started, pool):
    file = context("1_grpo_zero").inputs["tasks"]
    tokenizer = load_tokenizer(TINY)
    lengths = [len(prompt_ids(tokenizer, task.messages)) for task in tasks]
    limit = sorted(lengths)[20]
    words = [f"judge.max_prompt_tokens={limit}", "grpo.skip_tasks=2", "grpo.max_tasks=25"]
    ctx = context("1_grpo_zero", *words, pool=pool)
    long = [index for index, length in enumerate(lengths) if length > limit and 2 <= index < 27]
    assert long and grpo.run(ctx)["tasks"] == 25 - len(long)
    assert ctx.drops == {"prompt longer than judge.max_prompt_tokens": len(long)}
    left_out = WorkOrder(ctx.cfg, ctx.work, TINY, ctx.inputs).left_out("tasks")
    assert left_out == set(long)
    assert taken(file, 2, 25, left_out) == [t for i, t in enumerate(tasks[:27]) if i >= 2 and i not in long]
    assert taken(file, 28, None) == tasks[28:]


def test_held_out_prompts_that_are_too_long_are_left_out_too(context, tasks, started, pool, tmp_path):
    held_out = list(read_tasks(tmp_path / "runs" / "0_prepare" / "validation.jsonl"))
    wordy = [{"role": "user", "content": "why? " * 400}]
    held_out[1] = JudgeTask("wordy", "p", "s", wordy, "A", "chosen_first")
    file = tmp_path / "held_out.jsonl"
    write_jsonl(file, held_out)
    words = [f"inputs.validation={file}", "grpo.validation={every: 1, max_tasks: 3}", "grpo.save_every=1"]
    ctx = context("1_grpo_zero", *words, pool=pool)
    grpo.run(ctx)
    assert ctx.drops == {"validation prompt longer than judge.max_prompt_tokens": 1}
    assert WorkOrder(ctx.cfg, ctx.work, TINY, ctx.inputs).left_out("validation") == {1}


def test_a_run_without_a_fitting_prompt_is_refused_before_a_server_starts(context, tasks, started):
    with pytest.raises(UserError, match=r"no task whose prompt fits judge\.max_prompt_tokens 3"):
        grpo.run(context("1_grpo_zero", "judge.max_prompt_tokens=3"))
    with pytest.raises(UserError, match=r"no tasks after the first 500 \(grpo\.skip_tasks\)"):
        grpo.run(context("1_grpo_zero", "grpo.skip_tasks=500"))


@pytest.mark.parametrize(("stage", "recipe"), [(sft, "4_sft"), (grpo, "1_grpo_zero")])
def test_a_megatron_checkpoint_of_other_weights_is_refused_before_ranks_or_servers(
    stage, recipe, context, tasks, examples, started, tmp_path
):
    pytest.importorskip("megatron.core")
    (tmp_path / "megatron").mkdir()
    with pytest.raises(UserError, match=r"^model.megatron_path: \S+ was not converted from model.hf_path"):
        stage.run(context(recipe, f"model.megatron_path={tmp_path / 'megatron'}"))
    assert started == []
