# SPDX-License-Identifier: Apache-2.0
"""Mining on the tiny task, with answers made up by the test."""

import pytest
from fake_pool import BASE, RECIPES, FakePool

from reasongrm_nemo.data import (
    HardTask,
    ReasoningPath,
    SftExample,
    read_jsonl,
    write_jsonl,
)
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.recipe.load import load_recipe
from reasongrm_nemo.rstar import select_paths
from reasongrm_nemo.stages import mine


def test_mine_keeps_the_tasks_that_are_not_always_right(context, tasks):
    words = ["mine.skip_tasks=0", "mine.max_tasks=20", "mine.samples=2", BASE]
    ctx = context("5_mine", *words, pool=FakePool(tasks))
    figures = mine.run(ctx)
    hard = list(read_jsonl(ctx.work / "hard.jsonl", HardTask))
    paths = list(read_jsonl(ctx.work / "paths.jsonl", ReasoningPath))
    always = {t.id for t in tasks[:20] if all(p.correct for p in paths if p.task_id == t.id)}
    assert always and {task.id for task in hard} == {t.id for t in tasks[:20]} - always
    assert all(task.accuracy < 1 and len(task.answers) == 2 for task in hard)
    assert figures["hard"] == len(hard) and ctx.drops["task always right"] == len(always)


def test_mine_prefers_the_chosen_examples_as_rationales(context, tasks, tmp_path):
    words = ["mine.skip_tasks=0", "mine.max_tasks=20", "mine.samples=4", BASE]
    plain = context("5_mine", *words, "inputs.examples=null", pool=FakePool(tasks), work="plain")
    mine.run(plain)
    paths = list(read_jsonl(plain.work / "paths.jsonl", ReasoningPath))
    best = {path.task_id: path.text for path in select_paths(paths)}
    hard = list(read_jsonl(plain.work / "hard.jsonl", HardTask))
    assert {task.id: task.rationale for task in hard} == best
    messages = [*hard[3].messages, {"role": "assistant", "content": "the one"}]
    write_jsonl(tmp_path / "e.jsonl", [SftExample(hard[3].id, messages, 0.5, 0.5, 0.5, "r_star")])
    ctx = context("5_mine", *words, f"inputs.examples={tmp_path}/e.jsonl", pool=FakePool(tasks))
    mine.run(ctx)
    rationales = {task.id: task.rationale for task in read_jsonl(ctx.work / "hard.jsonl", HardTask)}
    assert rationales == best | {hard[3].id: "the one"}


def test_mine_takes_the_best_of_several_examples_as_the_rationale(context, tasks, tmp_path):
    words = ["mine.skip_tasks=0", "mine.max_tasks=20", "mine.samples=4", BASE]

    def example(task, text, r_star, validity=0.5):
        messages = [*task.messages, {"role": "assistant", "content": text}]
        return SftExample(task.id, messages, r_star, 0.5, validity, "r_star")

    # as filter.top_k=3 writes them: ordered by sample, not by R*
    several = [("low", 0.2, 0.9), ("best", 0.8, 0.5), ("less valid", 0.8, 0.4), ("last", 0.5, 0.9)]
    write_jsonl(tmp_path / "e.jsonl", [example(task, *values) for task in tasks for values in several])
    ctx = context("5_mine", *words, f"inputs.examples={tmp_path}/e.jsonl", pool=FakePool(tasks))
    mine.run(ctx)
    assert {task.rationale for task in read_jsonl(ctx.work / "hard.jsonl", HardTask)} == {"best"}


def test_mine_with_nothing_hard_says_what_to_do(context, tasks):
    class Easy(FakePool):
        def answer(self, prompt, sample):
            prompt = type(prompt)(prompt.id, prompt.token_ids, -sample)
            return super().answer(prompt, sample)

    words = ["mine.skip_tasks=0", "mine.max_tasks=5", "mine.samples=2", BASE]
    with pytest.raises(UserError, match="all 5 tasks were judged right 2 times of 2"):
        mine.run(context("5_mine", *words, pool=Easy(tasks)))


def test_mine_keeps_the_bands_and_drops_the_never_right(context, tasks):
    words = ["mine.skip_tasks=0", "mine.max_tasks=30", "mine.samples=4", BASE]
    whole = context("5_mine", *words, pool=FakePool(tasks))
    mine.run(whole)
    hard = list(read_jsonl(whole.work / "hard.jsonl", HardTask))
    assert {task.accuracy for task in hard} == {0.5}  # the fake pool answers two of four right
    with pytest.raises(UserError, match=r"none of the 30 hard tasks passes mine\.bands \[\[0\.6, 1"):
        mine.run(context("5_mine", *words, "mine.bands=[[0.6, 1]]", pool=FakePool(tasks), work="none"))
    words[2] = "mine.samples=1"
    ctx = context(
        "5_mine",
        *words,
        "mine.drop_never_right=true",
        "mine.bands=[[0, 0.4], [0.9, 1]]",
        pool=FakePool(tasks),
    )
    with pytest.raises(UserError, match="drop_never_right True; widen these"):
        ctx.work.joinpath("paths.jsonl").unlink()
        mine.run(ctx)
    for bad in ("[0.2]", "[[0.5, 0.2]]", "[[0, 1, 1]]", "[[a, b]]", "[[-1, 1]]"):
        with pytest.raises(UserError, match=r"mine\.bands"):
            load_recipe(RECIPES / "5_mine.yaml", [f"mine.bands={bad}"])
