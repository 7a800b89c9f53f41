# SPDX-License-Identifier: Apache-2.0
"""Tokens and settings that stand outside tokenizer.json, held against transformers' own reading."""

import json
import shutil
from pathlib import Path

import pytest

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.tokenization import load_tokenizer, stop_token_ids

TINY = Path(__file__).resolve().parents[2] / "reasongrm_nemo" / "assets" / "tiny_judge"
ABSENT = object()
FILES = ("tokenizer.json", "tokenizer_config.json", "config.json")
TEXTS = (
    "a <x> b<x>c <|user|>\n<|end|>  <y>z <think> <|im_end|> word",
    "<|user|>Q:a=9;b=a+2<|end|>\n<|assistant|>",
    "word <x>",
    " lead",
    "e\u0301 na\u00efve \u65e5\u672c \U0001f600\r\n\n 1234",
)


def token(text, **flags):
    """A token as tokenizer_config.json spells it."""
    plain = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}
    return plain | flags | {"content": text}


def named(text, **flags):
    return token(text, **flags) | {"__type": "AddedToken"}


DECODER = {
    "422": token("<|user|>"),
    "423": token("<|end|>"),
    "424": token("<|assistant|>", special=False),
    "425": token("<x>", special=False, lstrip=True, rstrip=True),
}
# Added places out of order, with a gap, and a second account of a token that tokenizer.json has.
ODD = {"430": token("<y>"), "422": token("<|user|>"), "2": token("<|im_end|>", lstrip=True)}

CASES = {
    "as it is": {},
    "added_tokens_decoder": {"added_tokens_decoder": DECODER},
    "places out of order": {"added_tokens_decoder": ODD},
    "additional_special_tokens": {"additional_special_tokens": ["<|user|>", "<|end|>", "<think>"]},
    "additional with flags": {"additional_special_tokens": [named("<x>", lstrip=True), "<|end|>"]},
    "extra_special_tokens": {"extra_special_tokens": {"user_token": "<|user|>", "end_token": "<|end|>"}},
    "a named token not in the vocabulary": {"cls_token": "<|user|>", "eos_token": named("<|end|>")},
    "decoder and additional": {
        "added_tokens_decoder": DECODER,
        "additional_special_tokens": ["<x>", "<y>"],
        "bos_token": named("<|user|>", lstrip=True),
    },
    "split_special_tokens": {"split_special_tokens": True, "added_tokens_decoder": DECODER},
    "a class with defaults": {"tokenizer_class": "Qwen2Tokenizer", "eos_token": None, "pad_token": ABSENT},
    "a class whose defaults are new": {
        "tokenizer_class": "LlamaTokenizerFast",
        "bos_token": ABSENT,
        "eos_token": ABSENT,
    },
    "a class of none": {"tokenizer_class": ABSENT, "eos_token": ABSENT, "pad_token": ABSENT},
}
# special_tokens_map.json and added_tokens.json, read only without added_tokens_decoder.
OLDER = {
    "special_tokens_map.json": {
        "eos_token": {"content": "<|end|>", "lstrip": False, "rstrip": False, "normalized": False},
        "additional_special_tokens": ["<|user|>", token("<x>", lstrip=True)],
    },
    "added_tokens.json": {"<|user|>": 422, "<|end|>": 423, "<y>": 424, "<x>": 425},
}


@pytest.fixture
def folder(tmp_path):
    """The tiny judge's tokenizer with other settings in tokenizer_config.json, and further files."""

    def make(changes, files=None, edit=None):
        for name in FILES:
            shutil.copyfile(TINY / name, tmp_path / name)
        path = tmp_path / "tokenizer_config.json"
        config = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({key: value for key, value in config.items() if value is not ABSENT}))
        for name, value in (files or {}).items():
            (tmp_path / name).write_text(json.dumps(value))
        if edit is not None:
            whole = json.loads((tmp_path / "tokenizer.json").read_text())
            edit(whole)
            (tmp_path / "tokenizer.json").write_text(json.dumps(whole))
        return tmp_path

    return make


def check_equal(path):
    """Our reading and transformers': every id, every decoded text, every number."""
    transformers = pytest.importorskip("transformers")
    theirs, ours = transformers.AutoTokenizer.from_pretrained(path), load_tokenizer(path)
    for text in TEXTS:
        ids = theirs(text, add_special_tokens=False)["input_ids"]
        assert ours.encode(text) == ids, text
        assert ours.decode(ids) == theirs.decode(ids, clean_up_tokenization_spaces=False)
    assert (ours.eos_token_id, ours.pad_token_id) == (theirs.eos_token_id, theirs.pad_token_id)
    assert ours.vocab_size == len(theirs)
    assert set(theirs.all_special_tokens) <= set(ours.special_tokens)
    return theirs, ours


@pytest.mark.parametrize("case", CASES)
def test_tokens_beside_tokenizer_json_are_read_as_transformers_reads_them(folder, case):
    check_equal(folder(CASES[case]))


@pytest.mark.parametrize("case", ["as it is", "added_tokens_decoder", "additional_special_tokens"])
def test_the_older_files_count_where_no_added_tokens_decoder_is(folder, case):
    _, ours = check_equal(folder(CASES[case], OLDER))
    assert ours.encode("<x>") == [425]  # in either case one token


@pytest.mark.parametrize("wanted", [ABSENT, None, True, False])
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("bare", [True, False])
def test_add_prefix_space_acts_where_transformers_lets_it(folder, wanted, before, bare):
    def edit(whole):
        level = {"type": "ByteLevel", "add_prefix_space": before, "trim_offsets": True, "use_regex": True}
        whole["pre_tokenizer"] = level if bare else {"type": "Sequence", "pretokenizers": [level]}

    check_equal(folder({"add_prefix_space": wanted}, edit=edit))


def test_a_padding_token_of_tokenizer_json_counts_where_the_configuration_has_none(folder):
    def edit(whole):
        whole["padding"] = {
            "strategy": {"Fixed": 8},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 1,
            "pad_type_id": 0,
            "pad_token": "<|im_start|>",
        }
        whole["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}

    _, ours = check_equal(folder({"pad_token": ABSENT}, edit=edit))
    assert ours.pad_token_id == 1


def test_a_chat_of_tokens_outside_tokenizer_json_is_not_split_into_letters(folder):
    template = (
        "{% for m in messages %}<|user|>{{ m['content'] }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    path = folder({"added_tokens_decoder": DECODER, "chat_template": template})
    theirs, ours = check_equal(path)
    messages = [{"role": "user", "content": "a"}]
    wanted = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ours.encode(ours.render(messages, True)) == wanted
    assert len(wanted) == 4


def test_a_named_token_of_the_configuration_ends_a_turn(folder):
    path = folder({"eos_token": "<|end|>", "added_tokens_decoder": DECODER})
    assert stop_token_ids(load_tokenizer(path), path) == [423, 2]


def test_a_folder_without_tokenizer_config_is_read(folder):
    path = folder({})
    (path / "chat_template.jinja").write_text("x")
    (path / "tokenizer_config.json").unlink()
    check_equal(path)


def test_equal_tokens_have_an_equal_digest(folder):
    before = load_tokenizer(folder({})).digest
    assert load_tokenizer(folder({"chat_template": "another"})).digest == before
    assert load_tokenizer(folder({"added_tokens_decoder": DECODER})).digest != before
    assert load_tokenizer(folder({"split_special_tokens": True})).digest != before


@pytest.mark.parametrize(
    ("changes", "files"),
    [
        ({"added_tokens_decoder": ["<x>"]}, {}),
        ({"added_tokens_decoder": {"a": token("<x>")}}, {}),
        ({"added_tokens_decoder": {"422": {"kind": "x"}}}, {}),
        ({"additional_special_tokens": [3]}, {}),
        ({"additional_special_tokens": 3}, {}),
        ({"extra_special_tokens": {"a_token": 3}}, {}),
        ({"eos_token": ["<x>"]}, {}),
        ({}, {"special_tokens_map.json": [1]}),
        ({}, {"special_tokens_map.json": {"eos_token": 3}}),
        ({}, {"added_tokens.json": {"<x>": "many"}}),
    ],
)
def test_wrong_shapes_are_refused_in_one_sentence(folder, changes, files):
    path = folder(changes, files)
    with pytest.raises(UserError, match=r"cannot be read|holds no JSON object") as refusal:
        load_tokenizer(path)
    assert "\n" not in str(refusal.value) and str(path) in str(refusal.value)


@pytest.mark.parametrize("text", ["{", "[]", "3"])
def test_a_broken_tokenizer_config_is_refused(folder, text):
    path = folder({})
    (path / "tokenizer_config.json").write_text(text)
    with pytest.raises(UserError, match=r"tokenizer_config\.json (is not valid JSON|holds no JSON object)"):
        load_tokenizer(path)
