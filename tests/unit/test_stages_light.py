# SPDX-License-Identifier: Apache-2.0
"""Generate, filter and mine on the tiny task, with answers made up by the test."""

import gzip
import json
import random
from collections import Counter

import pytest
from fake_pool import BASE, RECIPES, TINY, FakePool

from reasongrm_nemo.data import (
    ReasoningPath,
    SftExample,
    read_jsonl,
)
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.models.tokenization import load_tokenizer, prompt_ids
from reasongrm_nemo.processes.stop_requests import STOP_FILE, Stopped, marked
from reasongrm_nemo.recipe.load import load_recipe
from reasongrm_nemo.rstar import score_sums
from reasongrm_nemo.stages import filter as filter_stage
from reasongrm_nemo.stages import generate, mine
from reasongrm_nemo.stages.tasks import load_tasks, take_shard


def few(*more):
    return ["generate.skip_tasks=5", "generate.max_tasks=12", "generate.samples=4", BASE, *more]


def test_generate_writes_every_path_in_the_order_of_the_tasks(context, tasks):
    pool = FakePool(tasks)
    ctx = context("2_generate", *few(), pool=pool)
    figures = generate.run(ctx)
    paths = list(read_jsonl(ctx.work / "paths.jsonl", ReasoningPath))
    assert [(p.task_id, p.sample) for p in paths] == [(t.id, s) for t in tasks[5:17] for s in range(4)]
    assert figures["tasks"] == 12 and figures["paths"] == 48
    assert figures["right"] == sum(p.correct for p in paths) / 48
    assert {p.parse_status for p in paths} == {"ok", "no_verdict"}
    assert all(p.model == "asset:tiny_judge" and not p.text.endswith("<|im_end|>") for p in paths)
    assert all(0 < score_sums(p).score < 1 for p in paths if p.correct)
    assert pool.samplings[0].temperature == 1.0 and pool.samplings[0].max_tokens == 160
    assert pool.tokenizer.eos_token_id in pool.samplings[0].stop_token_ids
    assert not list(ctx.work.glob("*.partial"))


def test_generate_resumes_where_it_was_stopped(context, tasks):
    whole = context("2_generate", *few(), pool=FakePool(tasks), work="whole")
    generate.run(whole)
    stopped = FakePool(tasks, stop_after=5)
    with pytest.raises(KeyboardInterrupt):
        generate.run(context("2_generate", *few(), pool=stopped, work="cut"))
    rest = FakePool(tasks)
    ctx = context("2_generate", *few(), pool=rest, work="cut")
    partial = ctx.work / "paths.jsonl.partial"
    # a task with some paths missing and a torn line, as a kill leaves them
    lines = partial.read_bytes().splitlines(keepends=True)
    partial.write_bytes(b"".join(lines[:-2]) + lines[-2][:40])
    generate.run(ctx)
    assert len(rest.prompts) == 12 - 4
    assert (ctx.work / "paths.jsonl").read_bytes() == (whole.work / "paths.jsonl").read_bytes()
    done = FakePool(tasks)
    generate.run(context("2_generate", *few(), pool=done, work="cut"))
    assert done.prompts == []


def test_generate_ends_on_a_stop_request_and_keeps_finished_paths(context, tasks):
    class Asked(FakePool):
        def answer(self, prompt, sample):
            if len(self.prompts) == 5:
                (ctx.work.parent / "runs" / STOP_FILE).touch()
            return super().answer(prompt, sample)

    ctx = context("2_generate", *few(), pool=Asked(tasks), work="cut")
    with pytest.raises(Stopped, match="2_generate has ended, and its samples are kept"):
        generate.run(ctx)
    assert "stop" in marked(ctx.work)["reason"]
    (ctx.work.parent / "runs" / STOP_FILE).unlink()
    rest = FakePool(tasks)
    generate.run(context("2_generate", *few(), pool=rest, work="cut"))
    assert len(rest.prompts) == 12 - 5


def test_seeds_depend_only_on_the_task_and_the_run(context, tasks):
    def seeds(*words):
        pool = FakePool(tasks)
        generate.run(context("2_generate", *words, pool=pool, work=f"w{len(words)}{words[-1]}"))
        return {prompt.id: prompt.seed for prompt in pool.prompts}

    some, all_of_them = seeds(*few()), seeds("generate.skip_tasks=0", "generate.max_tasks=null", BASE)
    assert some == {name: all_of_them[name] for name in some}
    assert all(0 <= seed < 2**31 - 8 for seed in all_of_them.values())
    assert seeds(*few("seed=2")) != some


def test_generate_drops_prompts_that_are_too_long(context, tasks):
    tokenizer = load_tokenizer(TINY)
    limit = sorted(len(prompt_ids(tokenizer, task.messages)) for task in tasks)[14]
    ctx = context(
        "2_generate", f"judge.max_prompt_tokens={limit}", "generate.skip_tasks=0", BASE, pool=FakePool(tasks)
    )
    figures = generate.run(ctx)
    assert figures["tasks"] + ctx.drops["prompt longer than judge.max_prompt_tokens"] == 30
    assert ctx.drops
    with pytest.raises(UserError, match=r"prompts are longer than judge\.max_prompt_tokens 3"):
        generate.run(
            context("2_generate", "judge.max_prompt_tokens=3", "generate.skip_tasks=0", BASE, work="none")
        )


def test_tasks_files_without_tasks_are_refused(tmp_path, tasks):
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(UserError, match="has no tasks"):
        load_tasks(tmp_path / "empty.jsonl")
    path = tmp_path / "runs" / "0_prepare" / "tasks.jsonl"
    assert len(load_tasks(path, 10, 5)) == 5
    with pytest.raises(UserError, match=r"has no tasks after the first 99 \(skip_tasks\)"):
        load_tasks(path, 99)
    path.write_bytes(path.read_bytes() * 2)
    with pytest.raises(UserError, match="occurs twice"):
        load_tasks(path)
    bad = json.loads(path.read_text().splitlines()[0]) | {"label": "C"}
    (tmp_path / "bad.jsonl").write_text(json.dumps(bad) + "\n")
    with pytest.raises(UserError, match=r"bad\.jsonl:1.*label"):
        load_tasks(tmp_path / "bad.jsonl")


@pytest.fixture
def generated(context, tasks, tmp_path):
    generate.run(context("2_generate", *few(), pool=FakePool(tasks), work="runs/2_generate"))
    return list(read_jsonl(tmp_path / "runs" / "2_generate" / "paths.jsonl", ReasoningPath))


def test_filter_takes_the_right_path_with_the_highest_r_star(context, generated):
    ctx = context("3_filter")
    figures = filter_stage.run(ctx)
    examples = {e.task_id: e for e in read_jsonl(ctx.work / "examples.jsonl", SftExample)}
    right = [path for path in generated if path.correct]
    assert set(examples) == {path.task_id for path in right}
    for task_id, example in examples.items():
        assert example.r_star == max(score_sums(p).score for p in right if p.task_id == task_id)
        assert example.strategy == "r_star"
    assert figures["examples"] == len(examples) and figures["right_paths"] == len(right)
    others = list(read_jsonl(ctx.work / "examples_random.jsonl", SftExample))
    assert {e.task_id for e in others} == set(examples) and {e.strategy for e in others} == {"random"}
    assert json.loads((ctx.work / "report.json").read_text())["tasks"] == 12
    assert ctx.drops["path: wrong"] == sum(not p.correct and p.verdict is not None for p in generated)


def test_filter_top_k_floors_and_extremes(context, generated):
    words = ["filter.top_k=2", "filter.min_validity=0.85", "filter.extremes=2"]
    ctx = context("3_filter", *words)
    figures = filter_stage.run(ctx)
    sure = [p for p in generated if p.correct and score_sums(p).validity >= 0.85]
    examples = list(read_jsonl(ctx.work / "examples.jsonl", SftExample))
    counts = Counter(p.task_id for p in sure)
    assert Counter(e.task_id for e in examples) == {task: min(count, 2) for task, count in counts.items()}
    assert figures["examples"] == len(examples)
    others = list(read_jsonl(ctx.work / "examples_random.jsonl", SftExample))
    assert Counter(e.task_id for e in others) == Counter(e.task_id for e in examples)
    right = sum(p.correct for p in generated)
    assert 0 < ctx.drops["path: low validity"] == right - len(sure)
    text = (ctx.work / "extremes.txt").read_text()
    assert text.count("R* 0.") == 2 * text.count("-" * 58 + " |") > 0
    with pytest.raises(UserError, match=r"above the floors of filter\.min_\*"):
        filter_stage.run(context("3_filter", "filter.min_r_star=0.999", work="none"))
    with pytest.raises(UserError, match=r"filter\.min_validity is 1\.5; it must be from 0 to 1"):
        load_recipe(RECIPES / "3_filter.yaml", ["filter.min_validity=1.5"])


def test_filter_reads_compressed_files_too(context, generated, tmp_path):
    plain = context("3_filter", work="plain")
    filter_stage.run(plain)
    for name in ("tasks", "paths"):
        packed = gzip.compress(plain.inputs[name].read_bytes())
        (tmp_path / f"{name}.jsonl.gz").write_bytes(packed)
    words = [f"inputs.{name}={tmp_path}/{name}.jsonl.gz" for name in ("tasks", "paths")]
    again = context("3_filter", *words, work="packed")
    filter_stage.run(again)
    for name in ("examples.jsonl", "examples_random.jsonl", "report.json", "extremes.txt"):
        assert (plain.work / name).read_bytes() == (again.work / name).read_bytes()


def test_filter_without_a_right_path_says_what_to_do(context, generated, tmp_path):
    wrong = [p.to_dict() | {"correct": False} for p in generated]
    (tmp_path / "wrong.jsonl").write_text("\n".join(map(json.dumps, wrong)))
    with pytest.raises(UserError, match=r"none of the 48 paths .* generate more paths"):
        filter_stage.run(context("3_filter", f"inputs.paths={tmp_path}/wrong.jsonl"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"sample": 1}, "sample 1 twice"),
        ({"sample": 2**70}, "a number past 64 bits"),
        ({"reasoning_prob_sum": 1e9}, "cannot be a sum of"),
    ],
)
def test_filter_names_the_file_of_impossible_paths(context, generated, tmp_path, change, says):
    records = [path.to_dict() for path in generated]
    records[0] |= change
    (tmp_path / "odd.jsonl").write_text("\n".join(map(json.dumps, records)))
    with pytest.raises(UserError, match=rf"odd\.jsonl: .*{says}"):
        filter_stage.run(context("3_filter", f"inputs.paths={tmp_path}/odd.jsonl"))


def test_filter_with_the_wrong_tasks_says_so(context, generated, tmp_path):
    with pytest.raises(UserError, match=r"has a path of task .* which is missing in inputs\.tasks"):
        filter_stage.run(context("3_filter", "inputs.tasks=@0_prepare/validation.jsonl"))


@pytest.mark.parametrize("stage", ["generate", "mine"])
def test_seven_shards_in_any_order_two_of_them_interrupted_make_the_whole(context, tasks, tmp_path, stage):
    run, recipe = {"generate": (generate.run, "2_generate"), "mine": (mine.run, "5_mine")}[stage]
    words = [f"{stage}.skip_tasks=0", f"{stage}.max_tasks=null", f"{stage}.samples=3", BASE]
    whole = context(recipe, *words, pool=FakePool(tasks), work="whole")
    figures = run(whole)
    one = context(recipe, *words, f"{stage}.shard=1/1", pool=FakePool(tasks), work="one")
    assert run(one) == figures

    order = list(range(1, 8))
    random.Random(4).shuffle(order)
    asked = Counter()
    largest = sorted(order, key=lambda shard: -len(take_shard(tasks, f"{shard}/7")))
    for shard in order:
        given = [*words, f"{stage}.shard={shard}/7"]
        if shard in largest[:2]:
            pool = FakePool(tasks, stop_after=2)
            with pytest.raises(KeyboardInterrupt):
                run(context(recipe, *given, pool=pool, work=f"shard{shard}"))
            partial = tmp_path / f"shard{shard}" / "paths.jsonl.partial"
            partial.write_bytes(partial.read_bytes()[:-40])  # as a kill within a line leaves it
        pool = FakePool(list(reversed(tasks)))
        run(context(recipe, *given, pool=pool, work=f"shard{shard}"))
        asked.update(prompt.id for prompt in pool.prompts)
    # an interrupted shard had answered two tasks; the complete one is not asked again
    assert set(asked.values()) == {1} and len(asked) == 30 - 2

    paths = [str(tmp_path / f"shard{shard}") for shard in order]
    merge = f"{stage}.shards=[{','.join(paths)}]"
    idle = FakePool(tasks)
    merged = context(recipe, *words, merge, pool=idle, work="merged")
    assert run(merged) == figures and not idle.models
    assert merged.drops == whole.drops
    for file in whole.work.iterdir():
        assert (one.work / file.name).read_bytes() == file.read_bytes()
        assert (merged.work / file.name).read_bytes() == file.read_bytes()

    def refused(match, *files):
        listed = ",".join(files)
        with pytest.raises(UserError, match=match):
            run(context(recipe, *words, f"{stage}.shards=[{listed}]", pool=idle, work="refused"))

    refused(r"the shards lack paths of \d+ of 30 tasks", *paths[1:])
    refused("occurs twice", *paths, paths[0])
    more = context(recipe, *words[:2], f"{stage}.samples=2", BASE, merge, pool=idle, work="more")
    with pytest.raises(UserError, match="exceeds the 2 samples"):
        run(more)
    fewer = context(recipe, words[0], f"{stage}.max_tasks=3", *words[2:], merge, pool=idle, work="fewer")
    with pytest.raises(UserError, match="which is not in this recipe"):
        run(fewer)


def test_a_shard_may_be_empty_and_added_tasks_move_no_others(context, tasks):
    shares = [take_shard(tasks, f"{index}/9") for index in range(1, 10)]
    assert sorted(task.id for share in shares for task in share) == sorted(task.id for task in tasks)
    assert max(map(len, shares)) < 12
    some, half = tasks[::-2], {task.id for task in take_shard(tasks, "1/2")}
    assert 0 < len(half) < 30
    assert {task.id for task in take_shard(some, "1/2")} == {task.id for task in some} & half
    assert take_shard(tasks, None) == take_shard(tasks, "1/1") == tasks
    absent = next(index for index in range(1, 100) if not take_shard(tasks, f"{index}/99"))
    words = ["skip_tasks=0", "max_tasks=null", "samples=2", f"shard={absent}/99"]
    pool = FakePool(tasks)
    ctx = context("2_generate", *(f"generate.{word}" for word in words), BASE, pool=pool, work="a")
    assert generate.run(ctx)["paths"] == 0
    ctx = context("5_mine", *(f"mine.{word}" for word in words), BASE, pool=pool, work="b")
    assert mine.run(ctx)["hard"] == 0
    assert (ctx.work / "paths.jsonl").read_bytes() == (ctx.work / "hard.jsonl").read_bytes() == b""
    for bad in ("0/7", "8/7", "3", "a/b", "1/0", "-1/3"):
        with pytest.raises(UserError, match=r"generate\.shard is"):
            load_recipe(RECIPES / "2_generate.yaml", [f"generate.shard={bad}"])
    with pytest.raises(UserError, match="merge shards in a separate run"):
        load_recipe(RECIPES / "2_generate.yaml", ["generate.shard=1/2", "generate.shards=[x]"])
