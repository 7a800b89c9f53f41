# SPDX-License-Identifier: Apache-2.0
"""One model's path in the form of another's chat template: one opening tag, one closing tag, all reasoning.

Training sees the sampled tokens wherever the trained model could have sampled them itself.
"""

import json
from itertools import product

import pytest
from chat_families import FAMILIES, write_family
from fake_pool import FakePool
from msgspec.structs import replace

from reasongrm_nemo.data import JudgeTask, ReasoningPath, SampledPath, SftExample, read_jsonl, write_jsonl
from reasongrm_nemo.judge.think import begun_by, rest_of_turn, whole_turn
from reasongrm_nemo.models.tokenization import (
    Response,
    Reteller,
    Unfit,
    load_tokenizer,
    prompt_ids,
    response_ids,
)
from reasongrm_nemo.recipe.load import load_recipe, recipes_root
from reasongrm_nemo.rewards import mine_hard_cases
from reasongrm_nemo.rollout import Completion, reasoning_path
from reasongrm_nemo.rollout.reading import CompletionReader
from reasongrm_nemo.rstar import ineligible, selection_report, to_sft_example
from reasongrm_nemo.sft.examples import Examples
from reasongrm_nemo.stages.scoring import Scorer, score_paths

PAIRS = list(product(FAMILIES, FAMILIES))
TASK = JudgeTask("t", "p", "s", [{"role": "user", "content": "A or B?"}], "A", "chosen_first")
REASONING = "Okay, a=1;b=1+1=2.\n\nSo A is right."
CLOSING = "\n</think>\n\nA is better: [[A]]"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("families")
    return {name: write_family(name, root / name) for name in FAMILIES}


@pytest.fixture(scope="module")
def tokenizers(folders):
    return {name: load_tokenizer(folder) for name, folder in folders.items()}


def native(name, text=REASONING + CLOSING):
    """The response that a model of this family samples after its prompt."""
    return text if FAMILIES[name].opens else f"<think>\n{text}"


def sampled(tokenizer, ids, finish="stop"):
    """The path made from sampled tokens."""
    whole = [*ids, tokenizer.eos_token_id] if finish == "stop" else list(ids)
    completion = Completion("t", 0, whole, [-0.1] * len(whole), finish)
    begun = begun_by(tokenizer.opening)
    reader = CompletionReader(tokenizer, "last", bool(begun))
    return reasoning_path(completion, TASK, tokenizer, reader, "m", True, False, begun, tokenizer.digest)


def learnt(folder, example, *words):
    """(token ids, prompt length) of an example for the model in `folder`."""
    recipe = load_recipe(recipes_root() / "tiny" / "4_sft.yaml", [f"model.hf_path={folder}", *words])
    return Examples(recipe, folder).tokens(example)


def test_the_families_represent_distinct_templates(tokenizers):
    opened = {name: begun_by(tokenizer.opening) for name, tokenizer in tokenizers.items()}
    assert opened == {name: "<think>\n" if FAMILIES[name].opens else "" for name in FAMILIES}
    assert len({tokenizer.digest for tokenizer in tokenizers.values()}) == len(FAMILIES)
    turns = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": f"<think>\n{REASONING}{CLOSING}"},
    ]
    more = [*turns, {"role": "user", "content": "and now?"}]
    for name in ("qwq", "qwen3"):  # these templates drop reasoning, so an assistant turn must not be rendered
        assert "Okay" not in tokenizers[name].render(more, add_generation_prompt=True)


@pytest.mark.parametrize(("writer", "target"), PAIRS)
def test_sft_of_each_family_on_each_familys_path(folders, tokenizers, writer, target):
    wrote, reads = tokenizers[writer], tokenizers[target]
    path = sampled(wrote, response_ids(wrote, native(writer)))
    assert path.correct and ineligible(path) is None and path.opened == FAMILIES[writer].opens
    example = to_sft_example(ReasoningPath.from_dict(path.to_dict()), TASK)
    ids, prompt = learnt(folders[target], SftExample.from_dict(example.to_dict()))
    text = reads.decode(ids)
    assert text.count("<think>") == text.count("</think>") == 1
    assert text.index("<think>") < text.index(REASONING) < text.index("</think>")
    assert list(ids[:prompt]) == prompt_ids(reads, TASK.messages)
    # the loss covers what a rollout of the target would have sampled
    assert list(ids[prompt:]) == [*response_ids(reads, native(target)), reads.eos_token_id]


@pytest.fixture
def generating(context, tmp_path):
    """A context of stage generate, with a pool that records its prompts."""
    write_jsonl(tmp_path / "tasks.jsonl", [TASK])
    words = [f"inputs.tasks={tmp_path / 'tasks.jsonl'}", "model.hf_path=asset:tiny_judge"]
    return context("2_generate", *words, pool=FakePool())


@pytest.mark.parametrize(("writer", "target"), PAIRS)
def test_the_scorer_of_each_family_on_each_familys_path(
    generating, folders, tokenizers, writer, target, tmp_path
):
    wrote, reads = tokenizers[writer], tokenizers[target]
    path = sampled(wrote, response_ids(wrote, native(writer)))
    write_jsonl(tmp_path / "sampled.jsonl", [path])
    scorer = Scorer(folders[target], target, keep_token_ids=True, keep_probs=False)
    score_paths(generating, [TASK], tmp_path / "sampled.jsonl", tmp_path / "paths.jsonl", scorer)
    (scored,) = read_jsonl(tmp_path / "paths.jsonl", ReasoningPath)
    (prompt,) = generating.pool.prompts
    response = response_ids(reads, native(target))
    assert prompt.token_ids == [*prompt_ids(reads, TASK.messages), *response]
    text = reads.decode(prompt.token_ids)
    assert text.count("<think>") == text.count("</think>") == 1 and REASONING in text
    assert reads.decode(response[: scored.reasoning_tokens]).rstrip().endswith("</think>")
    assert scored.reasoning_tokens + scored.answer_tokens == len(response)
    assert scored.token_ids == path.token_ids, "those that were sampled, whoever scored them"
    assert (scored.scorer, scored.unscored) == (target, None)


@pytest.mark.parametrize("target", FAMILIES)
def test_a_file_of_an_earlier_version_does_not_record_its_prompt(folders, tokenizers, target):
    """The text tells: if a closing tag has no opening tag before it, the prompt opened the reasoning."""
    reads = tokenizers[target]
    for text in (REASONING + CLOSING, f"<think>\n{REASONING}{CLOSING}"):
        messages = [*TASK.messages, {"role": "assistant", "content": text}]
        ids, prompt = learnt(folders[target], SftExample("t", messages, 0.5, 0.5, 0.5, "r_star"))
        assert list(ids[prompt:-1]) == response_ids(reads, native(target))


def test_a_response_prefix_belongs_to_the_prompt(folders, tokenizers):
    """The prefix gives a model without tags worked examples; the model continues the last one's reasoning."""
    prefix = "<think>x</think>\\n[[B]]\\n\\n<think>Answer"
    given = f'judge.response_prefix="{prefix}"'
    reads = tokenizers["llama3_1"]
    path = ReasoningPath("t", 0, " A is.</think>\n[[A]]", 3, 2, 1.0, 1.0, "A", "ok", True, "stop", "m")
    path = replace(path, begun="<think>Answer", tokenizer=reads.digest, token_ids=[1, 2, 3])
    example = to_sft_example(path, TASK)
    assert example.messages[-1]["content"] == "<think>Answer A is.</think>\n[[A]]"
    ids, prompt = learnt(folders["llama3_1"], example, given)
    assert list(ids[prompt:-1]) == [1, 2, 3]
    ids, prompt = learnt(folders["llama3_1"], example)  # a recipe without the prefix
    assert reads.decode(ids[prompt:-1]) == "<think>Answer A is.</think>\n[[A]]"
    ids, prompt = learnt(folders["qwq"], example)
    assert tokenizers["qwq"].decode(ids[prompt:-1]) == "Answer A is.</think>\n[[A]]"
    # an earlier version put the whole prefix in front of the text
    text = prefix.replace("\\n", "\n") + " A is.</think>\n[[A]]"
    old = SftExample("t", [*TASK.messages, {"role": "assistant", "content": text}], 0.5, 0.5, 0.5, "r_star")
    ids, prompt = learnt(folders["llama3_1"], old, given)
    assert reads.decode(ids[prompt:-1]) == " A is.</think>\n[[A]]"


@pytest.mark.parametrize(
    ("text", "begun", "whole"),
    [
        ("r</think>a", "<think>\n", "<think>\nr</think>a"),
        ("<think>r</think>a", "", "<think>r</think>a"),
        ("\n<think>r</think>a", "", "<think>r</think>a"),
        ("r</think>a", "", "<think>\nr</think>a"),
        ("r</think>a", None, "<think>\nr</think>a"),
        ("[[A]]", "", None),
        ("r [[A]]", "<think>\n", None),
        ("r</think>a</think>b", "<think>\n", None),
        ("<think>r</think>a", "<think>\n", None),
        ("so <think>r</think>a", "", None),
        ("</think><think>a", "", None),
    ],
)
def test_a_turn_needs_exactly_one_pair_of_tags(text, begun, whole):
    assert whole_turn(text, begun) == whole


@pytest.mark.parametrize(
    ("turn", "begun", "rest"),
    [
        ("<think>\nr</think>a", "<think>\n", "r</think>a"),
        ("<think>r</think>a", "<think>\n", "r</think>a"),
        ("<think>\n\nr</think>a", "<think>\n", "\nr</think>a"),
        ("<think>\nr</think>a", "<think>", "\nr</think>a"),
        ("<think>\nr</think>a", "<think>Answer", "\nr</think>a"),
        ("<think>\nr</think>a", "", "<think>\nr</think>a"),
    ],
)
def test_the_rest_of_a_turn_continues_where_the_prompt_ends(turn, begun, rest):
    assert rest_of_turn(turn, begun) == rest


# -- training sees the sampled tokens --------------------------------------------------------------------


def test_an_untagged_path_has_no_r_star_and_is_counted(tokenizers):
    for name, tokenizer in tokenizers.items():
        path = sampled(tokenizer, response_ids(tokenizer, "A is better.\n[[A]]"))
        assert path.answer_tokens == 0
        if not FAMILIES[name].opens:
            assert path.correct and ineligible(path) == "no_think_tags"
    # a path that an earlier version split at the verdict's line
    cut = ReasoningPath("t", 0, "so\n[[A]]", 2, 2, 1.0, 1.0, "A", "ok", True, "stop", "m")
    assert ineligible(cut) == "no_think_tags"
    assert selection_report([cut, replace(cut, sample=1, correct=False)])["ineligible_paths"] == {
        "no_think_tags": 1,
        "wrong": 1,
    }
    # mining still keeps a right answer as the rationale, with or without R*
    (case,) = mine_hard_cases([replace(cut, sample=n, correct=n > 0, text=f"{n} [[A]]") for n in range(3)])
    assert case.rationale == "1 [[A]]"


def spelled_out(tokenizer):
    """A response that spells the end-of-turn token, and a word, in tokens that no tokenizer would choose."""
    letters = [response_ids(tokenizer, letter)[0] for letter in tokenizer.decode([tokenizer.eos_token_id])]
    odd = [response_ids(tokenizer, letter)[0] for letter in "right"]
    closing = response_ids(tokenizer, "\n</think>\n\n[[A]]")
    return [*response_ids(tokenizer, "It writes "), *letters, *odd, *closing]


@pytest.mark.parametrize("target", FAMILIES)
def test_a_spelled_out_end_of_turn_does_not_end_the_turn(folders, tokenizers, target):
    wrote, reads = tokenizers["qwq"], tokenizers[target]
    ids = spelled_out(wrote)
    assert wrote.eos_token_id not in ids
    path = sampled(wrote, ids)
    assert "<|im_end|>right" in path.text
    got, prompt = learnt(folders[target], to_sft_example(path, TASK))
    assert reads.eos_token_id not in got[prompt:-1]
    control = [text for text in reads.special_tokens if "think" not in text]  # the tags belong there
    assert not {reads.encode(text)[0] for text in control} & set(got[prompt:-1])
    if target == "qwq":
        assert list(got[prompt:-1]) == ids, "as sampled, whatever tokens the text would be split into"
        assert response_ids(wrote, path.text) != ids
    else:
        assert "<|im_end|>right" in reads.decode(got[prompt:-1])


def test_a_broken_character_is_trained_on_as_sampled_or_left_out(folders, tokenizers):
    wrote = tokenizers["qwq"]
    half = wrote.encode("é")[0]
    assert wrote.decode([half]) == "\N{REPLACEMENT CHARACTER}"
    ids = [*response_ids(wrote, "So "), half, *response_ids(wrote, "\n</think>\n\n[[A]]")]
    example = to_sft_example(sampled(wrote, ids), TASK)
    got, prompt = learnt(folders["qwq"], example)
    assert list(got[prompt:-1]) == ids
    for target in ("deepseek", "llama3_1"):
        with pytest.raises(Unfit, match=r"with a broken character \(U\+FFFD\)"):
            learnt(folders[target], example)


def test_tokens_sampled_after_another_opening_are_not_reused(tmp_path, tokenizers):
    """QwQ's tokenizer under a template that leaves `<think>` to the model."""
    folder = write_family("qwq", tmp_path / "m")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["chat_template"] = config["chat_template"].replace("assistant\\n<think>\\n", "assistant\\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    other, wrote = load_tokenizer(folder), tokenizers["qwq"]
    assert other.digest == wrote.digest and not begun_by(other.opening)
    ids = spelled_out(wrote)
    path = sampled(wrote, ids)
    tokens = Reteller(other, "").tokens(Response(path.text, path.begun, path.token_ids, path.tokenizer))
    assert tokens != ids and other.decode(tokens) == f"<think>\n{path.text}"
    assert other.eos_token_id not in tokens


def test_tags_that_are_control_tokens_are_encoded_as_sampled(tmp_path):
    folder = write_family("qwq", tmp_path / "m")
    file = folder / "tokenizer.json"
    file.write_text(file.read_text().replace('"special": false', '"special": true'))
    tokenizer = load_tokenizer(folder)
    assert {"<think>", "</think>"} <= set(tokenizer.special_tokens)
    text = "<think>so <|im_end|> it</think>[[A]]"
    ids = response_ids(tokenizer, text)
    assert tokenizer.decode(ids) == text and tokenizer.eos_token_id not in ids
    assert [ids.count(tokenizer.encode(tag)[0]) for tag in ("<think>", "</think>")] == [1, 1]
    assert tokenizer.eos_token_id in tokenizer.encode(text), "of a prompt they are control tokens as before"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("r</think>a</think>[[A]]", "without one pair of think tags around its reasoning"),
        ("[[A]]", "without one pair of think tags around its reasoning"),
        ("r\N{REPLACEMENT CHARACTER}</think>[[A]]", r"with a broken character \(U\+FFFD\)"),
    ],
)
def test_paths_that_cannot_be_scored_are_counted(generating, folders, tokenizers, tmp_path, text, why):
    path = sampled(tokenizers["qwq"], tokenizers["qwq"].encode(text))
    write_jsonl(tmp_path / "sampled.jsonl", [path])
    scorer = Scorer(folders["qwen3"], "qwen3", keep_token_ids=True, keep_probs=False)
    score_paths(generating, [TASK], tmp_path / "sampled.jsonl", tmp_path / "paths.jsonl", scorer)
    (scored,) = read_jsonl(tmp_path / "paths.jsonl", ReasoningPath)
    assert scored.answer_tokens == scored.reasoning_tokens == 0
    with pytest.raises(Unfit, match=why):
        raise Unfit(scored.unscored)


def test_an_example_without_tags_is_trained_on_unchanged_if_no_reasoning_is_opened(folders, tokenizers):
    example = SftExample("t", [*TASK.messages, {"role": "assistant", "content": "A."}], 0, 0, 0, "written")
    ids, prompt = learnt(folders["llama3_1"], example)
    assert tokenizers["llama3_1"].decode(ids[prompt:-1]) == "A."
    with pytest.raises(Unfit, match="without one pair of think tags"):
        learnt(folders["qwq"], example)
    # unless the example says that it was written for this prompt
    content = [*TASK.messages, {"role": "assistant", "content": "<think>\nA."}]
    ids, prompt = learnt(folders["qwq"], replace(example, messages=content, begun="<think>\n"))
    assert tokenizers["qwq"].decode(ids[prompt:-1]) == "A."


def test_examples_that_contradict_themselves_are_refused():
    from reasongrm_nemo.errors import UserError

    messages = [*TASK.messages, {"role": "assistant", "content": "A."}]
    good = SftExample("t", messages, 0.5, 0.5, 0.5, "r_star").to_dict()
    for change, says in (
        ({"begun": "<think>\n"}, "must be the beginning of the assistant turn"),
        ({"token_ids": [1]}, "without 'begun' and 'tokenizer'"),
        ({"token_ids": [1], "begun": ""}, "without 'begun' and 'tokenizer'"),
    ):
        with pytest.raises(UserError, match=says):
            SftExample.from_dict(good | change)
    assert SampledPath.from_dict(sampled_path := {**PATH}).opened is None and sampled_path == PATH


PATH = {
    "task_id": "t", "sample": 0, "text": "x</think>[[A]]", "reasoning_tokens": 2, "answer_tokens": 1,
    "reasoning_prob_sum": 1.0, "answer_prob_sum": 0.5, "verdict": "A", "parse_status": "ok",
    "correct": True, "finish_reason": "stop", "model": "m",
}  # fmt: skip
