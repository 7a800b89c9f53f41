# SPDX-License-Identifier: Apache-2.0
"""The tiny judge: a generated preference task on which every stage of the pipeline has something to do.

A question is a chain of operations modulo ten, `a=9;b=a+2;c=b*3;c?`.  The chosen answer names the digit it
comes to, the rejected one the digit that the same chain gives with one slip, and both carry a style word that
says nothing (`surely three`, `maybe five`).  To judge, a model must work out the chain and then look up which
answer holds the result; one that does not bother is right half the time.

The base model is taught to write reasoning in four styles, of which one is any good (`trace`): reinforcement
has a style to find, R* has paths to tell apart, mining finds questions that are not always answered right.
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
"""`validation` is what recipes measure on; `tuning` is for developing the task itself, so that it is not."""

Style = Literal["concise", "shallow", "skip", "meander"]

SPLITS: tuple[Split, ...] = ("train", "validation", "tuning")
STYLES: tuple[Style, ...] = ("concise", "shallow", "skip", "meander")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
STYLE_WORDS = ("surely", "maybe")
OPERATIONS = (("+", 1), ("+", 2), ("+", 3), ("-", 1), ("-", 2), ("-", 3), ("*", 2), ("*", 3))
SLIPS = (1, 2, 3, 7, 8, 9)
VARIABLES = "abcdefghijkl"
LENGTHS = (2, 3, 4, 5)
"""Operations in a chain; each length is as likely as the others."""


def apply_operation(value: int, operation: tuple[str, int]) -> int:
    """One step of a chain, modulo ten."""
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
        style_words: of the chosen and of the rejected answer.
    """

    start: int
    operations: tuple[tuple[str, int], ...]
    wrong: int
    style_words: tuple[str, str]

    @cached_property
    def right(self) -> int:
        """The digit the chain comes to."""
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
        """The right answer's text, the digit last."""
        return f"{self.style_words[0]} {DIGITS[self.right]}"

    @property
    def rejected(self) -> str:
        """The wrong answer's text, the digit last."""
        return f"{self.style_words[1]} {DIGITS[self.wrong]}"

    @property
    def split(self) -> Split:
        """By a hash of the chain: 1/8 validation, 1/16 tuning, the rest and all bare digits train.

        A hash, not a list of keys to avoid, since there are only 80 chains of one operation.
        """
        bucket = hashlib.sha256(self.text.encode("ascii")).digest()[0] % 16
        if not self.operations or bucket > 2:
            return "train"
        return "tuning" if bucket == 2 else "validation"


def draw_question(
    rng: random.Random, split: Split | None = None, lengths: Sequence[int] = LENGTHS
) -> Question:
    """A question whose chain belongs to `split` (None: to any) and has one of `lengths` operations.

    Raises:
        ValueError: unknown split, a length without a variable to name its result, or a split without chains.
    """
    if split not in (None, *SPLITS):
        raise ValueError(f"Unknown split '{split}'; known are {', '.join(SPLITS)}.")
    if not lengths or min(lengths) < 0 or max(lengths) >= len(VARIABLES):
        raise ValueError(f"Lengths must be 0 to {len(VARIABLES) - 1}, got {list(lengths)}.")
    if 0 in lengths and split not in (None, "train"):
        raise ValueError(f"Chains of no operation are all in the train split; '{split}' has none.")
    length = rng.choice(lengths)
    while True:
        start = rng.randrange(10)
        operations = tuple(rng.choice(OPERATIONS) for _ in range(length))
        words = (rng.choice(STYLE_WORDS), rng.choice(STYLE_WORDS))
        # The slip comes after one of the steps; where there is none, at the start.
        place, slip = rng.randrange(1, length + 1) if length else 0, rng.choice(SLIPS)
        wrong = start if place else (start + slip) % 10
        for i, operation in enumerate(operations):
            wrong = (apply_operation(wrong, operation) + (slip if i + 1 == place else 0)) % 10
        question = Question(start, operations, wrong, words)
        # A slip may vanish on the way (5 * 2 is 0 * 2); then both answers would be the same.
        if wrong != question.right and split in (None, question.split):
            return question


def questions(n: int, seed: int, split: Split, lengths: Sequence[int] = LENGTHS) -> list[PreferencePair]:
    """Preference pairs; the i-th depends on (seed, split, i) alone, not on n or on earlier calls.

    Chains are drawn with replacement: short ones recur, with other wrong answers and style words.

    Args:
        n: how many.
        seed: the run's seed.
        split: `train`, `validation` or `tuning`; no chain is in two of them, whatever the seeds.
        lengths: operations in a chain, drawn uniformly.

    Raises:
        ValueError: as `draw_question`.
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
    """How the base model is taught to reason.

    Attributes:
        mix: share of each style.
        slip: probability that a step's result is wrong.
        bad_format: probability that the verdict is in no readable form.
    """

    mix: Mapping[Style, float]
    slip: float
    bad_format: float


CLEAN = Habits({"concise": 1.0}, slip=0.0, bad_format=0.0)
BASE = Habits({"concise": 0.22, "shallow": 0.42, "skip": 0.12, "meander": 0.24}, slip=0.12, bad_format=0.03)


def trace(rng: random.Random, question: Question, label: Side, habits: Habits = BASE) -> tuple[str, Style]:
    """A response to a question as the base model is taught to write it, and its style.

    The response goes on from the `<think>` line that the chat template opens, and ends before the end-of-turn
    token: `a=9;b=9+2=1;c=1*3=3 is three(A)`, `</think>`, an empty line, `[[A]]`.

    - `concise` works out the whole chain and looks up the result;
    - `shallow` goes by the first impression: the surer style word, or the first place;
    - `skip` works out a part and guesses;
    - `meander` works it out, doubts, does so again, and now and then ends undecided.

    Args:
        rng: where all draws come from.
        question: the question.
        label: the place of the chosen answer.
        habits: styles and faults.
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
    """The style of a response, by its marks; what has none counts as `concise`."""
    if "sounds" in text:
        return "shallow"
    if "so on" in text:
        return "skip"
    if any(mark in text for mark in ("let me", "wait", "sure?", "not sure")):
        return "meander"
    return "concise"


def _chain(rng: random.Random, question: Question, slip: float, steps: int | None = None) -> tuple[str, int]:
    """The first `steps` steps (None: all) as text, and the digit they come to, right or not."""
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
    """The end of a trace that knows the result: where it stands, or a guess if nowhere."""
    other: Side = "B" if label == "A" else "A"
    for digit, side in ((question.right, label), (question.wrong, other)):
        if value == digit:
            return f" is {DIGITS[value]}({side})", side
    side = _guess(rng, question, label)
    return f" is {DIGITS[value]}(none),guess {side}", side


def _guess(rng: random.Random, question: Question, label: Side) -> Side:
    """A verdict without reasoning: the answer surer of itself, or rather the first than the second."""
    first, second = question.style_words if label == "A" else question.style_words[::-1]
    if first != second and rng.random() < 0.8:
        return "A" if first == "surely" else "B"
    return "A" if rng.random() < 0.65 else "B"
