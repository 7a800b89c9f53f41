# SPDX-License-Identifier: Apache-2.0
"""What is asked of the rollout server and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from reasongrm_nemo.errors import UserError


class RolloutServerLost(UserError):
    """The rollout server died, or stopped making progress; the message is the cause.

    `Rollouts.generate` outlives one; whoever catches it from a push must restart the `servers` it names,
    whose weights may be half old and half new.
    """

    def __init__(self, message: str, servers: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.servers = tuple(servers)


@dataclass(frozen=True)
class Prompt:
    """One prompt to continue.

    Args:
        id: whose it is (a task's id); unique within one call.
        token_ids: the prompt's tokens.
        seed: sample i is drawn with seed + i, whatever else is in flight.  At most 2**31 - 1.
    """

    id: str
    token_ids: list[int]
    seed: int


@dataclass(frozen=True)
class Sampling:
    """How to continue prompts.

    Args:
        n: samples of each prompt.
        max_tokens: longest continuation.
        temperature: 0 is greedy.
        top_p: 1 is off.
        top_k: -1 is off.
        min_p: 0 is off.
        repetition_penalty: 1 is off.
        stop_token_ids: tokens that end a continuation, besides the tokenizer's end-of-sequence token.
    """

    n: int
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop_token_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Scoring:
    """Ask for the log-probabilities of the tokens that are given: a teacher-forced pass, nothing is sampled.

    The answer to a prompt of L tokens, 2 or more, is one `Completion` of its tokens from the second on; the
    first has nothing before it.
    """

    n: int = 1


@dataclass(frozen=True)
class Completion:
    """One sampled continuation.

    Args:
        prompt_id: the prompt's id.
        sample: 0 to n - 1.
        token_ids: the tokens, the one that ended it included.
        log_probs: log-probability of each token under the model's own distribution: temperature 1, whole
            vocabulary, whatever the sampling was. In GRPO under the distribution sampled from: the whole
            vocabulary at `rollout.temperature` (see `RolloutSettings.log_probs`).
        finish_reason: `stop` (an end token) or `length` (max_tokens, or the model's context is full).
        weight_version: of the weights that the server had when it was asked: the trainer's steps, 0 for those
            of the model folder; None where nobody wanted to know.
    """

    prompt_id: str
    sample: int
    token_ids: list[int]
    log_probs: list[float]
    finish_reason: Literal["stop", "length"]
    weight_version: int | None = None


def prompts_at_once(concurrency: int, max_num_seqs: int, samples: int, servers: int) -> int:
    """Prompts in flight at one server.

    One of several gets twice what it runs at once: of a prompt's samples about half have ended while the
    longest goes on. The rest stays in the common queue, where a faster server takes it.

    Args:
        concurrency: ``rollout.concurrency``.
        max_num_seqs: samples that the server runs at once.
        samples: of each prompt.
        servers: of the run.
    """
    return concurrency if servers == 1 else min(concurrency, 2 * -(-max_num_seqs // samples))
