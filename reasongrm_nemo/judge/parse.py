# SPDX-License-Identifier: Apache-2.0
"""Parses the verdict of a judge's response.

Models write verdicts in different forms, and published scores were parsed in different ways; hence four
policies:

- `last` (used in training, recipes' default): searches the text after the last `</think>`.  A response
  without `</think>` is searched whole if neither the prompt nor the response opened `<think>`; otherwise its
  reasoning never ended, and there is no verdict.  In untagged text, a verdict on the last non-empty line
  takes precedence, because models that think aloud name both answers earlier.  A truncated response has no
  verdict.
- `strict_last`: searches only the text after the last `</think>`; without `</think>`, there is no verdict.
  If both `[[A]]` and `[[B]]` occur, there is no verdict.
- `rm_r1`: searches the whole text including the reasoning; if both occur, there is no verdict.
- `rewardbench`: A if `[[A]]` occurs anywhere, else B if `[[B]]` does; a text with both counts as A.

A new form of verdict is added here, to `sanitize.ALWAYS` (or answers can forge it) and to the templates; a
new policy also to `evaluation.policies` and `recipe.keys`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from reasongrm_nemo.judge.think import THINK_CLOSE, left_open

VERDICT = re.compile(r"\[\[([AB])\]\]")
POLICIES = ("last", "strict_last", "rm_r1", "rewardbench")


@dataclass(frozen=True)
class Parsed:
    """A verdict, or None, and the parse status.

    `status` is `ok`, `no_verdict` or `conflicting` (both verdicts occur); for `strict_last` also
    `no_think_close`; for `last` also `unfinished` (the reasoning never ended) or `cut_off` (truncated).
    """

    verdict: Literal["A", "B"] | None
    status: str


def parse_verdict(
    text: str, policy: str = "strict_last", opened: bool = False, finished: bool = True
) -> Parsed:
    """Parse the verdict of a response with a policy.

    Args:
        text: the response, without the part of the turn that belongs to the prompt.
        policy: one of `POLICIES`.
        opened: whether the prompt left `<think>` open; used only by `last`.
        finished: whether the response ended before the length limit; used only by `last`.

    Raises:
        ValueError: unknown policy.
    """
    check_policy(policy)
    tagged = True
    if policy == "last":
        problem = unreadable(text, opened, finished)
        if problem:
            return Parsed(None, problem)
        tagged = THINK_CLOSE in text
        text = after_reasoning(text)
    elif policy == "strict_last":
        if THINK_CLOSE not in text:
            return Parsed(None, "no_think_close")
        text = after_reasoning(text)
    kinds = set(VERDICT.findall(text))
    if not tagged:
        kinds = set(VERDICT.findall(_last_line(text))) or kinds
    if not kinds:
        return Parsed(None, "no_verdict")
    if len(kinds) == 2 and policy != "rewardbench":
        return Parsed(None, "conflicting")
    return Parsed("A" if "A" in kinds else "B", "ok")


def check_policy(policy: str) -> None:
    """Raise ValueError unless `policy` is one of `POLICIES`."""
    if policy not in POLICIES:
        raise ValueError(f"Unknown verdict policy '{policy}'; known are {', '.join(POLICIES)}")


def unreadable(text: str, opened: bool, finished: bool) -> str | None:
    """Why `last` does not parse a response: `unfinished` or `cut_off`; None if it does."""
    if left_open(text) or (opened and THINK_CLOSE not in text):
        return "unfinished"
    return None if finished else "cut_off"


def after_reasoning(text: str) -> str:
    """The text after the last `</think>`; the whole text if there is none."""
    return text.rpartition(THINK_CLOSE)[2]


def _last_line(text: str) -> str:
    return text.rstrip().rpartition("\n")[2]
