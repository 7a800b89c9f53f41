# SPDX-License-Identifier: Apache-2.0
"""Builds a Hugging Face folder's fast tokenizer from its files as transformers 4.51 does.

tokenizer.json is only a part: tokenizer_config.json holds further tokens and settings, and so do
special_tokens_map.json and added_tokens.json unless tokenizer_config.json has an added_tokens_decoder; the
tokenizer's class has defaults. `agreement` detects folders that this module does not handle.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.documents import check_file, read_json, too_long

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

    _Value: TypeAlias = str | AddedToken

NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_MAX_BYTES = 256 << 20  # limit for tokenizer.json; Gemma 3's, with 262,144 tokens, has 33 MB
_END_OF_TEXT = "<|endoftext|>"
# Defaults of tokenizer classes.
_DEFAULTS: dict[str, dict[str, str]] = {
    "Qwen2Tokenizer": dict.fromkeys(("unk_token", "eos_token", "pad_token"), _END_OF_TEXT),
    "GPT2Tokenizer": dict.fromkeys(("unk_token", "bos_token", "eos_token"), _END_OF_TEXT),
    "LlamaTokenizer": {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"},
    "GemmaTokenizer": {
        "unk_token": "<unk>",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
    },
}
# Tokenizer class of a model_type, if tokenizer_config.json names none.
_CLASS_OF_MODEL = {
    "qwen2": "Qwen2Tokenizer",
    "qwen3": "Qwen2Tokenizer",
    "llama": "LlamaTokenizer",
    "mistral": "LlamaTokenizer",
}
# Options of an added token.
_FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")
# Name of the generic class in transformers 5; unknown to transformers 4.
_OF_TRANSFORMERS_5 = "TokenizersBackend"


@dataclass(frozen=True)
class TokenizerFolder:
    """The tokenizer built from a folder's files.

    Attributes:
        fast: the tokenizer with all added tokens, without padding and truncation.
        named: special tokens by name, for chat templates: strings, and a list of additional ones.
    """

    fast: Tokenizer
    named: dict[str, Any]


def json_object(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file; empty if the file does not exist.

    Raises:
        UserError: the file is not JSON, or not an object.
    """
    if not os.path.lexists(path):
        return {}
    try:
        content = read_json(path)
    except UserError as error:
        raise UserError(f"{path} is not valid JSON ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object")
    return content


def read_folder(folder: Path) -> TokenizerFolder:
    """Build the tokenizer of a folder.

    Raises:
        UserError: the folder has no tokenizer.json, or a file cannot be read.
    """
    from tokenizers import Tokenizer

    if not (folder / "tokenizer.json").is_file():
        raise UserError(
            f"{folder} holds no tokenizer.json; name a Hugging Face model folder with a fast tokenizer"
        )
    if check_file(folder / "tokenizer.json") > _MAX_BYTES:
        raise too_long(folder / "tokenizer.json", _MAX_BYTES)
    config = json_object(folder / "tokenizer_config.json")
    try:
        fast = Tokenizer.from_file(str(folder / "tokenizer.json"))
        return _assemble(folder, fast, config)
    except UserError:
        raise
    except Exception as error:  # tokenizers raises bare Exception; wrong shapes raise anything
        words = " ".join(str(error).split())
        raise UserError(f"{folder}: the tokenizer cannot be read ({type(error).__name__}: {words})") from None


def _assemble(folder: Path, fast: Tokenizer, config: dict[str, Any]) -> TokenizerFolder:
    kind = _class_name(folder, config)
    settings = _DEFAULTS.get(kind, {}) | _padding_token(fast) | config
    declared: dict[int, AddedToken] = {
        int(index): _added(value) for index, value in (config.get("added_tokens_decoder") or {}).items()
    }
    known = declared
    if "added_tokens_decoder" not in config:
        settings |= _older_special_tokens(folder, settings)
        known = fast.get_added_tokens_decoder()
        declared = _older_added_tokens(folder, settings) | known
    named, further = _special_tokens(settings, kind)
    full = {token.content: token for token in known.values()}
    named = {name: full.get(str(value), value) if name in NAMED else value for name, value in named.items()}
    _add(fast, [declared[index] for index in sorted(declared)], [*named.values(), *further])
    fast.no_padding()
    fast.no_truncation()
    fast.encode_special_tokens = bool(config.get("split_special_tokens", False))
    _set_prefix_space(fast, config, kind)
    variables: dict[str, Any] = {name: str(value) for name, value in named.items()}
    if further:
        variables["additional_special_tokens"] = [str(token) for token in further]
    return TokenizerFolder(fast, variables)


def _class_name(folder: Path, config: Mapping[str, Any]) -> str:
    name = config.get("tokenizer_class")
    if name is None:
        model = json_object(folder / "config.json")
        name = model.get("tokenizer_class") or _CLASS_OF_MODEL.get(str(model.get("model_type")), "")
    return str(name).removesuffix("Fast")


def _padding_token(fast: Tokenizer) -> dict[str, str]:
    return {"pad_token": fast.padding["pad_token"]} if fast.padding else {}


def _older_special_tokens(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """special_tokens_map.json, which overrides tokenizer_config.json, except that lists are joined."""
    special = json_object(folder / "special_tokens_map.json")
    for key, value in special.items():
        if isinstance(value, list):
            before = [_value(token) for token in settings.get(key) or []]
            special[key] = before + [token for token in map(_value, value) if token not in before]
    return special


def _older_added_tokens(folder: Path, settings: Mapping[str, Any]) -> dict[int, AddedToken]:
    """added_tokens.json: token ids by text, without matching options."""
    from tokenizers import AddedToken

    named, further = _special_tokens(settings, "")
    special = {str(token) for token in (*named.values(), *further)}
    return {
        int(index): AddedToken(text, normalized=text not in special, special=text in special)
        for text, index in json_object(folder / "added_tokens.json").items()
    }


def _special_tokens(settings: Mapping[str, Any], kind: str) -> tuple[dict[str, _Value], list[_Value]]:
    """The named special tokens, and the additional ones."""
    named = {name: settings[name] for name in NAMED if settings.get(name)}
    extra = settings.get("extra_special_tokens") or {}
    further = [*(settings.get("additional_special_tokens") or [])]
    if isinstance(extra, dict):
        named |= extra
    else:
        further += extra
    if kind == _OF_TRANSFORMERS_5:
        named |= {key: text for key, text in settings.items() if key.endswith("_token") and type(text) is str}
    return {name: _value(value) for name, value in named.items()}, [_value(value) for value in further]


def _value(value: Any) -> _Value:
    """A token given by its text, or with matching options."""
    return value if isinstance(value, str) else _added(value)


def _added(value: Any) -> AddedToken:
    from tokenizers import AddedToken

    if isinstance(value, AddedToken):
        return value
    if not (isinstance(value, dict) and isinstance(value.get("content"), str)):
        raise ValueError(f"a token is {value!r}, which has no content")
    flags = {key: value[key] for key in _FLAGS if key in value}
    return AddedToken(value["content"], **({"special": True} | flags))


def _add(fast: Tokenizer, declared: list[AddedToken], special: list[_Value]) -> None:
    """Add declared tokens, then special tokens that are new or have other options; new ones come last."""
    from tokenizers import AddedToken

    known = {token.content for token in (*fast.get_added_tokens_decoder().values(), *declared)}
    texts = {str(token) for token in special}
    added = list(declared)
    for token in special:
        if token not in (known if isinstance(token, str) else declared):
            added.append(AddedToken(token, special=True) if isinstance(token, str) else token)
    for token in added:
        token.special = token.special or token.content in texts
    fast.add_tokens(added)


def _set_prefix_space(fast: Tokenizer, config: Mapping[str, Any], kind: str) -> None:
    """Set `add_prefix_space` of a byte-level tokenizer, which transformers leaves alone in a sequence."""
    from tokenizers import pre_tokenizers

    wanted = config.get("add_prefix_space", None if kind == "LlamaTokenizer" else False)
    before = fast.pre_tokenizer
    bare = isinstance(before, pre_tokenizers.ByteLevel) and kind != _OF_TRANSFORMERS_5
    if bare and wanted is not None and before.add_prefix_space != wanted:
        before.add_prefix_space = wanted
        fast.pre_tokenizer = before
