# SPDX-License-Identifier: Apache-2.0
"""Reads a recipe's YAML, from files and from the command line, without the surprises of YAML 1.1.

YAML 1.1 reads 1:12:00:00 as a number in base 60, 010 as octal, `no` and `on` as booleans, and 2026-11-29 as
a date. Here they stay text; a key that expects a boolean or a whole number then accepts text with only one
possible meaning (`read_as`), and anything else is refused.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.documents import YAML_LIMIT, check_size, read_text
from reasongrm_nemo.files.refusals import shown

AS_WRITTEN = "rollout.extra_env"
"""Values below this key stay text: for an environment variable, 1.10 is not 1.1, nor true True."""

_MOST = 1 << 63
_STR, _NULL = "tag:yaml.org,2002:str", "tag:yaml.org,2002:null"
_TRUTH = {"yes": True, "on": True, "no": False, "off": False}


@dataclass
class Source:
    """One YAML file (or the command line): its mapping, and the line of each dotted key."""

    label: str
    data: dict[str, Any]
    lines: dict[str, int] = field(default_factory=dict)
    is_base: bool = False
    replaces: tuple[str, ...] = ()
    """Dotted keys whose mapping replaces the inherited one, if the base allows any names there."""

    def where(self, key: str) -> str:
        """The "file:line" of a dotted key, or only the file."""
        return f"{self.label}:{self.lines[key]}" if key in self.lines else self.label

    def variables(self) -> dict[str, Any]:
        """The environment variables that this source sets for the server: name -> value."""
        block, _, name = AS_WRITTEN.partition(".")
        rollout = self.data.get(block)
        env = rollout.get(name) if isinstance(rollout, dict) else None
        return env if isinstance(env, dict) else {}


class _Loader(yaml.SafeLoader):
    """Reads null, true, false, decimal and 0x integers, and floats; everything else is text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Like SafeLoader's, but keys are text and must not be repeated."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                key.tag = _STR
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    "while constructing a mapping",
                    node.start_mark,
                    f"found duplicate key {key.value}",
                    key.start_mark,
                )
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Like SafeLoader's, but refuses more than 64 bits, which no key and no library takes."""
        number = super().construct_yaml_int(node) if len(node.value) < 100 else _MOST
        if abs(number) >= _MOST:
            raise yaml.constructor.ConstructorError(
                None, None, "a number of more than 64 bits; quote it if it is text", node.start_mark
            )
        return int(number)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.yaml_implicit_resolvers = {}  # SafeLoader's follow YAML 1.1
for _tag, _pattern, _first in (
    ("merge", r"<<", "<"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})$"), list(_first))


def read_source(path: Path, label: str, is_base: bool) -> Source:
    """Reads a recipe's file.

    Raises:
        UserError: the file is not valid YAML, or not a mapping.
    """
    try:
        kind, data, lines = _read(read_text(path, YAML_LIMIT))
    except RecursionError:
        raise UserError(f"{label}: not valid YAML: nested too deeply, or an alias contains itself") from None
    except (yaml.YAMLError, ValueError, OmegaConfBaseException) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{label}:{mark.line + 1}" if mark else label
        first = str(getattr(error, "problem", None) or error).splitlines()[0]
        raise UserError(f"{place}: not valid YAML: {first}{_remedy(first)}") from None
    if kind != "map":
        raise UserError(f"{label}: a recipe must be a mapping of keys, but this is a {kind}")
    return Source(label, copy.deepcopy(data), lines, is_base)


@lru_cache(maxsize=64)  # recipes share a few bases, and a pipeline reads each recipe several times
def _read(text: str) -> tuple[str, Any, dict[str, int]]:
    """The kind of a text's YAML node, its value, and the line of each dotted key."""
    node, lines, data = _parsed(text)
    if node is None:
        return "map", {}, {}
    if not isinstance(node, yaml.MappingNode):
        return node.tag.split(":")[-1], None, {}
    data = _written(node, data, "")
    OmegaConf.create(data)  # refuses an unclosed ${...}
    return "map", data, lines


_REMEDIES = (
    (r"found character '\\t'", "indent with spaces, not tabs"),
    (r"found character '[@`%]'", "put the value in quotes"),
    (r"mapping values are not allowed", "indent by two spaces a level, and put a text with ': ' in quotes"),
    (r"expected ',' or '[\]}]'", "close the bracket on the line before"),
    (r"undefined alias", "put a text that begins with * in quotes"),
)


def _remedy(problem: str) -> str:
    """A hint for a YAML error that PyYAML describes only by its scanner's state."""
    return next((f"; {remedy}" for pattern, remedy in _REMEDIES if re.search(pattern, problem)), "")


def command_line(overrides: Iterable[str]) -> Source:
    """Reads the `key=value` words of a command line; the values are parsed as YAML.

    Raises:
        UserError: a word does not have this form.
    """
    merged, mappings = OmegaConf.create({}), []
    for word in overrides:
        key, equals, value = word.partition("=")
        key = key.strip()
        if not equals or not key or any(not part for part in key.split(".")):
            raise UserError(f'command line: "{word}" is not an override; expected key=value')
        try:
            item: Any = OmegaConf.create({"value": _word(key, value)})
        except (yaml.YAMLError, ValueError, OmegaConfBaseException, RecursionError):
            # do not repeat a value that may be a secret
            what = "its value" if key.startswith(AS_WRITTEN) else repr(shown(value))
            raise UserError(f"command line: {key}: {what} is not a YAML value{_quoted(key, value)}") from None
        node = item._get_node("value")
        if key.startswith("evaluate.models.") and key.count(".") == 2 and isinstance(node._value(), str):
            key += ".hf_path"  # keeps an override of the same model's policy
        if OmegaConf.is_dict(node):
            mappings.append(key)
        OmegaConf.update(merged, key, node, force_add=True)
    data: Any = OmegaConf.to_container(merged)
    return Source("command line", data, replaces=tuple(mappings))


def _quoted(key: str, value: str) -> str:
    """A hint for a value that YAML cannot read."""
    if any("\ud800" <= c <= "\udfff" for c in value):
        return "; it contains bytes that are not UTF-8: rename the file, or set LC_ALL=C.UTF-8"
    if key.startswith(AS_WRITTEN) or not value.isprintable():
        return ""
    return f"; if it is text, quote it for YAML as well: '{key}=\"...\"'"


def _word(key: str, value: str) -> Any:
    """The value of one `key=value` word."""
    if value.startswith("@"):  # a path in an artefact: YAML requires quotes, which the shell has stripped
        value = json.dumps(value)
    text = f"value: {value}" if value.strip() else "value: null"
    node, _, data = _parsed(text)
    assert isinstance(node, yaml.MappingNode)
    return _written(node.value[0][1], data["value"], key)


def _parsed(text: str) -> tuple[yaml.Node | None, dict[str, int], Any]:
    """A text's node, the line of each dotted key, and the value if the node is a mapping."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        check_size(node)
        lines: dict[str, int] = {}
        if not isinstance(node, yaml.MappingNode):
            return node, lines, None
        _note_lines(node, "", lines)  # before merge keys add theirs to the node
        return node, lines, loader.construct_document(node)
    finally:
        loader.dispose()


def _note_lines(node: yaml.Node | None, prefix: str, lines: dict[str, int]) -> None:
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        dotted = f"{prefix}{key.value}"
        lines[dotted] = key.start_mark.line + 1
        _note_lines(value, dotted + ".", lines)


def _written(node: yaml.Node | None, data: Any, key: str) -> Any:
    """`data`, read from `node` at a dotted key, with values below `AS_WRITTEN` replaced by their text."""
    if isinstance(node, yaml.ScalarNode) and key.startswith(f"{AS_WRITTEN}."):
        return node.value
    if isinstance(node, yaml.MappingNode) and isinstance(data, dict):
        return data | {
            name.value: _written(below, data[name.value], f"{key}.{name.value}" if key else name.value)
            for name, below in node.value
            if name.value in data
        }
    return data


def read_as(kind: type, value: Any) -> Any:
    """Converts a value with only one possible meaning for this type: `off` to false, 1e4 to 10000."""
    if kind is bool and isinstance(value, str):
        return _TRUTH.get(value.lower(), value)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def misread(value: Any) -> str:
    """A hint for a text that some YAML parsers read as another number; otherwise empty."""
    if not isinstance(value, str):
        return ""
    if re.fullmatch(r"[-+]?0[0-9_]+", value):
        return "; YAML reads a leading zero as octal, so write the number without it, or quote it as text"
    if re.fullmatch(r"[-+]?[0-9]+(?::[0-9]+)+(?:\.[0-9]*)?", value):
        return "; YAML reads colons as base 60, so write the number out, or quote it as a time"
    return ""
