# SPDX-License-Identifier: Apache-2.0
"""Computes the credit of each pair in a verdict log under a policy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from reasongrm_nemo.data.records import Verdict
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.evaluation.policies import Policy, nearest
from reasongrm_nemo.files.lines import encodable
from reasongrm_nemo.judge.parse import POLICIES, parse_verdict
from reasongrm_nemo.judge.settings import DEFAULT_POLICY


@dataclass(slots=True)
class PairOutcome:
    """The outcome of one pair: sums over its judgements, or over the votes of each order."""

    credit: float = 0.0
    right: int = 0
    judgements: int = 0
    ballots: dict[str | None, list[tuple[float, bool, str]]] | None = None
    """The outcomes by order, while majority votes are collected."""
    rows: int = 0
    rows_swapped: int = 0
    """Rows of the log, and how many of them show the rejected answer first."""

    @property
    def mean_credit(self) -> float:
        """Mean credit, in [0, 1]."""
        return self.credit / self.judgements

    @property
    def share_right(self) -> float:
        """Share of right judgements; ties and unparsable ones count as wrong."""
        return self.right / self.judgements


@dataclass
class SubsetOutcomes:
    """The pairs of a subset by item and cell, and the statuses of its judgements."""

    items: dict[str, dict[str | None, PairOutcome]] = field(default_factory=dict)
    statuses: Counter[str] = field(default_factory=Counter)
    prompts: dict[str, str] = field(default_factory=dict)
    """Item -> conversation, if the log names it: items that share one are not independent."""
    ended: int = 0
    truncated: int = 0
    """Judgements with a known finish reason, and how many of them were cut at the token limit."""

    @property
    def judgements(self) -> int:
        """Number of rows in the log."""
        return sum(self.statuses.values())

    @property
    def ties(self) -> int:
        """Judgements without a preference: equal scores, or a declared tie."""
        return self.statuses["tie"]

    @property
    def unparsable(self) -> int:
        """Judgements in which the policy's parser finds no verdict."""
        return self.judgements - self.ties - self.statuses["ok"]


def outcome(verdict: Verdict, policy: Policy) -> tuple[float, bool, str]:
    """A judgement's credit, whether it is right, and its status (`ok`, `tie`, or why there is no verdict).

    Scores are compared strictly. A text is parsed again by the policy's parser, as the log's verdict may come
    from another policy. A row without text counts as recorded.
    """
    if verdict.chosen_score is not None and verdict.rejected_score is not None:
        if verdict.chosen_score == verdict.rejected_score:
            return 0.0, False, "tie"
        right = verdict.chosen_score > verdict.rejected_score
        return float(right), right, "ok"
    side: str | None = verdict.verdict
    if verdict.text:
        side, status = _read(verdict, policy)
    else:
        status = encodable(verdict.parse_status)
    if side is not None:
        right = (side == "A") == (verdict.order == "chosen_first")
        return float(right), right, "ok"
    if verdict.order is None and (verdict.correct or status == "ok"):
        return float(verdict.correct), verdict.correct, "ok"
    if verdict.tie:
        return policy.tie, False, "tie"
    return policy.unparsable, False, "no_verdict" if status in ("ok", "tie") else status


def _read(verdict: Verdict, policy: Policy) -> tuple[str | None, str]:
    """A text's verdict and status by the policy's parser or, if the policy has none, by the row's."""
    opened = verdict.opened
    if opened is None:  # a log of an earlier version: texts refused for want of `</think>` stay so
        opened = verdict.parse_status == "no_think_close"
    parser = policy.parser or (verdict.policy if verdict.policy in POLICIES else None) or DEFAULT_POLICY
    parsed = parse_verdict(verdict.text, parser, opened, finished=verdict.finish_reason != "length")
    return parsed.verdict, parsed.status


Witness = Callable[[Verdict, float, bool, str], None]
"""Called with each judgement, its credit, whether it is right, and its status."""


def collect_outcomes(
    verdicts: Iterable[Verdict], policy: Policy, benchmark: str, witnesses: Sequence[Witness] = ()
) -> dict[str, SubsetOutcomes]:
    """The outcomes by subset, independent of the order of the rows.

    Raises:
        UserError: there are no rows, or one belongs to another benchmark.
    """
    subsets: dict[str, SubsetOutcomes] = {}
    majority = policy.vote == "majority"
    for verdict in verdicts:
        if verdict.benchmark != benchmark:
            raise UserError(
                f"item '{verdict.item_id}' belongs to the benchmark '{verdict.benchmark}', not {benchmark}; "
                "give the log of one benchmark, with that benchmark's name"
            )
        subset = subsets.get(verdict.subset)
        if subset is None:
            subset = subsets.setdefault(verdict.subset, SubsetOutcomes())
        item = subset.items.get(verdict.item_id)
        if item is None:
            item = subset.items.setdefault(verdict.item_id, {})
            if verdict.prompt_id is not None:
                subset.prompts[verdict.item_id] = verdict.prompt_id
        pair = item.get(verdict.cell)
        if pair is None:
            pair = item.setdefault(verdict.cell, PairOutcome())
        credit, right, status = outcome(verdict, policy)
        pair.rows += 1
        pair.rows_swapped += verdict.order == "rejected_first"
        if majority:
            pair.ballots = pair.ballots or {}
            pair.ballots.setdefault(verdict.order, []).append((credit, right, status))
        else:
            pair.credit += credit
            pair.right += right
            pair.judgements += 1
        subset.statuses[status] += 1
        subset.ended += verdict.finish_reason is not None
        subset.truncated += verdict.finish_reason == "length"
        for witness in witnesses:
            witness(verdict, credit, right, status)
    if majority:
        for subset in subsets.values():
            for item in subset.items.values():
                for pair in item.values():
                    _vote(pair, policy)
    if not subsets:
        raise UserError("the log holds no verdicts; there is nothing to score")
    return {name: subsets[name] for name in sorted(subsets)}


def _vote(pair: PairOutcome, policy: Policy) -> None:
    """Replace a pair's ballots by the sums over each order's vote."""
    for ballots in (pair.ballots or {}).values():
        right = sum(ballot[1] for ballot in ballots)
        read = sum(ballot[2] == "ok" for ballot in ballots)
        if len(ballots) == 1:
            credit = ballots[0][0]
        elif 2 * right != read:
            credit = float(2 * right > read)
        else:  # a draw, or no verdict at all, in which case most may have declared a tie
            ties = sum(ballot[2] == "tie" for ballot in ballots)
            credit = policy.tie if read or 2 * ties > len(ballots) else policy.unparsable
        pair.credit += credit
        pair.right += 2 * right > read
        pair.judgements += 1
    pair.ballots = None


def check_subsets(names: Iterable[str], known: Mapping[str, object], benchmark: str, partial: bool) -> None:
    """Check that the subsets are exactly the benchmark's.

    Raises:
        UserError: a subset is unknown (the message names the nearest known one) or missing.
    """
    names = set(names)
    for name in sorted(names - set(known)):
        raise UserError(f"{benchmark} has no subset '{name}'{nearest(name, known)}")
    missing = [name for name in known if name not in names]
    if missing and not partial:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise UserError(
            f"{benchmark} lacks the subset{'s' * (len(missing) > 1)} {', '.join(missing[:3])}{more}; judge "
            "the rest, or give --partial"
        )


def check_cells(
    subsets: Mapping[str, SubsetOutcomes],
    problem: Callable[[set[str | None]], str | None],
    benchmark: str,
) -> None:
    """Check the cells of each item.

    Raises:
        UserError: `problem` returns a reason; the message names the first such item.
    """
    for name, subset in subsets.items():
        for item, cells in subset.items.items():
            reason = problem(set(cells))
            if reason:
                raise UserError(f"{benchmark}: item '{item}' of '{name}' {reason}")
