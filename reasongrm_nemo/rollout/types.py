# SPDX-License-Identifier: Apache-2.0
"""Requests to the rollout server, and its answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from reasongrm_nemo.errors import UserError


class RolloutServerLost(UserError):
    """The rollout server died or stopped making progress; the message is the cause.

    `Rollouts.generate` recovers from one loss.  After a failed push, the caller must restart the lost
    `servers`, which may hold a mix of old and new weights.
    """

    def __init__(self, message: str, servers: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.servers = tuple(servers)


@dataclass(frozen=True)
class Prompt:
    """One prompt to continue.

    Args:
        id: the task's id, or another id unique within one call.
        token_ids: the prompt's tokens.
        seed: sample i is drawn with seed + i, independent of other requests.  At most 2**31 - 1.
    """

    id: str
    token_ids: list[int]
    seed: int


@dataclass(frozen=True)
class Sampling:
    """How to continue prompts.

    Args:
        n: number of samples per prompt.
        max_tokens: longest continuation, in tokens.
        temperature: 0 is greedy.
        top_p: 1 is off.
        top_k: -1 is off.
        min_p: 0 is off.
        repetition_penalty: 1 is off.
        stop_token_ids: tokens that end a continuation, in addition to the end-of-sequence token.
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
    """Requests the log-probabilities of given tokens: a teacher-forced pass without sampling.

    The answer to a prompt of at least two tokens is one `Completion` of all its tokens but the first, which
    has no log-probability.
    """

    n: int = 1


@dataclass(frozen=True)
class Completion:
    """One sampled continuation.

    Args:
        prompt_id: the prompt's id.
        sample: 0 to n - 1.
        token_ids: the tokens, including the one that ended the continuation.
        log_probs: log-probability of each token under the model's distribution at temperature 1 over the
            whole vocabulary, whatever the sampling options. In GRPO at `rollout.temperature` instead (see
            `RolloutSettings.log_probs`).
        finish_reason: `stop` (an end token) or `length` (max_tokens, or the model's context is full).
        weight_version: version of the server's weights at the time of the request, in trainer steps; 0 for
            the model folder's weights; None if not recorded.
    """

    prompt_id: str
    sample: int
    token_ids: list[int]
    log_probs: list[float]
    finish_reason: Literal["stop", "length"]
    weight_version: int | None = None


def prompts_at_once(concurrency: int, max_num_seqs: int, samples: int, servers: int) -> int:
    """Largest number of prompts in flight at one server.

    If there are several servers, each gets at most twice the prompts that it runs at once, because about half
    of a prompt's samples have ended while its longest one continues. The other prompts stay in the common
    queue for faster servers.

    Args:
        concurrency: ``rollout.concurrency``.
        max_num_seqs: number of samples that the server runs at once.
        samples: number of samples per prompt.
        servers: number of servers of the run.
    """
    return concurrency if servers == 1 else min(concurrency, 2 * -(-max_num_seqs // samples))
