# SPDX-License-Identifier: Apache-2.0
"""From generate through filter to SFT: training sees exactly the sampled tokens."""

import pytest
from fake_pool import RECIPES, TINY, FakePool
from msgspec.structs import replace

from reasongrm_nemo.data import ReasoningPath, SftExample, read_jsonl, write_jsonl
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.models.tokenization import prompt_ids
from reasongrm_nemo.recipe.load import load_recipe
from reasongrm_nemo.rollout import Completion
from reasongrm_nemo.sft.examples import Examples
from reasongrm_nemo.stages import filter as filter_stage
from reasongrm_nemo.stages import generate

BASE = "model.hf_path=asset:tiny_judge"
ALL = ["generate.skip_tasks=0", "generate.max_tasks=null", "generate.samples=3", BASE]


class LetterByLetter(FakePool):
    """Samples every letter as a separate token, which no tokenizer would."""

    def answer(self, prompt, sample):
        whole = super().answer(prompt, sample)
        text = self.tokenizer.decode(whole.token_ids[:-1])
        reasoning, close, answer = text.partition("</think>")
        parts = [*reasoning, close, *answer]
        ids = [token for part in parts for token in self.tokenizer.encode(part)]
        ids = [*ids, self.tokenizer.eos_token_id]
        return Completion(prompt.id, sample, ids, [-0.1 * (1 + sample)] * len(ids), "stop")


def filtered(context, generated, work):
    ctx = context("3_filter", f"inputs.paths={generated.work}/paths.jsonl", work=work)
    filter_stage.run(ctx)
    return list(read_jsonl(ctx.work / "examples.jsonl", SftExample))


@pytest.fixture
def sampled(context, tasks):
    """(Context of a finished generate stage, its paths by task and sample)."""
    ctx = context("2_generate", *ALL, pool=LetterByLetter(tasks), work="generated")
    generate.run(ctx)
    return ctx, {(p.task_id, p.sample): p for p in read_jsonl(ctx.work / "paths.jsonl", ReasoningPath)}


def test_the_sampled_tokens_reach_the_loss(context, tasks, sampled):
    generated, paths = sampled
    examples = filtered(context, generated, "filtered")
    assert examples
    learner, tokenizer = Examples(load_recipe(RECIPES / "4_sft.yaml"), TINY), FakePool().tokenizer
    shown = {task.id: task.messages for task in tasks}
    for example in examples:
        assert example.begun == "<think>\n" and example.tokenizer == tokenizer.digest
        ids, prompt = learner.tokens(example)
        assert list(ids[:prompt]) == prompt_ids(tokenizer, shown[example.task_id])
        assert [*ids[prompt:]] == [*example.token_ids, tokenizer.eos_token_id]
        of_task = (path for (task, _), path in paths.items() if task == example.task_id)
        chosen = next(path for path in of_task if path.token_ids == example.token_ids)
        assert chosen.correct and tokenizer.encode(chosen.text) != example.token_ids


def test_paths_of_an_earlier_version_are_filtered_and_trained_on_by_their_text(context, tasks, sampled):
    generated, paths = sampled
    bare = [replace(p, token_ids=None, begun=None, tokenizer=None) for p in paths.values()]
    for path in bare:
        assert not {"begun", "tokenizer", "token_ids", "unscored"} & path.to_dict().keys()
    write_jsonl(generated.work / "paths.jsonl", bare)
    learner, tokenizer = Examples(load_recipe(RECIPES / "4_sft.yaml"), TINY), FakePool().tokenizer
    examples = filtered(context, generated, "filtered_old")
    assert examples and all(e.begun is None and e.token_ids is None for e in examples)
    for example in examples:
        ids, prompt = learner.tokens(example)
        assert tokenizer.decode(ids[prompt:-1]) == example.messages[-1]["content"]


def test_without_think_tags_the_error_says_why_nothing_is_chosen(context, tasks, sampled):
    generated, paths = sampled
    untagged = [replace(p, text=p.text.replace("</think>", ""), begun="") for p in paths.values()]
    write_jsonl(generated.work / "paths.jsonl", untagged)
    with pytest.raises(
        UserError, match=r"nothing to train on \(.*\d+ no think tags.*needs a model that closes"
    ):
        filtered(context, generated, "untagged")
