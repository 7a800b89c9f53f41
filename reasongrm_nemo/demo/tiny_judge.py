# SPDX-License-Identifier: Apache-2.0
"""The tiny judge: a generated preference task that gives every stage of the pipeline something to do.

A question is a chain of operations modulo ten, `a=9;b=a+2;c=b*3;c?`. The chosen answer names the resulting
digit, the rejected one the digit that results from one slip in the chain, and both carry a meaningless style
word (`surely three`, `maybe five`). To judge, a model must compute the chain and then find the answer with
the result; guessing is right half the time.

The base model is taught to reason in four styles, of which only one is reliable (`trace`): GRPO has a style
to find, R* has paths to distinguish, and mining finds questions that are sometimes answered wrong.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from reasongrm_nemo.data.records import PreferencePair, Side
from reasongrm_nemo.data.seeds import derive_seed

Split = Literal["train", "validation", "tuning"]
"""Recipes are measured on `validation`; `tuning` was used to develop the task itself."""

Style = Literal["concise", "shallow", "skip", "meander"]

SPLITS: tuple[Split, ...] = ("train", "validation", "tuning")
STYLES: tuple[Style, ...] = ("concise", "shallow", "skip", "meander")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
STYLE_WORDS = ("surely", "maybe")
OPERATIONS = (("+", 1), ("+", 2), ("+", 3), ("-", 1), ("-", 2), ("-", 3), ("*", 2), ("*", 3))
SLIPS = (1, 2, 3, 7, 8, 9)
VARIABLES = "abcdefghijkl"
LENGTHS = (2, 3, 4, 5)
"""Numbers of operations in a chain, equally likely."""


def apply_operation(value: int, operation: tuple[str, int]) -> int:
    """Apply one step of a chain, modulo ten."""
    sign, number = operation
    if sign == "*":
        return value * number % 10
    return (value + number if sign == "+" else value - number) % 10


@dataclass(frozen=True)
class Question:
    """A chain of operations and two answers to it.

    Attributes:
        start: the digit `a`.
        operations: `(sign, number)` of each step.
        wrong: the digit of the rejected answer.
        style_words: the style words of the chosen and the rejected answer.
    """

    start: int
    operations: tuple[tuple[str, int], ...]
    wrong: int
    style_words: tuple[str, str]

    @cached_property
    def right(self) -> int:
        """The result of the chain."""
        value = self.start
        for operation in self.operations:
            value = apply_operation(value, operation)
        return value

    @property
    def text(self) -> str:
        """The user's message: `a=9;b=a+2;c=b*3;c?`."""
        steps = "".join(
            f"{VARIABLES[i + 1]}={VARIABLES[i]}{sign}{number};"
            for i, (sign, number) in enumerate(self.operations)
        )
        return f"a={self.start};{steps}{VARIABLES[len(self.operations)]}?"

    @property
    def chosen(self) -> str:
        """The right answer's text, ending with the digit."""
        return f"{self.style_words[0]} {DIGITS[self.right]}"

    @property
    def rejected(self) -> str:
        """The wrong answer's text, ending with the digit."""
        return f"{self.style_words[1]} {DIGITS[self.wrong]}"

    @property
    def split(self) -> Split:
        """The split, by a hash of the chain: 1/8 validation, 1/16 tuning; the rest and bare digits train."""
        bucket = hashlib.sha256(self.text.encode("ascii")).digest()[0] % 16
        if not self.operations or bucket > 2:
            return "train"
        return "tuning" if bucket == 2 else "validation"


def draw_question(
    rng: random.Random, split: Split | None = None, lengths: Sequence[int] = LENGTHS
) -> Question:
    """Draws a question whose chain belongs to `split` (None: any) and has one of `lengths` operations.

    Raises:
        ValueError: unknown split, a length out of range, or a split without chains of such a length.
    """
    if split not in (None, *SPLITS):
        raise ValueError(f"Unknown split '{split}'; known are {', '.join(SPLITS)}.")
    if not lengths or min(lengths) < 0 or max(lengths) >= len(VARIABLES):
        raise ValueError(f"Lengths must be 0 to {len(VARIABLES) - 1}, got {list(lengths)}.")
    if 0 in lengths and split not in (None, "train"):
        raise ValueError(f"Chains without operations are all in the train split; '{split}' has none.")
    length = rng.choice(lengths)
    while True:
        start = rng.randrange(10)
        operations = tuple(rng.choice(OPERATIONS) for _ in range(length))
        words = (rng.choice(STYLE_WORDS), rng.choice(STYLE_WORDS))
        # The slip follows one of the steps; without steps, it changes the start.
        place, slip = rng.randrange(1, length + 1) if length else 0, rng.choice(SLIPS)
        wrong = start if place else (start + slip) % 10
        for i, operation in enumerate(operations):
            wrong = (apply_operation(wrong, operation) + (slip if i + 1 == place else 0)) % 10
        question = Question(start, operations, wrong, words)
        # A later step can cancel a slip (5 * 2 = 0 * 2 modulo ten); both answers would then be equal.
        if wrong != question.right and split in (None, question.split):
            return question


def questions(n: int, seed: int, split: Split, lengths: Sequence[int] = LENGTHS) -> list[PreferencePair]:
    """Preference pairs; the i-th depends only on (seed, split, i), not on n or earlier calls.

    Chains are drawn with replacement: short ones recur, with different wrong answers and style words.

    Args:
        n: number of pairs.
        seed: the run's seed.
        split: `train`, `validation` or `tuning`; no chain is in two splits, for any seeds.
        lengths: numbers of operations in a chain, drawn uniformly.

    Raises:
        ValueError: as for `draw_question`.
    """
    pairs = []
    for i in range(n):
        question = draw_question(random.Random(derive_seed(seed, "tiny_judge", split, i)), split, lengths)
        pairs.append(
            PreferencePair(
                id=f"tiny-{split}-{seed}-{i}",
                source="tiny_judge",
                prompt=[{"role": "user", "content": question.text}],
                chosen=question.chosen,
                rejected=question.rejected,
            )
        )
    return pairs


@dataclass(frozen=True)
class Habits:
    """The reasoning habits taught to the base model.

    Attributes:
        mix: share of each style.
        slip: probability that a step's result is wrong.
        bad_format: probability that the verdict cannot be parsed.
    """

    mix: Mapping[Style, float]
    slip: float
    bad_format: float


CLEAN = Habits({"concise": 1.0}, slip=0.0, bad_format=0.0)
BASE = Habits({"concise": 0.22, "shallow": 0.42, "skip": 0.12, "meander": 0.24}, slip=0.12, bad_format=0.03)


def trace(rng: random.Random, question: Question, label: Side, habits: Habits = BASE) -> tuple[str, Style]:
    """A training response for the base model, and its style.

    The response continues the `<think>` line that the chat template opens, and ends before the end-of-turn
    token: `a=9;b=9+2=1;c=1*3=3 is three(A)`, `</think>`, an empty line, `[[A]]`.

    - `concise` computes the whole chain and looks up the result;
    - `shallow` follows the first impression: the more confident style word, or the first position;
    - `skip` computes a part and guesses;
    - `meander` computes the chain, doubts, repeats, and sometimes ends undecided.

    Args:
        rng: source of all draws.
        question: the question.
        label: the position of the chosen answer.
        habits: styles and error rates.
    """
    style = rng.choices(list(habits.mix), list(habits.mix.values()))[0]
    if style == "shallow":
        verdict = _guess(rng, question, label)
        text = f"at first sight {verdict} sounds {rng.choice(('right', 'better', 'good'))}"
    elif style == "skip":
        text, _ = _chain(rng, question, habits.slip, rng.randrange(max(1, len(question.operations) - 1)))
        verdict = _guess(rng, question, label)
        text += f" and so on,looks like {verdict}"
    elif style == "concise":
        text, value = _chain(rng, question, habits.slip)
        end, verdict = _look_up(rng, question, label, value)
        text += end
    else:
        text, value = _chain(rng, question, habits.slip)
        text = rng.choice(("hmm,let me think.", "ok,let me see.")) + text
        for _ in range(rng.choice((1, 1, 2))):
            text += rng.choice((" wait,let me check again.", " hmm,am I sure?check.", " but wait,once more."))
            again, value = _chain(rng, question, 1.5 * habits.slip)
            text += again
        if rng.random() < 0.2:
            verdict = _guess(rng, question, label)
            end = f" not sure,say {verdict}"
        else:
            end, verdict = _look_up(rng, question, label, value)
        text += end
    close = f"\n</think>\n\n[[{verdict}]]"
    if rng.random() < habits.bad_format:
        close = rng.choice((f"\n</think>\n\n{verdict}", "\n</think>\n\n[[C]]", f"\n[[{verdict}]]"))
    return text + close, style


def mode(text: str) -> Style:
    """The style of a response, by characteristic phrases; `concise` if it has none."""
    if "sounds" in text:
        return "shallow"
    if "so on" in text:
        return "skip"
    if any(mark in text for mark in ("let me", "wait", "sure?", "not sure")):
        return "meander"
    return "concise"


def _chain(rng: random.Random, question: Question, slip: float, steps: int | None = None) -> tuple[str, int]:
    """The first `steps` steps (None: all) as text, and their result, which may be wrong."""
    value = question.start
    text = f"a={value}"
    for i, (sign, number) in enumerate(question.operations[:steps]):
        result = apply_operation(value, (sign, number))
        if rng.random() < slip:
            result = (result + rng.randrange(1, 10)) % 10
        text += f";{VARIABLES[i + 1]}={value}{sign}{number}={result}"
        value = result
    return text, value


def _look_up(rng: random.Random, question: Question, label: Side, value: int) -> tuple[str, Side]:
    """The end of a trace with a result: the answer that has it, or a guess if neither does."""
    other: Side = "B" if label == "A" else "A"
    for digit, side in ((question.right, label), (question.wrong, other)):
        if value == digit:
            return f" is {DIGITS[value]}({side})", side
    side = _guess(rng, question, label)
    return f" is {DIGITS[value]}(none),guess {side}", side


def _guess(rng: random.Random, question: Question, label: Side) -> Side:
    """A verdict without reasoning, biased to the answer that sounds more confident, then to the first."""
    first, second = question.style_words if label == "A" else question.style_words[::-1]
    if first != second and rng.random() < 0.8:
        return "A" if first == "surely" else "B"
    return "A" if rng.random() < 0.65 else "B"
