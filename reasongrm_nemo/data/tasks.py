# SPDX-License-Identifier: Apache-2.0
"""Turns preference pairs into judge tasks: order of the answers, prompt, and validation split."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from reasongrm_nemo.data.pairs import content_id
from reasongrm_nemo.data.records import JudgeTask, Message, Order, PreferencePair, QuestionAnswer
from reasongrm_nemo.data.sameness import same_key
from reasongrm_nemo.data.seeds import derive_seed
from reasongrm_nemo.judge import CHAT_SPECIAL_TOKENS, Template, build_messages

P = TypeVar("P", bound=PreferencePair | QuestionAnswer)


def shown_order(seed: int, pair_id: str) -> Order:
    """Which answer of a pair is shown first: a fair coin, determined by the run's seed and the pair."""
    return "rejected_first" if derive_seed(seed, "order", pair_id) & 1 else "chosen_first"


def make_tasks(
    pairs: Iterable[PreferencePair],
    seed: int,
    template: Template,
    both_orders: bool = False,
    special_tokens: Iterable[str] = CHAT_SPECIAL_TOKENS,
) -> Iterator[JudgeTask]:
    """The tasks for the pairs, in the same order.

    Args:
        pairs: the pairs.
        seed: the run's seed, for the order of the answers.
        template: the judge's prompt.
        both_orders: make two tasks per pair (the seeded order first) instead of one.
        special_tokens: the judge's special tokens, neutralized in the data.

    Yields:
        `JudgeTask`; the id is the pair's with `-c` (chosen first) or `-r`.
    """
    tokens = tuple(special_tokens)
    for pair in pairs:
        first = shown_order(seed, pair.id)
        other: Order = "chosen_first" if first == "rejected_first" else "rejected_first"
        for order in (first, other) if both_orders else (first,):
            swapped = order == "rejected_first"
            a, b = (pair.rejected, pair.chosen) if swapped else (pair.chosen, pair.rejected)
            yield JudgeTask(
                id=f"{pair.id}-{'r' if swapped else 'c'}",
                pair_id=pair.id,
                source=pair.source,
                messages=build_messages(template, pair.prompt, a, b, tokens),
                label="B" if swapped else "A",
                order=order,
            )


def prompt_key(prompt: Iterable[Message]) -> str:
    """A hash of the conversation, up to `same_key`, case and spacing."""
    return content_id(
        [
            {"role": turn["role"], "content": " ".join(same_key(turn["content"]).lower().split())}
            for turn in prompt
        ]
    )


def split_pairs(pairs: Iterable[P], validation_fraction: float, seed: int) -> tuple[list[P], list[P]]:
    """Splits pairs or questions into training and validation; those with the same prompt stay together.

    The side depends only on a hash of the prompt and the seed, so adding or removing other data moves no
    prompt. The fraction is met on average, not exactly.

    Raises:
        ValueError: the fraction is not within [0, 1).
    """
    if not 0.0 <= validation_fraction < 1.0:
        raise ValueError(f"The validation fraction must be in [0, 1), got {validation_fraction}")
    bar = int(validation_fraction * 2**63)
    train: list[P] = []
    validation: list[P] = []
    for pair in pairs:
        held_out = derive_seed(seed, "split", prompt_key(pair.prompt)) < bar
        (validation if held_out else train).append(pair)
    return train, validation
