# SPDX-License-Identifier: Apache-2.0
"""One server over HTTP: a prompt's completions, and whether the server still works."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import aiohttp

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.rollout.http import message, reason
from reasongrm_nemo.rollout.server.settings import SERVED_NAME
from reasongrm_nemo.rollout.types import Completion, Prompt, RolloutServerLost, Sampling, Scoring

_WATCH_S = 1.0
_PROBE_S = 1.5
# Counters of vLLM that move with every step of the engine.
_COUNTERS = (
    b"vllm:generation_tokens_total",
    b"vllm:prompt_tokens_total",
    b"vllm:iteration_tokens_total_count",
)


class RolloutClient:
    """Asks one server for completions; `Dispatch` decides for which.

    One HTTP request is one prompt with its n samples: vLLM takes one seed a request, and each prompt has its
    own; the samples share the prompt's prefill.  Nothing is lost by that: the tiny model on two cores gives
    4,400 to 8,600 tokens/s through HTTP, and 5,100 to 8,500 to a program that holds the engine in its own
    process.

    Args:
        url: `http://host:port`.
        token: the server's API token.
        limit: requests in flight.
        stall_timeout_s: longest time without a response and without movement in the server's counters.
        alive: whether the server's process runs; asked about once a second.
        versions: note the version of the server's weights with each completion.
    """

    def __init__(
        self,
        url: str,
        token: str,
        limit: int = 256,
        stall_timeout_s: float = 25.0,
        alive: Callable[[], bool] = lambda: True,
        versions: bool = False,
    ):
        self._url = url
        self._headers = {"Authorization": f"Bearer {token}"}
        self.limit = limit
        self._stall_s = stall_timeout_s
        self._alive = alive
        self._versions = versions

    def open(self) -> None:
        """Get ready, in the running event loop."""
        # No connection is used twice: the server closes idle ones, and a request sent at that moment would
        # look like a loss.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10.0),
            headers=self._headers,
        )

    async def close(self) -> None:
        """The inverse of `open`."""
        await self._session.close()

    async def ask(self, prompt: Prompt, sampling: Sampling | Scoring) -> list[Completion]:
        """The n completions of one prompt.  Cancelling it closes the connection, and vLLM drops the request.

        Raises:
            RolloutServerLost: it broke off, answered 5xx or half an answer.
            UserError: it refused the request, such as a prompt that is too long.
        """
        if isinstance(sampling, Scoring):
            body = _scoring_body(prompt)
        else:
            body = _sampling_body(prompt, sampling)
        version = await self._weight_version() if self._versions else None
        try:
            async with self._session.post(f"{self._url}/v1/completions", json=body) as answer:
                text = await answer.read()
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
            raise RolloutServerLost(f"The rollout server broke off: {reason(error)}.") from error
        if answer.status >= 500:
            said = message(text.decode("utf-8", "replace"))
            raise RolloutServerLost(f"The rollout server failed with status {answer.status}: {said}.")
        if answer.status != 200:
            said = message(text.decode("utf-8", "replace"))
            raise UserError(f"The rollout server refused prompt {prompt.id} ({answer.status}): {said}.")
        if isinstance(sampling, Scoring):
            return [_scored(prompt, text)]
        return _completions(prompt, sampling, text, version)

    async def watch(self, last_sign: Callable[[], float | None]) -> None:
        """Raise when the server's process is gone or nothing has moved for too long; else never return.

        A stopped engine core keeps the API server's /health well, so progress is a response, a counter that
        moves, or the engine's own word that it is paused.

        Args:
            last_sign: the event loop's time of the last response, of the beginning where there was none;
                None: nothing is in flight, and the silence that counts begins after that.

        Raises:
            RolloutServerLost: with what was seen.
        """
        clock = asyncio.get_running_loop().time
        seen, moved = None, clock()
        while True:
            await asyncio.sleep(_WATCH_S)
            sign = last_sign()
            if sign is None:
                moved = clock()
                continue
            moved = max(moved, sign)
            if not self._alive():
                raise RolloutServerLost("The rollout server's process is gone.")
            if clock() - moved < _WATCH_S:
                continue  # a response came since: no need to ask
            counters = await self._counters()
            if counters is not None and counters != seen:
                first, seen = seen is None, counters
                if not first:
                    moved = clock()
                    continue
            silent = clock() - moved
            if silent > self._stall_s:
                if await self._paused():
                    moved = clock()
                    continue
                raise RolloutServerLost(f"The rollout server made no progress for {silent:.0f} s.")

    async def _counters(self) -> float | None:
        """Sum of vLLM's counters; None if it does not tell."""
        text = await self._get("/metrics")
        if text is None:
            return None
        lines = [line for line in text.splitlines() if line.startswith(_COUNTERS)]
        return sum(float(line.rpartition(b" ")[2]) for line in lines)

    async def _paused(self) -> bool:
        """Whether the engine core says that it was paused (for a change of weights)."""
        text = await self._get("/is_paused")
        return text is not None and b"true" in text

    async def _weight_version(self) -> int | None:
        """Of the weights that a request sent now is begun with; None if the server does not tell.

        vLLM counts nothing itself: it says what was said with the last push, and a word before the first.
        """
        text = await self._get("/weight_info", self._stall_s)
        try:
            said = str(json.loads(text or b"")["weight_version"])
        except (ValueError, KeyError, TypeError):
            return None
        return int(said) if said.isdecimal() else 0

    async def _get(self, path: str, timeout_s: float | None = None) -> bytes | None:
        timeout = aiohttp.ClientTimeout(total=timeout_s or _PROBE_S)
        try:
            async with self._session.get(self._url + path, timeout=timeout) as answer:
                text = await answer.read()
                return text if answer.status == 200 else None
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError):
            return None


def _sampling_body(prompt: Prompt, sampling: Sampling) -> dict[str, Any]:
    return {
        "model": SERVED_NAME,
        "prompt": prompt.token_ids,
        "n": sampling.n,
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "stop_token_ids": list(sampling.stop_token_ids),
        "seed": prompt.seed,
        "logprobs": 0,
        "return_token_ids": True,
        **({"min_p": sampling.min_p} if sampling.min_p else {}),
        **({"repetition_penalty": sampling.repetition_penalty} if sampling.repetition_penalty != 1 else {}),
    }


def _scoring_body(prompt: Prompt) -> dict[str, Any]:
    # vLLM must write a token: the last one, so that a sequence may be as long as the model's context.
    *given, last = prompt.token_ids
    return {
        "model": SERVED_NAME,
        "prompt": given,
        "max_tokens": 1,
        "temperature": 0.0,
        "allowed_token_ids": [last],
        "logprobs": 0,  # of that token alone, none of the likeliest beside it
        "prompt_logprobs": 0,
        "return_token_ids": True,
    }


def _completions(prompt: Prompt, sampling: Sampling, text: bytes, version: int | None) -> list[Completion]:
    try:
        choices: list[dict[str, Any]] = json.loads(text)["choices"]
        out = [
            Completion(
                prompt_id=prompt.id,
                sample=sample,
                token_ids=choice["token_ids"],
                log_probs=choice["logprobs"]["token_logprobs"],
                finish_reason=choice["finish_reason"],
                weight_version=version,
            )
            for sample, choice in enumerate(choices)
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise RolloutServerLost(f"The rollout server's answer is torn: {reason(error)}.") from error
    whole = len(out) == sampling.n and all(
        c.finish_reason in ("stop", "length")  # "abort" means that it was told to give up
        and 0 < len(c.token_ids) == len(c.log_probs)
        and None not in c.log_probs
        for c in out
    )
    if not whole:
        reasons = sorted({str(c.finish_reason) for c in out})
        raise RolloutServerLost(
            f"The rollout server's answer is not whole: {len(out)} of {sampling.n} samples, ended by "
            f"{', '.join(reasons)}."
        )
    return out


def _scored(prompt: Prompt, text: bytes) -> Completion:
    given = prompt.token_ids[1:]
    try:
        (choice,) = json.loads(text)["choices"]
        entries = choice["prompt_logprobs"][1:]  # the first token has none
        log_probs = [entry[str(token)]["logprob"] for entry, token in zip(entries, given[:-1], strict=True)]
        (last,) = choice["token_ids"]
        log_probs += choice["logprobs"]["token_logprobs"]
    except (ValueError, KeyError, TypeError) as error:
        raise RolloutServerLost(f"The rollout server's answer is torn: {reason(error)}.") from error
    if last != given[-1] or len(log_probs) != len(given) or None in log_probs:
        raise RolloutServerLost(
            "The rollout server's answer is not whole: a scored token is another or missing."
        )
    return Completion(prompt.id, 0, given, log_probs, "stop")
