# SPDX-License-Identifier: Apache-2.0
"""Tokens and settings outside tokenizer.json, compared with what transformers reads."""

import pytest
from tokenizer_cases import ABSENT, CASES, DECODER, OLDER, bare_byte_level, token, write

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.models.tokenization import load_tokenizer, stop_token_ids

TEXTS = (
    "a <x> b<x>c <|user|>\n<|end|>  <y>z <think> <|im_end|> word",
    "<|user|>Q:a=9;b=a+2<|end|>\n<|assistant|>",
    "word <x>",
    " lead",
    "e\u0301 na\u00efve \u65e5\u672c \U0001f600\r\n\n 1234",
)


@pytest.fixture
def folder(tmp_path):
    """The tiny judge's tokenizer with other settings in tokenizer_config.json, and further files."""

    def make(changes, files=None, edit=None):
        return write(tmp_path, changes, files, edit)

    return make


def check_equal(path):
    """Assert that we and transformers read the same: every id, every decoded text, every number."""
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
def test_the_older_files_count_where_there_is_no_added_tokens_decoder(folder, case):
    _, ours = check_equal(folder(CASES[case], OLDER))
    assert ours.encode("<x>") == [425]  # one token in either case


@pytest.mark.parametrize("wanted", [ABSENT, None, True, False])
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("bare", [True, False])
def test_add_prefix_space_applies_where_it_does_in_transformers(folder, wanted, before, bare):
    def edit(whole):
        bare_byte_level(before)(whole)
        if not bare:
            whole["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [whole["pre_tokenizer"]]}

    check_equal(folder({"add_prefix_space": wanted}, edit=edit))


def test_a_padding_token_in_tokenizer_json_counts_where_the_configuration_has_none(folder):
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


def test_chat_tokens_outside_tokenizer_json_are_not_split_into_letters(folder):
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


def test_the_configuration_s_eos_token_ends_a_turn(folder):
    path = folder({"eos_token": "<|end|>", "added_tokens_decoder": DECODER})
    assert stop_token_ids(load_tokenizer(path), path) == [423, 2]


def test_a_folder_without_tokenizer_config_is_read(folder):
    path = folder({})
    (path / "chat_template.jinja").write_text("x")
    (path / "tokenizer_config.json").unlink()
    check_equal(path)


def test_the_digest_depends_only_on_the_tokens(folder):
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
