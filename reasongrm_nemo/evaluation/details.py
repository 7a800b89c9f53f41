# SPDX-License-Identifier: Apache-2.0
"""Figures of a verdict log besides its scores: positions, lengths, turns, cost, confusion."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from reasongrm_nemo.data.records import Side, Verdict
from reasongrm_nemo.evaluation.accuracy import accuracy
from reasongrm_nemo.evaluation.positions import Positions

LENGTH_BINS = 4


@dataclass
class Details:
    """Collects judgements as they are scored; `add` is a `Witness`."""

    _positions: Positions = field(default_factory=Positions)
    _items: list[str] = field(default_factory=list)
    _credits: list[float] = field(default_factory=list)
    _tokens: list[int] = field(default_factory=list)
    _prompt_tokens: list[int | None] = field(default_factory=list)
    _turns: list[int | None] = field(default_factory=list)
    _longer: list[tuple[int, bool | None]] = field(default_factory=list)
    _confusion: dict[str, Counter[tuple[Side, str]]] = field(default_factory=dict)

    def add(self, verdict: Verdict, credit: float, right: bool, status: str) -> None:
        """Add one judgement, as scored by the policy."""
        item = f"{verdict.subset}/{verdict.prompt_id or verdict.item_id}"
        self._items.append(item)
        self._credits.append(credit)
        self._tokens.append(verdict.tokens)
        self._prompt_tokens.append(verdict.prompt_tokens)
        self._turns.append(verdict.turns)
        self._longer.append(_longer(verdict, right, status))
        counts = self._confusion.setdefault(verdict.subset, Counter())
        if verdict.order is None:  # unknown which answer was A
            return
        label: Side = "A" if verdict.order == "chosen_first" else "B"
        other: Side = "B" if label == "A" else "A"
        side = (label if right else other) if status == "ok" else None
        counts[label, side or ("tie" if status == "tie" else "none")] += 1
        if verdict.chosen_score is None:
            pair = f"{verdict.subset}/{verdict.item_id}/{verdict.cell}"
            self._positions.add(pair, verdict.order, side)

    def confusion(self) -> dict[str, dict[str, int]]:
        """Counts by subset, right answer (A, B) and verdict (A, B, tie, none), under names like "A_none"."""
        return {
            subset: {f"{a}_{b}": counts[a, b] for a in "AB" for b in VERDICTS}  # type: ignore[index]
            for subset, counts in sorted(self._confusion.items())
        }

    def figures(self) -> dict[str, Any]:
        """JSON-ready.

        Returns:
            `positions`: see `Positions.figures`; `length_bias`: `prefers_longer` (share of verdicts for the
            longer answer), `chosen_longer` (share in which the longer was right), and the accuracy if the
            chosen answer is the `longer` or the `shorter`; `by_tokens`: accuracy by response length, in
            quarters of the judgements; `by_turns`: accuracy by number of user turns; `cost`: tokens of
            responses and prompts; `confusion`.  Accuracies are mean credits with intervals clustered by
            prompt.
        """
        return {
            "positions": self._positions.figures(),
            "length_bias": self._length_bias(),
            "by_tokens": self._by_tokens(),
            "by_turns": self._by(self._turns),
            "cost": self._cost(),
            "confusion": self.confusion(),
        }

    def _score(self, rows: Sequence[int]) -> dict[str, Any]:
        return accuracy([self._credits[r] for r in rows], [self._items[r] for r in rows]).to_dict()

    def _by(self, keys: Sequence[Hashable]) -> dict[str, Any]:
        groups: dict[Any, list[int]] = {}
        for row, key in enumerate(keys):
            if key is not None:
                groups.setdefault(key, []).append(row)
        return {str(key): self._score(groups[key]) for key in sorted(groups)}

    def _length_bias(self) -> dict[str, Any]:
        known = [row for row, (sign, _) in enumerate(self._longer) if sign]
        read = [row for row in known if self._longer[row][1] is not None]
        items = [self._items[row] for row in read]
        return {
            "prefers_longer": accuracy([float(bool(self._longer[row][1])) for row in read], items).to_dict(),
            "chosen_longer": accuracy([float(self._longer[row][0] > 0) for row in read], items).to_dict(),
            "longer": self._score([row for row in known if self._longer[row][0] > 0]),
            "shorter": self._score([row for row in known if self._longer[row][0] < 0]),
        }

    def _by_tokens(self) -> list[dict[str, Any]]:
        """From the shortest to the longest responses, without empty ones; equal lengths share a bin."""
        tokens = np.array(self._tokens)
        if not tokens.any():
            return []
        shares = np.arange(1, LENGTH_BINS) / LENGTH_BINS
        edges = np.unique(np.quantile(tokens[tokens > 0], shares, method="higher"))
        place = np.where(tokens > 0, np.searchsorted(edges, tokens, side="right"), -1)
        bins = []
        for number in range(len(edges) + 1):
            rows = np.flatnonzero(place == number)
            if len(rows):
                lengths = tokens[rows]
                shown = {"from": int(lengths.min()), "to": int(lengths.max())}
                bins.append({**shown, "accuracy": self._score(rows.tolist())})
        return bins

    def _cost(self) -> dict[str, Any]:
        tokens = np.array(self._tokens, dtype=np.float64)
        prompts = [count for count in self._prompt_tokens if count is not None]
        right = sum(self._credits)
        return {
            "judgements": len(tokens),
            "response_tokens": int(tokens.sum()),
            "response_mean": float(tokens.mean()),
            "response_median": float(np.median(tokens)),
            "response_q0.95": float(np.quantile(tokens, 0.95)),
            "prompt_tokens": sum(prompts) if len(prompts) == len(tokens) else None,
            "response_tokens_per_right": float(tokens.sum() / right) if right else None,
        }


VERDICTS = ("A", "B", "tie", "none")
"""The possible outcomes of a judgement."""


def _longer(verdict: Verdict, right: bool, status: str) -> tuple[int, bool | None]:
    """Whether the chosen answer is longer (1), shorter (-1) or neither (0); whether the longer one won."""
    if verdict.chosen_chars is None or verdict.rejected_chars is None:
        return 0, None
    sign = (verdict.chosen_chars > verdict.rejected_chars) - (verdict.chosen_chars < verdict.rejected_chars)
    return sign, right == (sign > 0) if status == "ok" and sign else None
