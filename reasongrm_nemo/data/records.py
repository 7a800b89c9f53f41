# SPDX-License-Identifier: Apache-2.0
"""The records that stages exchange, stored as JSON Lines (`reasongrm_nemo.data.jsonl`)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta

from reasongrm_nemo.data.base_record import Record

_Key = Annotated[str, Meta(pattern="^(role|content)$")]
Message = Annotated[dict[_Key, str], Meta(min_length=2, max_length=2)]
"""One turn: exactly the keys `role` and `content`."""

Side = Literal["A", "B"]
"""The answer shown first (A) or second (B)."""

Order = Literal["chosen_first", "rejected_first"]
"""The order in which a pair is shown; `chosen_first` implies the label A."""


class PreferencePair(Record, frozen=True):
    """A conversation and two answers to it, one of them preferred."""

    id: str
    source: str
    prompt: list[Message]
    chosen: str
    rejected: str

    def _inconsistency(self) -> str | None:
        return None if self.prompt else "field 'prompt' must not be empty"


class QuestionAnswer(Record, frozen=True):
    """A conversation that ends with a question, and its reference answer."""

    id: str
    source: str
    prompt: list[Message]
    reference: str

    def _inconsistency(self) -> str | None:
        return None if self.prompt else "field 'prompt' must not be empty"


class JudgeTask(Record, frozen=True):
    """The messages shown to the judge, and the preferred answer."""

    id: str
    pair_id: str
    source: str
    messages: list[Message]
    label: Side
    order: Order

    def _inconsistency(self) -> str | None:
        if not self.messages:
            return "field 'messages' must not be empty"
        if (self.label == "A") != (self.order == "chosen_first"):
            return f"has the label '{self.label}' but the order '{self.order}'"
        return None


class AnswerTask(Record, frozen=True):
    """A question, and the reference that an answer must be equivalent to."""

    id: str
    source: str
    messages: list[Message]
    reference: str

    def _inconsistency(self) -> str | None:
        if not self.messages:
            return "field 'messages' must not be empty"
        return None if self.reference.strip() else "field 'reference' must hold text"


class ReasoningPath(Record, frozen=True):
    """One sampled response to a task, with the sums that R* needs.

    `reasoning_prob_sum` and `answer_prob_sum` add the raw probabilities (temperature 1, full vocabulary)
    of the reasoning's and the answer's tokens under the model that sampled them, or under `scorer` if set;
    neither includes the end-of-turn token.  `text` is the response without the end-of-turn token.
    A path of a `JudgeTask` has a verdict, one of an `AnswerTask` an `answer`, if it could be parsed.
    `begun` is the reasoning that the prompt already contains, from its open `<think>` on, which `text`
    continues; empty if the prompt opens none, None in files of earlier versions.
    `token_ids` are the sampled ids without the end-of-turn token, and `tokenizer` is the digest of their
    tokenizer (`tokenization.JudgeTokenizer.digest`).
    `unscored` tells why the scorer gave no sums; both token counts are then 0.
    """

    task_id: str
    sample: int
    text: str
    reasoning_tokens: int
    answer_tokens: int
    reasoning_prob_sum: float
    answer_prob_sum: float
    verdict: Side | None
    parse_status: str
    correct: bool
    finish_reason: str
    model: str
    token_ids: list[int] | None = None
    answer: str | None = None
    scorer: str | None = None
    begun: str | None = None
    tokenizer: str | None = None
    unscored: str | None = None

    @property
    def opened(self) -> bool | None:
        """Whether the prompt left `<think>` open; None if unknown."""
        return None if self.begun is None else bool(self.begun)

    def _inconsistency(self) -> str | None:
        for name in ("sample", "reasoning_tokens", "answer_tokens"):
            if getattr(self, name) < 0:
                return f"field '{name}' must not be negative, got {getattr(self, name)}"
        if self.verdict is not None and self.answer is not None:
            return "has both a verdict and an open answer"
        if self.correct and self.verdict is None and self.answer is None:
            return "is marked correct without a verdict"
        return None


class SampledPath(ReasoningPath, frozen=True):
    """A path in the file of a stage that is still sampling.

    `probs` is `token_probs.pack` of all its tokens' probabilities, if they are kept.
    """

    probs: str | None = None


class SftExample(Record, frozen=True):
    """A task's prompt with the selected path as the assistant turn, starting at `<think>`.

    `begun`, `token_ids` and `tokenizer` are the path's; the turn's text begins with `begun`.  Without them
    (files of earlier versions, or written by hand) training uses the text alone.
    """

    task_id: str
    messages: list[Message]
    r_star: float
    self_consistency: float
    validity: float
    strategy: str
    begun: str | None = None
    token_ids: list[int] | None = None
    tokenizer: str | None = None

    def _inconsistency(self) -> str | None:
        if len(self.messages) < 2 or self.messages[-1]["role"] != "assistant":
            return "field 'messages' must end with an assistant turn"
        if not self.messages[-1]["content"].startswith(self.begun or ""):
            return "field 'begun' must be the beginning of the assistant turn"
        if self.token_ids is not None and (self.begun is None or self.tokenizer is None):
            return "has 'token_ids' without 'begun' and 'tokenizer'"
        return None


class HardTask(JudgeTask, frozen=True):
    """A task the model does not always get right (section 3.4).

    `answers` holds the N verdicts by sample (null: no verdict), `accuracy` the share of correct ones,
    `rationale` a correct reasoning path, if there is one.
    """

    answers: list[Side | None]
    accuracy: float
    rationale: str | None = None

    def _inconsistency(self) -> str | None:
        return super()._inconsistency() or (None if self.answers else "field 'answers' must not be empty")


class Verdict(Record, frozen=True):
    """One judgement in an evaluation.

    `cell` distinguishes several pairs of one item: RM-Bench's style cell, a best-of-N group's loser.
    Optional: `sample` (of several judgements in one order); `turns` (number of user turns); the characters
    of both answers; the prompt's tokens; `prompt_id`, equal for equal conversations; `finish_reason`,
    `policy` and `opened`, which determine how the text was parsed (`judge.parse_verdict`); the sampling
    parameters, from `temperature` on.
    A judge's row needs only the benchmark, the subset, the item, the order, and the verdict or the text; a
    scalar reward model's row has two scores instead of order and verdict. The rest is derived.
    `order` is None if another project's file tells who won, but not in which order.
    """

    benchmark: str
    subset: str
    item_id: str
    cell: str | None
    order: Order | None
    verdict: Side | None
    correct: bool
    tie: bool
    parse_status: str
    tokens: int
    text: str
    chosen_score: float | None = None
    rejected_score: float | None = None
    sample: int | None = None
    turns: int | None = None
    chosen_chars: int | None = None
    rejected_chars: int | None = None
    prompt_tokens: int | None = None
    prompt_id: str | None = None
    finish_reason: str | None = None
    policy: str | None = None
    opened: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None

    @classmethod
    def from_dict(cls, data: Any, where: str = "record") -> Verdict:
        """As `Record.from_dict`, deriving missing fields from the scores, the verdict or the text."""
        if isinstance(data, dict):
            if "chosen_score" in data or "rejected_score" in data:
                data = _implied_by_scores(data.get("chosen_score"), data.get("rejected_score")) | data
            elif not data.keys() >= _WHOLE_ROW:
                unread = {"verdict": None} if data.get("text") else {}
                data = unread | _implied_by_verdict(data.get("verdict"), data.get("order")) | data
        return super().from_dict(data, where)

    def _inconsistency(self) -> str | None:
        if self.chosen_score is None and self.rejected_score is None:
            if self.order is None and (self.verdict is not None or self.text):
                return "has a verdict or a text but no 'order'; give 'chosen_first' or 'rejected_first'"
            return None
        if self.chosen_score is None or self.rejected_score is None:
            return "has one of 'chosen_score' and 'rejected_score'; give both"
        if self.verdict is not None:
            return "has both scores and a verdict; give one or the other"
        if self.correct != (self.chosen_score > self.rejected_score):
            return (
                f"has the scores {self.chosen_score} and {self.rejected_score} but 'correct' {self.correct}"
            )
        if self.tie != (self.chosen_score == self.rejected_score):
            return f"has the scores {self.chosen_score} and {self.rejected_score} but 'tie' {self.tie}"
        return None


_WHOLE_ROW = frozenset({"cell", "correct", "tie", "parse_status", "tokens", "text", "verdict"})


def _implied_by_scores(chosen: Any, rejected: Any) -> dict[str, Any]:
    numbers = isinstance(chosen, (int, float)) and isinstance(rejected, (int, float))
    return {
        "cell": None,
        "order": "chosen_first",
        "verdict": None,
        "correct": numbers and chosen > rejected,
        "tie": numbers and chosen == rejected,
        "parse_status": "score",
        "tokens": 0,
        "text": "",
    }


def _implied_by_verdict(verdict: Any, order: Any) -> dict[str, Any]:
    return {
        "cell": None,
        "correct": verdict in ("A", "B") and (verdict == "A") == (order == "chosen_first"),
        "tie": False,
        "parse_status": "no_verdict" if verdict is None else "ok",
        "tokens": 0,
        "text": "",
    }
