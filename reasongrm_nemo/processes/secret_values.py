# SPDX-License-Identifier: Apache-2.0
"""Secrets among the environment variables of a recipe: a stand-in goes everywhere, the value to the server.

A recipe is copied into manifests, work orders, trackers and what `plan` prints.  So a loaded recipe holds a
stand-in, and this process alone the value, which is asked for where a server's environment is made.
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
_SHORTEST = 4  # a value that is part of any text hides nothing by being struck out

_kept: dict[str, str] = {}


def is_secret(name: str, value: object) -> bool:
    """Whether a variable looks like one: its name, a password in a URL, or the form of a known service's."""
    text = str(value)
    return bool(text) and bool(_NAME.search(name) or _VALUE.match(text) or has_password(text))


def has_password(text: str) -> bool:
    """Whether a URL in the text carries a user's name, a password or a token."""
    return bool(_IN_URL.search(text))


def hide(name: str, value: object) -> Any:
    """What stands in a recipe for the variable: its value, or a stand-in where it is a secret.

    Different values of one name have different stand-ins, in the order in which this process met them.
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
    """`hide` of each variable."""
    return {name: hide(str(name), value) for name, value in env.items()}


def reveal(value: str, key: str) -> str:
    """The inverse of `hide`, in the process that hid it.

    Raises:
        UserError: it is another process's stand-in, from a recipe that was kept with an artefact.
    """
    if _STAND_IN.fullmatch(value) and value not in _kept:
        raise UserError(
            f"{key} is the stand-in {value}, and no file keeps what it stands for: give the variable again, "
            f"best as {key}='${{oc.env:NAME}}'"
        )
    return _kept.get(value, value)


def strike(text: str) -> str:
    """The text with stand-ins for the secrets in it, and without the passwords of URLs."""
    for stand_in, value in sorted(_kept.items(), key=lambda pair: -len(pair[1])):
        if len(value) >= _SHORTEST:
            text = text.replace(value, stand_in)
    return re.sub(r"(://[^/\s:?#@]*):[^/\s?#@]+@", r"\1:<secret>@", text)


def masked(recipe: Any) -> Any:
    """A recipe as an earlier version kept it, with stand-ins in `rollout.extra_env`."""
    if not isinstance(recipe, dict) or not isinstance(rollout := recipe.get("rollout"), dict):
        return recipe
    env = rollout.get("extra_env")
    return recipe | {"rollout": rollout | {"extra_env": hide_all(env)}} if isinstance(env, dict) else recipe
