# SPDX-License-Identifier: Apache-2.0
"""Handles the tags around a model's reasoning.

The chat templates of QwQ and DeepSeek-R1 put the opening `<think>` at the end of the prompt; Qwen3 generates
the tag itself; Qwen2.5 and Llama 3 use no tags.
"""

from __future__ import annotations

THINK_OPEN = "<think>"
THINK_CLOSE = "</think>"


def left_open(text: str) -> bool:
    """Whether a text opens its reasoning and does not close it.

    Args:
        text: a response, or the end of a prompt (the template's opening of the assistant's turn, then
            `judge.response_prefix`).
    """
    return text.rfind(THINK_OPEN) > text.rfind(THINK_CLOSE)


def begun_by(opening: str) -> str:
    r"""The part of the reasoning that belongs to the prompt: from an open `<think>` on, or empty.

    Args:
        opening: the end of a prompt, as for `left_open`; for QwQ, the result is `<think>\n`.
    """
    return opening[opening.rfind(THINK_OPEN) :] if left_open(opening) else ""


def whole_turn(text: str, begun: str | None) -> str | None:
    """The assistant's turn with its reasoning in one pair of tags; None if there is no single pair.

    If only the closing tag exists, the opening one is prepended: either the model left it out, or it was part
    of the prompt and an earlier version did not record that.

    Args:
        text: a response.
        begun: the part of the reasoning that belongs to the prompt (`begun_by`); None: unknown.
    """
    turn = ((begun or "") + text).lstrip()
    opens, closes = turn.count(THINK_OPEN), turn.count(THINK_CLOSE)
    if closes != 1 or opens > 1:
        return None
    if not opens:
        return f"{THINK_OPEN}\n{turn}"
    return turn if turn.startswith(THINK_OPEN) else None


def rest_of_turn(turn: str, begun: str) -> str:
    """The rest of a `whole_turn` after a prompt that contains its beginning `begun`."""
    if not begun or turn.startswith(begun):
        return turn[len(begun) :]
    reasoning = turn.removeprefix(THINK_OPEN).lstrip()
    return reasoning if begun[-1].isspace() else f"\n{reasoning}"
