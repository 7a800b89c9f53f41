# SPDX-License-Identifier: Apache-2.0
"""The published forms of preference data, each row laid out as plain rows `{prompt, chosen, rejected, ...}`.

- Skywork Reward Preference (the paper's source): `chosen` and `rejected` are whole lists of `{role, content}`
  with a shared beginning; left as it is, `reasongrm_nemo.data.sources` splits it.
- Plain pairs and RewardBench: `prompt` (a list of turns or the text of one), `chosen`, `rejected` as texts.
- RM-Bench: `prompt`, and lists of texts under `chosen` and `rejected`, one a style: every chosen one makes a
  pair with every rejected one.
- RMB's pairs: `conversation_input`, `chosen` and `reject` as `{answer, llm_name}`.
- RMB's best of N: `bon_best` makes a pair with each of `loser_list`.

What is of no known form comes out as it went in, for the caller to refuse.
"""

from __future__ import annotations

from typing import Any

MAX_LISTED = 64
"""So many answers a side are laid out; a longer list is of no known form."""


def plain_rows(row: Any) -> list[Any]:
    """The pairs a row of any form offers, one or more, unchecked."""
    if not isinstance(row, dict):
        return [row]
    if "conversation_input" in row and "loser_list" in row:
        return _best_of_n(row)
    if "conversation_input" in row:
        return [_rmb(row, row.get("chosen"), row.get("reject"), row.get("pair_uid"))]
    chosen: Any = row.get("chosen")
    rejected: Any = row.get("rejected")
    if _texts(chosen) and _texts(rejected):
        name = row.get("id")
        return [
            {**row, "chosen": good, "rejected": bad, "id": _cell(name, f"{i}{j}")}
            for i, good in enumerate(chosen)
            for j, bad in enumerate(rejected)
        ]
    return [row]


def prompt_of(row: Any) -> list[str]:
    """The texts of the user's turns in a row of any form; empty where there are none."""
    if not isinstance(row, dict):
        return []
    for key in ("conversation_input", "prompt", "messages"):
        if isinstance(row.get(key), str):
            return [row[key]]
        if isinstance(row.get(key), list):
            return _user_texts(row[key])
    return _user_texts(row["chosen"]) if isinstance(row.get("chosen"), list) else []


def _best_of_n(row: dict[str, Any]) -> list[Any]:
    losers = row["loser_list"]
    if not isinstance(losers, list) or not 0 < len(losers) <= MAX_LISTED:
        return [row]
    name = row.get("bon_uid")
    return [_rmb(row, row.get("bon_best"), loser, _cell(name, str(i))) for i, loser in enumerate(losers)]


def _rmb(row: dict[str, Any], chosen: Any, rejected: Any, name: Any) -> dict[str, Any]:
    return {
        "id": name,
        "source": row.get("category_path"),
        "prompt": row["conversation_input"],
        "chosen": _answer(chosen),
        "rejected": _answer(rejected),
    }


def _answer(value: Any) -> Any:
    return value.get("answer") if isinstance(value, dict) else None


def _cell(name: Any, cell: str) -> str | None:
    return f"{name}-{cell}" if type(name) in (str, int) else None


def _texts(value: Any) -> bool:
    return (
        isinstance(value, list)
        and 0 < len(value) <= MAX_LISTED
        and all(isinstance(text, str) for text in value)
    )


def _user_texts(turns: list[Any]) -> list[str]:
    return [
        turn["content"]
        for turn in turns
        if isinstance(turn, dict) and turn.get("role") == "user" and isinstance(turn.get("content"), str)
    ]
