# SPDX-License-Identifier: Apache-2.0
"""Replaces secrets among a recipe's environment variables by placeholders.

A recipe is copied to manifests, work orders, trackers and the output of `plan`.  A loaded recipe therefore
holds a placeholder, and only this process holds the value, which goes into the server's environment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from reasongrm_nemo.errors import UserError

_NAME = re.compile(
    r"TOKEN$|(?:^|_)(?:API|ACCESS|PRIVATE|SECRET)?KEYS?(?:_ID)?$|PASSWORD|PASSWD|PASSPHRASE|SECRET|CREDENTIALS?$"
    r"|CREDS$|_(?:PASS|PWD|PAT|AUTH|BEARER|COOKIES?|CERT_PEM)$|^(?:PASS|PG_?PASS|PWD_SECRET|COOKIE|AUTH|BEARER)$|APIKEY|AUTHORIZATION",
    re.IGNORECASE,
)
_IN_URL = re.compile(r"://[^/\s?#@]+@|[?&](?:[\w-]*token|[\w-]*key|password|secret|sig(?:nature)?)=", re.I)
_VALUE = re.compile(
    r"(?:hf_|sk-|gh[pousr]_|github_pat_|glpat-|xox[abp]-|AKIA)[\w-]{12,}|eyJ[\w-]+\.[\w-]+\."
    r"|(?:Bearer|Basic) \S|-----BEGIN [A-Z ]*PRIVATE KEY"
)
_STAND_IN = re.compile(r"<secret .+>", re.DOTALL)
_SHORTEST = 4  # shorter values occur in ordinary text, and are not struck out

_kept: dict[str, str] = {}


def is_secret(name: str, value: object) -> bool:
    """Whether a variable looks like a secret: by name, a password in a URL, or a known service's format."""
    text = str(value)
    return bool(text) and bool(_NAME.search(name) or _VALUE.match(text) or has_password(text))


def has_password(text: str) -> bool:
    """Whether a URL in the text contains a user name, password or token."""
    return bool(_IN_URL.search(text))


def hide(name: str, value: object) -> Any:
    """Return a variable's value, or a placeholder if the value is a secret.

    Different values of one name get different placeholders, numbered in order of first use.
    """
    if (
        not isinstance(value, (str, int, float))
        or not is_secret(name, value)
        or _STAND_IN.fullmatch(str(value))
    ):
        return value
    number = 1
    while True:
        stand_in = f"<secret {name}>" if number == 1 else f"<secret {name} {number}>"
        if _kept.setdefault(stand_in, str(value)) == str(value):
            return stand_in
        number += 1


def hide_all(env: Mapping[str, Any]) -> dict[str, Any]:
    """Apply `hide` to every variable."""
    return {name: hide(str(name), value) for name, value in env.items()}


def reveal(value: str, key: str) -> str:
    """The inverse of `hide`, in the process that hid the value.

    Raises:
        UserError: the placeholder is from another process, in a recipe stored with an artefact.
    """
    if _STAND_IN.fullmatch(value) and value not in _kept:
        raise UserError(
            f"{key} is the placeholder {value}, whose value is not stored in any file; set {key} again, "
            f"preferably as {key}='${{oc.env:NAME}}'"
        )
    return _kept.get(value, value)


def strike(text: str) -> str:
    """Replace secrets in a text by their placeholders, and remove passwords from URLs."""
    for stand_in, value in sorted(_kept.items(), key=lambda pair: -len(pair[1])):
        if len(value) >= _SHORTEST:
            text = text.replace(value, stand_in)
    return re.sub(r"(://[^/\s:?#@]*):[^/\s?#@]+@", r"\1:<secret>@", text)


def masked(recipe: Any) -> Any:
    """A recipe stored by an earlier version, with secrets in `rollout.extra_env` replaced."""
    if not isinstance(recipe, dict) or not isinstance(rollout := recipe.get("rollout"), dict):
        return recipe
    env = rollout.get("extra_env")
    return recipe | {"rollout": rollout | {"extra_env": hide_all(env)}} if isinstance(env, dict) else recipe
