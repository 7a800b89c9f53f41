# SPDX-License-Identifier: Apache-2.0
"""Generate's token probabilities and scorer, the two orders, open answers from prepare to the examples."""

import json
import random
import shutil
from collections import Counter
from math import exp

import numpy as np
import pyarrow.parquet as pq
import pytest
from fake_pool import RECIPES, TINY, FakePool
from msgspec.structs import replace

from reasongrm_nemo.data import AnswerTask, ReasoningPath, SftExample, read_jsonl
from reasongrm_nemo.data.token_probs import GROUP_PATHS, TokenProbs, read_token_probs, write_token_probs
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.models.tokenization import prompt_ids, response_ids
from reasongrm_nemo.recipe.load import load_recipe
from reasongrm_nemo.rollout import Completion
from reasongrm_nemo.rstar import ineligible, score_path, score_sums
from reasongrm_nemo.stages import filter as filter_stage
from reasongrm_nemo.stages import generate, mine, prepare

BASE = "model.hf_path=asset:tiny_judge"
ALL = ["generate.skip_tasks=0", "generate.max_tasks=null", "generate.samples=3", BASE]
PROBS = [*ALL, "generate.keep_probs=true"]


class Uneven(FakePool):
    """Every token has a different probability; some are tiny."""

    def answer(self, prompt, sample):
        plain = super().answer(prompt, sample)
        rng = random.Random(prompt.seed + sample)
        logs = [-30.0 * rng.random() ** 4 for _ in plain.token_ids]
        return Completion(plain.prompt_id, sample, plain.token_ids, logs, plain.finish_reason)


def paths_of(ctx):
    return list(read_jsonl(ctx.work / "paths.jsonl", ReasoningPath))


# -- token probabilities ---------------------------------------------------------------------------------


def test_r_star_from_the_kept_probabilities_is_that_of_the_sums_to_fp16(context, tasks):
    plain = context("2_generate", *ALL, pool=Uneven(tasks), work="plain")
    generate.run(plain)
    assert not (plain.work / "probs.parquet").exists()
    ctx = context("2_generate", *PROBS, pool=Uneven(tasks))
    generate.run(ctx)
    assert (ctx.work / "paths.jsonl").read_bytes() == (plain.work / "paths.jsonl").read_bytes()
    paths, kept = paths_of(ctx), list(read_token_probs(ctx.work / "probs.parquet"))
    assert [(p.task_id, p.sample) for p in paths] == [(k.task_id, k.sample) for k in kept]
    worst = 0.0
    for path, probs in zip(paths, kept, strict=True):
        assert probs.reasoning.dtype == probs.answer.dtype == np.float16
        assert (len(probs.reasoning), len(probs.answer)) == (path.reasoning_tokens, path.answer_tokens)
        expected, actual = score_sums(path), score_path(probs.reasoning, probs.answer)
        # the module's bound: a relative error of 2^-11 in each mean, twice that in their product
        assert actual == pytest.approx(tuple(expected), rel=1e-3, abs=1e-7)
        worst = max(worst, abs(actual.score / expected.score - 1))
    assert worst > 1e-7  # so the sums are not simply copied


def test_probabilities_resume_and_shard_byte_for_byte(context, tasks, tmp_path):
    whole = context("2_generate", *PROBS, pool=Uneven(tasks), work="whole")
    generate.run(whole)
    folders = []
    for shard in (3, 1, 2):
        words = [*PROBS, f"generate.shard={shard}/3"]
        with pytest.raises(KeyboardInterrupt):
            generate.run(context("2_generate", *words, pool=cut(tasks), work=f"s{shard}"))
        partial = tmp_path / f"s{shard}" / "paths.jsonl.partial"
        partial.write_bytes(partial.read_bytes()[:-40])
        generate.run(context("2_generate", *words, pool=Uneven(tasks), work=f"s{shard}"))
        folders.append(str(tmp_path / f"s{shard}"))
    merged = context("2_generate", *PROBS, f"generate.shards=[{','.join(folders)}]", work="merged")
    generate.run(merged)
    for name in ("paths.jsonl", "probs.parquet"):
        assert (merged.work / name).read_bytes() == (whole.work / name).read_bytes()
    (tmp_path / "s1" / "probs.parquet").unlink()
    again = context("2_generate", *PROBS, f"generate.shards=[{','.join(folders)}]", work="again")
    with pytest.raises(UserError, match=r"s1/probs\.parquet: not a file of token probabilities"):
        generate.run(again)


def cut(tasks):
    pool = Uneven(tasks)
    pool.stop_after = 2
    return pool


def test_the_file_of_probabilities_is_read_by_row_groups(tmp_path):
    rng = np.random.default_rng(0)

    def row(n):
        parts = (rng.random(rng.integers(0, 9)).astype(np.float16) for _ in range(2))
        return TokenProbs(f"t{n // 8}", n % 8, *parts)

    rows = [row(n) for n in range(2 * GROUP_PATHS + 5)]
    write_token_probs(tmp_path / "p.parquet", iter(rows))
    assert pq.ParquetFile(tmp_path / "p.parquet").num_row_groups == 3
    for before, after in zip(rows, read_token_probs(tmp_path / "p.parquet"), strict=True):
        assert before[:2] == after[:2]
        assert np.array_equal(before.reasoning, after.reasoning)
        assert np.array_equal(before.answer, after.answer)
    write_token_probs(tmp_path / "none.parquet", [])
    assert list(read_token_probs(tmp_path / "none.parquet")) == []
    (tmp_path / "x.parquet").write_bytes(b"no")
    with pytest.raises(UserError, match=r"x\.parquet: not a file of token probabilities"):
        list(read_token_probs(tmp_path / "x.parquet"))


# -- the scorer ------------------------------------------------------------------------------------------


@pytest.fixture
def other_model(tmp_path):
    """A folder with another name and the tiny judge's files."""
    return shutil.copytree(TINY, tmp_path / "other")


def test_the_scorer_s_probabilities_replace_the_writer_s(context, tasks, other_model):
    plain = context("2_generate", *ALL, pool=FakePool(tasks), work="plain")
    generate.run(plain)
    pool = FakePool(tasks)
    words = [*PROBS, f"generate.scorer.hf_path={other_model}"]
    ctx = context("2_generate", *words, pool=pool)
    generate.run(ctx)
    assert pool.models == [TINY, other_model]
    prompts = {task.id: prompt_ids(pool.tokenizer, task.messages) for task in tasks}
    kept = read_token_probs(ctx.work / "probs.parquet")
    for before, after, probs in zip(paths_of(plain), paths_of(ctx), kept, strict=True):
        assert (after.text, after.verdict, after.reasoning_tokens, after.answer_tokens) == (
            before.text, before.verdict, before.reasoning_tokens, before.answer_tokens,
        )  # fmt: skip
        assert after.scorer == str(other_model) and before.scorer is None
        assert after.token_ids == before.token_ids == response_ids(pool.tokenizer, after.text)
        start = len(prompts[after.task_id])
        tokens = [*prompts[after.task_id], *response_ids(pool.tokenizer, after.text)]
        # the fake scorer computes a log-prob from token t and its index n in the sequence
        truth = [exp(-(t % 7 + 1) / (n + 8)) for n, t in enumerate(tokens)][start:]
        cut = after.reasoning_tokens
        assert after.reasoning_prob_sum == pytest.approx(sum(truth[:cut]), abs=1e-9)
        assert after.answer_prob_sum == pytest.approx(sum(truth[cut:]), abs=1e-9)
        assert probs.answer == pytest.approx(truth[cut:], abs=5e-4)  # fp16
    assert sorted(file.name for file in ctx.work.iterdir()) == ["paths.jsonl", "probs.parquet"]


def test_scoring_resumes_where_it_was_stopped(context, tasks, other_model):
    words = [*ALL, f"generate.scorer.hf_path={other_model}"]
    whole = context("2_generate", *words, pool=FakePool(tasks), work="whole")
    generate.run(whole)
    assert all(len(p.token_ids) == p.reasoning_tokens + p.answer_tokens for p in paths_of(whole))

    class Cut(FakePool):
        def score(self, prompt):
            if len(self.prompts) == 30 + 7:
                raise KeyboardInterrupt
            return super().score(prompt)

    with pytest.raises(KeyboardInterrupt):
        generate.run(context("2_generate", *words, pool=Cut(tasks), work="cut"))
    rest = FakePool(tasks)
    ctx = context("2_generate", *words, pool=rest, work="cut")
    generate.run(ctx)
    assert len(rest.prompts) == 90 - 6 and rest.models == [other_model]
    assert (ctx.work / "paths.jsonl").read_bytes() == (whole.work / "paths.jsonl").read_bytes()
    done = FakePool(tasks)
    generate.run(context("2_generate", *words, pool=done, work="cut"))
    assert not done.models


def test_a_scorer_with_another_tokenizer_reads_the_text(context, tasks, other_model):
    config = json.loads((other_model / "tokenizer.json").read_text())
    (other_model / "tokenizer.json").write_text(json.dumps(config, indent=1))  # same content, other bytes
    words = [*ALL, f"generate.scorer.hf_path={other_model}"]
    ctx = context("2_generate", *words, pool=FakePool(tasks))
    generate.run(ctx)
    for path in paths_of(ctx):
        tokens = len(response_ids(FakePool().tokenizer, path.text))
        assert path.reasoning_tokens + path.answer_tokens == tokens


def test_a_path_may_fill_the_context_but_not_pass_it(context, tasks, other_model):
    longest = max(len(prompt_ids(FakePool().tokenizer, task.messages)) for task in tasks)
    paths = context("2_generate", *ALL, pool=FakePool(tasks), work="plain")
    generate.run(paths)
    most = max(
        len(prompt_ids(FakePool().tokenizer, task.messages)) + p.reasoning_tokens + p.answer_tokens
        for task in tasks
        for p in paths_of(paths)
        if p.task_id == task.id
    )
    words = [*ALL, f"generate.scorer.hf_path={other_model}", f"judge.max_prompt_tokens={longest}"]
    words += ["rollout.max_response_tokens=1"]
    fits = context("2_generate", *words, f"model.max_model_len={most}", pool=FakePool(tasks), work="fits")
    assert generate.run(fits)["paths"] == 90
    ctx = context("2_generate", *words, f"model.max_model_len={most - 1}", pool=FakePool(tasks))
    assert generate.run(ctx)["paths"] == 90
    without = [path for path in paths_of(ctx) if path.unscored]
    reason = "longer than model.max_model_len to the scorer"
    assert without and all(p.unscored == reason and p.scorer == str(other_model) for p in without)
    assert {(p.reasoning_tokens, p.answer_tokens, p.reasoning_prob_sum) for p in without} == {(0, 0, 0.0)}
    assert ctx.drops == {f"path without R*: {reason}": len(without)}
    assert ineligible(replace(without[0], correct=True, verdict="A")) == "unscored"
    scored = {(path.task_id, path.sample): path for path in paths_of(ctx) if not path.unscored}
    assert all(scored.get((p.task_id, p.sample), p) == p for p in paths_of(fits))


# -- both orders -----------------------------------------------------------------------------------------


class FirstIsBest(FakePool):
    """Prefers the first answer, whatever it is."""

    def answer(self, prompt, sample):
        ids = [*response_ids(self.tokenizer, "a=1\n</think>\n\n[[A]]"), self.tokenizer.eos_token_id]
        return Completion(prompt.id, sample, ids, [-0.1] * len(ids), "stop")


@pytest.mark.parametrize("stage", ["generate", "mine"])
def test_the_two_orders_are_compared_for_pairs_judged_in_both(context, tmp_path, stage, capsys):
    run, recipe = {"generate": (generate.run, "2_generate"), "mine": (mine.run, "5_mine")}[stage]
    words = [f"{stage}.skip_tasks=0", f"{stage}.max_tasks=null", f"{stage}.samples=2", BASE]
    for both, pairs in ((False, 0), (True, 12)):
        folder = f"tasks{both}"
        small = ["prepare.tiny_judge.train=12", "prepare.tiny_judge.validation=2"]
        prepare.run(context("0_prepare", *small, f"prepare.both_orders={both}", work=folder))
        given = [*words, f"inputs.tasks={tmp_path}/{folder}/tasks.jsonl"]
        ctx = context(recipe, *given, pool=FirstIsBest(), work=f"{stage}{both}")
        ctx.console.quiet = False
        figures = run(ctx)["positions"]
        said = capsys.readouterr().err
        assert "first answer preferred 100.0% of the time" in said
        assert ("12 pairs in both orders: consistent 0.0%, always first 100.0%" in said) == both
        assert figures["both"]["pairs"] == pairs and figures["position_a"]["value"] == 1.0
        assert figures["chosen_first"]["value"] == 1.0 and figures["rejected_first"]["value"] == 0.0


# -- open answers ----------------------------------------------------------------------------------------


class Answering(FakePool):
    """Gives the reference in another form, a wrong number, or nothing that can be parsed."""

    def answer(self, prompt, sample):
        reference = self.tasks[prompt.id].reference
        said = [f"{reference}.0", f"{int(reference) + 1}", "a=1\na=2", f"{reference}"][
            (prompt.seed + sample) % 4
        ]
        ids = [*response_ids(self.tokenizer, f"a=1;a=1\n</think>\n\n{said}"), self.tokenizer.eos_token_id]
        logs = [-0.1 * (sample + 1)] * len(ids)
        return Completion(prompt.id, sample, ids, logs, "stop")


def test_open_answers_from_questions_to_examples(context, tmp_path):
    lines = [json.dumps({"question": f"a={n};b=a+1;b?", "answer": str(n + 1)}) for n in range(8)]
    bad = {
        "the reference holds no single final answer": {"question": "a=9;a?", "answer": "it\ndepends"},
        "not an object, a field is missing, or one is of the wrong type": {"question": "a=9;a?"},
        "the pair or question was there before": {"question": "a=0;b=a+1;b?", "answer": "1"},
    }
    twice = [{"question": "a=7;a?", "answer": answer} for answer in "78"]
    (tmp_path / "q.jsonl").write_text("\n".join([*lines, *map(json.dumps, [*bad.values(), *twice])]))
    words = ["prepare.kind=questions", f"prepare.source={tmp_path}/q.jsonl", "prepare.instruction=''"]
    prepared = context("0_prepare", *words, "prepare.validation_fraction=0", work="prepared")
    assert prepare.run(prepared) == {"tasks": 8, "validation": 0}
    assert dict(prepared.drops) == {
        **dict.fromkeys(bad, 1),
        "the question is there with another reference; all its copies are left out": 2,
    }
    tasks = list(read_jsonl(prepared.work / "tasks.jsonl", AnswerTask))
    given = f"inputs.tasks={prepared.work}/tasks.jsonl"
    generated = context(
        "2_generate", *ALL, "generate.samples=4", given, pool=Answering(tasks), work="generated"
    )
    figures = generate.run(generated)
    assert figures["right"] == 0.5 and "positions" not in figures
    paths = paths_of(generated)
    by_id = {task.id: task for task in tasks}
    assert Counter(p.parse_status for p in paths) == {"ok": 24, "no_answer": 8}
    for path in paths:
        said = None if path.answer is None else float(path.answer)
        assert path.correct == (said == float(by_id[path.task_id].reference)) and path.verdict is None
    exact = context(
        "2_generate", *ALL, "generate.equivalence=exact", given, pool=Answering(tasks), work="exact"
    )
    generate.run(exact)
    assert all(p.correct == (p.answer == by_id[p.task_id].reference) for p in paths_of(exact))

    ctx = context("3_filter", given, f"inputs.paths={generated.work}/paths.jsonl", work="filtered")
    filter_stage.run(ctx)
    examples = list(read_jsonl(ctx.work / "examples.jsonl", SftExample))
    assert {e.task_id for e in examples} == set(by_id)
    for example in examples:
        right = [p for p in paths if p.task_id == example.task_id and p.correct]
        best = max(right, key=lambda p: score_sums(p).score)
        assert example.messages == [
            *by_id[example.task_id].messages,
            {"role": "assistant", "content": "<think>\n" + best.text},
        ]
        assert example.token_ids == best.token_ids == response_ids(FakePool().tokenizer, best.text)
    assert ctx.drops["path: no verdict"] == 8 and ctx.drops["path: wrong"] == 8


def test_only_generate_and_filter_take_open_answers(context, tmp_path):
    task = AnswerTask("q", "s", [{"role": "user", "content": "a=1;a?"}], "1")
    (tmp_path / "t.jsonl").write_text(json.dumps(task.to_dict()))
    words = ["mine.skip_tasks=0", BASE, f"inputs.tasks={tmp_path}/t.jsonl"]
    with pytest.raises(UserError, match="JudgeTask has no field 'reference'"):
        mine.run(context("5_mine", *words))
    with pytest.raises(UserError, match=r"prepare\.kind is questions, and prepare\.source tiny_judge makes"):
        load_recipe(RECIPES / "0_prepare.yaml", ["prepare.kind=questions"])
