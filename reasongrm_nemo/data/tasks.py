# SPDX-License-Identifier: Apache-2.0
"""From preference pairs to judge tasks: order of the answers, prompt, and the held-out part."""

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
    """Which answer of a pair is shown first: a fair coin that only the run's seed and the pair decide."""
    return "rejected_first" if derive_seed(seed, "order", pair_id) & 1 else "chosen_first"


def make_tasks(
    pairs: Iterable[PreferencePair],
    seed: int,
    template: Template,
    both_orders: bool = False,
    special_tokens: Iterable[str] = CHAT_SPECIAL_TOKENS,
) -> Iterator[JudgeTask]:
    """The tasks of the pairs, in the pairs' order.

    Args:
        pairs: any number of them.
        seed: the run's seed, for the order of the answers.
        template: the judge's prompt.
        both_orders: two tasks a pair (the seeded order first) instead of one.
        special_tokens: the judging model's, kept from taking effect inside the data.

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
    """A hash of the conversation, alike for what is the same (`same_key`) and whatever case and spacing."""
    return content_id(
        [
            {"role": turn["role"], "content": " ".join(same_key(turn["content"]).lower().split())}
            for turn in prompt
        ]
    )


def split_pairs(pairs: Iterable[P], validation_fraction: float, seed: int) -> tuple[list[P], list[P]]:
    """Training and validation pairs (or questions); those that share a prompt stay together.

    Each prompt falls on its side by a hash of itself and the seed, so that adding or leaving out other
    data moves none.  The share is met on average, not exactly.

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
