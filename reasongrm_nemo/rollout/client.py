# SPDX-License-Identifier: Apache-2.0
"""HTTP client of one server: requests completions, and watches the server's progress."""

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
# Counters of vLLM that increase with every engine step.
_COUNTERS = (
    b"vllm:generation_tokens_total",
    b"vllm:prompt_tokens_total",
    b"vllm:iteration_tokens_total_count",
)


class RolloutClient:
    """Requests completions from one server; `Dispatch` chooses the prompts.

    One HTTP request carries one prompt and returns its n samples, because vLLM takes one seed per request and
    every prompt has its own seed; the samples share the prompt's prefill.  HTTP costs no throughput: the tiny
    model on two cores samples 4,400 to 8,600 tokens/s over HTTP, and 5,100 to 8,500 with the engine
    in-process.

    Args:
        url: `http://host:port`.
        token: the server's API token.
        limit: maximum number of requests in flight.
        stall_timeout_s: longest time without a response and without progress in the server's counters.
        alive: returns whether the server's process runs; called about once a second.
        versions: record the version of the server's weights with each completion.
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
        """Open the HTTP session in the running event loop."""
        # Do not reuse connections: the server closes idle ones, and a request sent at that moment would look
        # like a lost server.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10.0),
            headers=self._headers,
        )

    async def close(self) -> None:
        """Close the HTTP session."""
        await self._session.close()

    async def ask(self, prompt: Prompt, sampling: Sampling | Scoring) -> list[Completion]:
        """Request n completions of one prompt.

        Cancelling the coroutine closes the connection, and vLLM drops the request.

        Raises:
            RolloutServerLost: the server closed the connection, or answered 5xx or incompletely.
            UserError: the server refused the request, for example because the prompt is too long.
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
            why = message(text.decode("utf-8", "replace"))
            raise RolloutServerLost(f"The rollout server failed with status {answer.status}: {why}.")
        if answer.status != 200:
            why = message(text.decode("utf-8", "replace"))
            raise UserError(f"The rollout server refused prompt {prompt.id} ({answer.status}): {why}.")
        if isinstance(sampling, Scoring):
            return [_scored(prompt, text)]
        return _completions(prompt, sampling, text, version)

    async def watch(self, last_sign: Callable[[], float | None]) -> None:
        """Raise when the server's process is gone or makes no progress for too long; never return otherwise.

        /health stays OK when only the engine core has stopped.  Progress therefore means a response, a
        counter that increases, or the engine reporting that it is paused.

        Args:
            last_sign: returns the event loop's time of the last response, or of the start if there was none;
                None if nothing is in flight, which restarts the stall timeout.

        Raises:
            RolloutServerLost: the server's process is gone, or stalled.
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
                continue  # a response arrived since the last check
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
        """Sum of vLLM's counters; None if the server does not answer."""
        text = await self._get("/metrics")
        if text is None:
            return None
        lines = [line for line in text.splitlines() if line.startswith(_COUNTERS)]
        return sum(float(line.rpartition(b" ")[2]) for line in lines)

    async def _paused(self) -> bool:
        """Whether the engine core reports that it is paused (for a weight update)."""
        text = await self._get("/is_paused")
        return text is not None and b"true" in text

    async def _weight_version(self) -> int | None:
        """Version of the server's current weights; None if the server does not report one.

        vLLM returns the version given with the last push, and a word instead of a number before the first.
        """
        text = await self._get("/weight_info", self._stall_s)
        try:
            version = str(json.loads(text or b"")["weight_version"])
        except (ValueError, KeyError, TypeError):
            return None
        return int(version) if version.isdecimal() else 0

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
    # vLLM must generate at least one token; forcing the last one lets a sequence fill the whole context.
    *given, last = prompt.token_ids
    return {
        "model": SERVED_NAME,
        "prompt": given,
        "max_tokens": 1,
        "temperature": 0.0,
        "allowed_token_ids": [last],
        "logprobs": 0,  # only the sampled token, no alternatives
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
        c.finish_reason in ("stop", "length")  # "abort": the server was told to drop the request
        and 0 < len(c.token_ids) == len(c.log_probs)
        and None not in c.log_probs
        for c in out
    )
    if not whole:
        reasons = sorted({str(c.finish_reason) for c in out})
        raise RolloutServerLost(
            f"The rollout server's answer is incomplete: {len(out)} of {sampling.n} samples, finish reasons "
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
            "The rollout server's answer is incomplete: a scored token is missing or differs."
        )
    return Completion(prompt.id, 0, given, log_probs, "stop")
