# SPDX-License-Identifier: Apache-2.0
"""Our reading of tokenizer.json and chat templates against transformers' own, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.tokenization import load_tokenizer, prompt_ids, response_ids, stop_token_ids

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
    """The tiny judge's tokenizer with a chat template of the test's choosing."""

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


def test_stop_tokens_are_gathered_once_each(folder):
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
def test_templates_that_fail_or_reach_out_are_refused(folder, template, says):
    with pytest.raises(UserError, match=says):
        load_tokenizer(folder(template)).render([{"role": "system", "content": "x"}], True)


def test_folders_that_hold_no_tokenizer(tmp_path, folder):
    with pytest.raises(UserError, match=r"holds no tokenizer\.json"):
        load_tokenizer(tmp_path)
    path = folder()
    (path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="the tokenizer cannot be read"):
        load_tokenizer(path)


def test_a_template_in_a_file_of_its_own_goes_first(folder):
    transformers = pytest.importorskip("transformers")
    path = folder(CHATML)
    (path / "chat_template.jinja").write_text("FILE {{ messages[0]['content'] }}")
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(path)
    wanted = theirs.apply_chat_template(MESSAGES, add_generation_prompt=True, tokenize=False)
    assert load_tokenizer(path).render(MESSAGES, add_generation_prompt=True) == wanted
    assert wanted.startswith("FILE ")
