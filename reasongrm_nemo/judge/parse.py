# SPDX-License-Identifier: Apache-2.0
"""Reading the verdict out of a judge's response.

Three policies, since published scores were made with different ones:

- `strict_last` (ours; training and the default): only what follows the last `</think>` counts.  The verdict
  is its last `[[A]]` or `[[B]]`; none, or both kinds, is no verdict.  A response without `</think>` has none.
- `rm_r1`: the whole text is searched, reasoning included; both kinds present is no verdict.
- `rewardbench`: `[[A]]` anywhere wins, else `[[B]]`, so that a text with both counts as A.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

THINK_CLOSE = "</think>"
VERDICT = re.compile(r"\[\[([AB])\]\]")
POLICIES = ("strict_last", "rm_r1", "rewardbench")


@dataclass(frozen=True)
class Parsed:
    """A verdict, or None, and why.

    `status` is `ok`, `no_think_close` (strict_last only), `no_verdict` or `conflicting` (both kinds found).
    """

    verdict: Literal["A", "B"] | None
    status: str


def parse_verdict(text: str, policy: str = "strict_last") -> Parsed:
    """The verdict of a response under a policy.

    Args:
        text: the response; whether it begins with `<think>` does not matter.
        policy: one of `POLICIES`.

    Raises:
        ValueError: unknown policy.
    """
    if policy not in POLICIES:
        raise ValueError(f"Unknown verdict policy '{policy}'; known are {', '.join(POLICIES)}")
    if policy == "strict_last":
        _, close, text = text.rpartition(THINK_CLOSE)
        if not close:
            return Parsed(None, "no_think_close")
    found = set(VERDICT.findall(text))
    if not found:
        return Parsed(None, "no_verdict")
    if len(found) == 2 and policy != "rewardbench":
        return Parsed(None, "conflicting")
    return Parsed("A" if "A" in found else "B", "ok")
