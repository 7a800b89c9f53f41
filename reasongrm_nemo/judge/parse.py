# SPDX-License-Identifier: Apache-2.0
"""Reading the verdict out of a judge's response.

Four policies, since models write in different forms and published scores were read in different ways:

- `last` (ours; training and the default): what follows the last `</think>`.  A response without one is read
  whole, but only if neither the prompt nor the response opened `<think>`; else its reasoning never ended, and
  it has no verdict.  In such untagged text the verdict on the last non-empty line counts, whatever stood
  before it: models that think aloud name both answers on the way.  A response cut at the limit has none.
- `strict_last`: only what follows the last `</think>` counts.  The verdict is its last `[[A]]` or `[[B]]`;
  none, or both kinds, is no verdict.  A response without `</think>` has none.
- `rm_r1`: the whole text is searched, reasoning included; both kinds present is no verdict.
- `rewardbench`: `[[A]]` anywhere wins, else `[[B]]`, so that a text with both counts as A.
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
    """A verdict, or None, and why.

    `status` is `ok`, `no_verdict` or `conflicting` (both kinds found); of `strict_last` also
    `no_think_close`; of `last` also `unfinished` (the reasoning never ended) or `cut_off` (at the limit).
    """

    verdict: Literal["A", "B"] | None
    status: str


def parse_verdict(
    text: str, policy: str = "strict_last", opened: bool = False, finished: bool = True
) -> Parsed:
    """The verdict of a response under a policy.

    Args:
        text: the response, without what the prompt put before it.
        policy: one of `POLICIES`.
        opened: the prompt left `<think>` open; only `last` needs to know.
        finished: the response ended by itself, not at the limit; likewise.

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
    """Why nothing may be read from a response under `last`: `unfinished` or `cut_off`; None if it may be."""
    if left_open(text) or (opened and THINK_CLOSE not in text):
        return "unfinished"
    return None if finished else "cut_off"


def after_reasoning(text: str) -> str:
    """What follows the last `</think>`; the whole text where there is none."""
    return text.rpartition(THINK_CLOSE)[2]


def _last_line(text: str) -> str:
    return text.rstrip().rpartition("\n")[2]
