# SPDX-License-Identifier: Apache-2.0
"""How we read tokenizer.json and chat templates, compared with transformers; and what is refused."""

import json
import shutil
from pathlib import Path

import pytest

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.models.tokenization import (
    asks_for_date,
    load_tokenizer,
    prompt_ids,
    response_ids,
    stop_token_ids,
)

TINY = Path(__file__).resolve().parents[2] / "reasongrm_nemo" / "assets" / "tiny_judge"
MESSAGES = [{"role": "user", "content": "Q:a=9;b=a+2;b?\n surely one(A)\n maybe two(B)"}]

CHATML = (
    "{% for message in messages %}\n"
    "    {% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nBe fair.<|im_end|>\\n' }}{% endif %}\n"
    "{{ '<|im_start|>' + message.role + '\\n' + message['content'] | trim + '<|im_end|>' + '\\n' }}\n"
    "{% endfor %}\n"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}"
)
REFUSING = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    "{% endfor %}x"
)
TOOLS = (
    "{{ bos_token }}{% for m in messages %}{{ m | tojson }}{% if loop.last %}{% break %}{% endif %}"
    "{% endfor %}{{ tools is none }}"
)


@pytest.fixture
def folder(tmp_path):
    """The tiny judge's tokenizer with the given chat template."""

    def make(template=None, **changes):
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(TINY / name, tmp_path / name)
        path = tmp_path / "tokenizer_config.json"
        config = json.loads(path.read_text())
        if template is not None:
            config["chat_template"] = template
        path.write_text(json.dumps(config | changes))
        return tmp_path

    return make


@pytest.mark.parametrize("template", [None, CHATML, TOOLS])
def test_prompts_equal_transformers(folder, template):
    transformers = pytest.importorskip("transformers")
    path = folder(template, bos_token="<|im_start|>")
    theirs, ours = transformers.PreTrainedTokenizerFast.from_pretrained(path), load_tokenizer(path)
    for messages in (MESSAGES, [{"role": "system", "content": " Be strict. "}, *MESSAGES]):
        wanted = theirs.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        assert ours.render(messages, add_generation_prompt=True) == wanted
        assert prompt_ids(ours, messages) == theirs(wanted, add_special_tokens=False)["input_ids"]
    text = "<think>\na=9;b=9+2=1 is one(A)\n</think>\n\n[[A]] naïve 日本"
    ids = theirs(text, add_special_tokens=False)["input_ids"]
    assert response_ids(ours, text) == ids
    assert ours.decode(ids) == theirs.decode(ids, clean_up_tokenization_spaces=False) == text
    assert (ours.eos_token_id, ours.pad_token_id) == (theirs.eos_token_id, theirs.pad_token_id)
    assert ours.vocab_size == len(theirs)
    assert set(theirs.all_special_tokens) <= set(ours.special_tokens)


def test_the_prefix_follows_the_opening_of_the_turn():
    tokenizer = load_tokenizer(TINY)
    bare = prompt_ids(tokenizer, MESSAGES)
    assert prompt_ids(tokenizer, MESSAGES, "a=9") == bare + response_ids(tokenizer, "a=9")


def test_pieces_keep_every_marker():
    tokenizer = load_tokenizer(TINY)
    ids = response_ids(tokenizer, "é is one(A)\n</think>\n\n[[A]]")
    joined = "".join(tokenizer.piece(token) for token in ids)
    assert joined.endswith(" is one(A)\n</think>\n\n[[A]]")


def test_special_tokens_are_known():
    assert {"<|im_start|>", "<|im_end|>"} <= set(load_tokenizer(TINY).special_tokens)


def test_stop_tokens_are_collected_without_duplicates(folder):
    path = folder()
    tokenizer = load_tokenizer(path)
    end = tokenizer.eos_token_id
    assert stop_token_ids(tokenizer, path) == [end]
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": [end, 0]}))
    (path / "config.json").write_text(json.dumps({"eos_token_id": 5}))
    assert stop_token_ids(tokenizer, path) == [end, 0, 5]
    lost = load_tokenizer(folder(eos_token=None))
    (path / "generation_config.json").unlink()
    (path / "config.json").write_text(json.dumps({"eos_token_id": None}))
    with pytest.raises(UserError, match="names an end-of-turn token"):
        stop_token_ids(lost, path)


def test_other_places_of_a_chat_template(folder):
    named = load_tokenizer(folder([{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}]))
    assert named.render(MESSAGES, True) == "d"
    path = folder(chat_template=None)
    with pytest.raises(UserError, match="has no chat_template"):
        load_tokenizer(path)
    (path / "chat_template.jinja").write_text("from a file")
    assert load_tokenizer(path).render(MESSAGES, True) == "from a file"


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{% for %}", "cannot be read"),
        ("{{ ''.__class__.__mro__ }}", "refuses the messages"),
        (REFUSING, "no system turn"),
    ],
)
def test_templates_that_fail_or_leave_the_sandbox_are_refused(folder, template, says):
    with pytest.raises(UserError, match=says):
        load_tokenizer(folder(template)).render([{"role": "system", "content": "x"}], True)


def test_folders_without_a_tokenizer_are_refused(tmp_path, folder):
    with pytest.raises(UserError, match=r"holds no tokenizer\.json"):
        load_tokenizer(tmp_path)
    path = folder()
    (path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="the tokenizer cannot be read"):
        load_tokenizer(path)


def test_a_template_in_a_separate_file_takes_precedence(folder):
    transformers = pytest.importorskip("transformers")
    path = folder(CHATML)
    (path / "chat_template.jinja").write_text("FILE {{ messages[0]['content'] }}")
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(path)
    wanted = theirs.apply_chat_template(MESSAGES, add_generation_prompt=True, tokenize=False)
    assert load_tokenizer(path).render(MESSAGES, add_generation_prompt=True) == wanted
    assert wanted.startswith("FILE ")


GENERATION = (
    "{% for m in messages %}{% generation %}{% set seen = m['content'] %}{{ seen }}{% endgeneration %}\n"
    "{{ seen is defined }}{% endfor %}"
)


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{% generation %}{{ m['content'] }}{% endgeneration %}{% endfor %}",
        GENERATION,
        {"default": "D {{ messages[0]['content'] }}", "tool_use": "T"},
        [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}],
        "{{ messages[0] | tojson(indent=2, separators=(',', ': '), sort_keys=true) }}",
        "{{ eos_token }}{{ pad_token }}{{ cls_token }}{{ additional_special_tokens | join('+') }}"
        "{{ image_token }}{{ bos_token is defined }}",
    ],
)
def test_templates_transformers_compiles_are_compiled(folder, template):
    transformers = pytest.importorskip("transformers")
    named = {"additional_special_tokens": ["<|im_start|>", "</think>"], "cls_token": "<think>"}
    path = folder(template, **named, extra_special_tokens={"image_token": "<|im_start|>"})
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(path)
    wanted = theirs.apply_chat_template(MESSAGES, add_generation_prompt=True, tokenize=False)
    assert wanted and load_tokenizer(path).render(MESSAGES, add_generation_prompt=True) == wanted


def test_a_folder_of_named_templates_gives_the_default_one(folder):
    path = folder("CONFIG")
    extra = path / "additional_chat_templates"
    extra.mkdir()
    (extra / "tool_use.jinja").write_text("TOOLS")
    assert load_tokenizer(path).render(MESSAGES, True) == "CONFIG"
    (extra / "default.jinja").write_text("DEFAULT")
    assert load_tokenizer(path).render(MESSAGES, True) == "DEFAULT"
    (path / "chat_template.jinja").write_text("FILE")
    assert load_tokenizer(path).render(MESSAGES, True) == "FILE"


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ({"rag": "r", "tool_use": "t"}, "no default among its chat templates rag, tool_use"),
        ([{"name": "rag", "template": "r"}], "no default among its chat templates rag"),
        ([{"nom": "default"}], "chat_template .*neither a string nor"),
        ({"default": 3}, "chat_template .*neither a string nor"),
        (7, "chat_template .*neither a string nor"),
        ("{% generation %}", "cannot be read.*line 1"),
        ("{% for m in messages %}\n{% endgeneration %}{% endfor %}", "cannot be read.*line 2"),
    ],
)
def test_templates_of_a_wrong_shape_are_refused_in_one_sentence(folder, template, says):
    with pytest.raises(UserError, match=says) as refusal:
        load_tokenizer(folder(template)).render(MESSAGES, True)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "expression",
    [
        "{{ 1 / 0 }}",
        "{{ messages[0]['content'] + 1 }}",
        "{{ messages[0].content.index('@') }}",
        "{{ range(10 ** 9) | list }}",
        "{{ {}['x'].y }}",
        "{{ messages.append(1) }}",
        "{{ strftime_now(3) }}",
        "{{ messages | tojson(indent='x', nonsense=1) }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_any_error_of_a_template_becomes_one_sentence(folder, expression):
    tokenizer = load_tokenizer(folder(expression), date="2026-11-29")
    with pytest.raises(UserError, match=r"the chat template of .* refuses the messages: ") as refusal:
        tokenizer.render(MESSAGES, True)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["generation_config.json", "config.json"])
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not valid JSON"),
        ("[1]", "holds no JSON object"),
        ('{"eos_token_id": "2"}', "eos_token_id is '2'"),
        ('{"eos_token_id": [2, null]}', "eos_token_id is "),
        ('{"eos_token_id": true}', "eos_token_id is True"),
        ('{"eos_token_id": 2.5}', "eos_token_id is 2.5"),
        ('{"eos_token_id": -1}', "eos_token_id is -1"),
    ],
)
def test_a_broken_file_of_stop_tokens_is_refused_in_one_sentence(folder, name, text, says):
    path = folder()
    (path / name).write_text(text)
    with pytest.raises(UserError, match=says) as refusal:
        stop_token_ids(load_tokenizer(path), path)
    assert name in str(refusal.value) and "\n" not in str(refusal.value)


TODAY = "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% endif %}{{ messages[0].content }}"


def test_the_date_is_the_given_one_and_never_the_clocks(folder):
    path = folder(TODAY)
    dated = load_tokenizer(path, date="2024-07-26")
    assert dated.render(MESSAGES, True).startswith("26 Jul 2024Q:")
    assert asks_for_date(path) and not asks_for_date(folder("{# no strftime_now here #}x"))
    with pytest.raises(UserError, match=r"asks for today's date.*judge\.date"):
        load_tokenizer(folder(TODAY)).render(MESSAGES, True)
