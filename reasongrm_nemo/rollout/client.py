# SPDX-License-Identifier: Apache-2.0
"""Completions over HTTP, many at a time, with an eye on whether the server still works."""

from __future__ import annotations

import asyncio
import contextlib
import json
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import aiohttp

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.rollout.http import message, reason
from reasongrm_nemo.rollout.settings import SERVED_NAME
from reasongrm_nemo.rollout.types import Completion, Prompt, RolloutServerLost, Sampling

_WATCH_S = 1.0
_PROBE_S = 1.5
# Counters of vLLM that move with every step of the engine.
_COUNTERS = (
    b"vllm:generation_tokens_total",
    b"vllm:prompt_tokens_total",
    b"vllm:iteration_tokens_total_count",
)


class RolloutClient:
    """Asks one server for completions.

    One HTTP request is one prompt with its n samples: vLLM takes one seed a request, and each prompt has its
    own.  Nothing is lost by that: the tiny model on two cores gives 4,400 to 8,600 tokens/s through HTTP, and
    5,100 to 8,500 to a program that holds the engine in its own process.

    Args:
        url: `http://host:port`.
        token: the server's API token.
        concurrency: requests in flight.
        stall_timeout_s: longest time without a response and without movement in the server's counters.
        alive: whether the server's process runs; asked about once a second.
    """

    def __init__(
        self,
        url: str,
        token: str,
        concurrency: int = 256,
        stall_timeout_s: float = 25.0,
        alive: Callable[[], bool] | None = None,
    ):
        self._url = url
        self._headers = {"Authorization": f"Bearer {token}"}
        self._concurrency = concurrency
        self._stall_s = stall_timeout_s
        self._alive = alive

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        on_completion: Callable[[list[Completion]], None] | None = None,
    ) -> Iterator[list[Completion]]:
        """One list of n completions a prompt, in the order of arrival.

        Args:
            prompts: asked in this order, `concurrency` at a time.
            sampling: for all of them.
            on_completion: called with each list before it is yielded, on the caller's thread.

        Raises:
            RolloutServerLost: it died, answered 5xx or half an answer, or made no progress.
            UserError: it refused a request, such as a prompt that is too long.
        """
        if not prompts:
            return
        arrived: queue.SimpleQueue[list[Completion] | BaseException | None] = queue.SimpleQueue()
        loop = asyncio.new_event_loop()
        work: asyncio.Task[None] | None = None
        ready = threading.Event()

        def run() -> None:
            nonlocal work
            work = loop.create_task(self._all(prompts, sampling, arrived.put))
            ready.set()
            try:
                loop.run_until_complete(work)
                arrived.put(None)
            except BaseException as error:
                arrived.put(error)
            finally:
                loop.close()

        # The requests go on while the caller works on what has arrived.
        thread = threading.Thread(target=run, name="rollout-client", daemon=True)
        thread.start()
        try:
            while (item := arrived.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                if on_completion is not None:
                    on_completion(item)
                yield item
        finally:
            ready.wait()
            if thread.is_alive() and work is not None:
                with contextlib.suppress(RuntimeError):  # closed meanwhile
                    loop.call_soon_threadsafe(work.cancel)
            thread.join()

    async def _all(
        self, prompts: Sequence[Prompt], sampling: Sampling, put: Callable[[list[Completion]], None]
    ) -> None:
        # No connection is used twice: the server closes idle ones, and a request sent at that moment would
        # look like a loss.
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10.0)
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, headers=self._headers
        ) as session:
            pending = iter(prompts)
            watch = _Watch(self, session)

            async def worker() -> None:
                for prompt in pending:
                    completions = await self._one(session, prompt, sampling)
                    watch.moved()
                    put(completions)

            workers = [worker() for _ in range(min(self._concurrency, len(prompts)))]
            tasks = [asyncio.ensure_future(job) for job in workers]
            watcher = asyncio.ensure_future(watch.run())
            try:
                waiting = {*tasks, watcher}
                while not all(task.done() for task in tasks):
                    done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        task.result()
            finally:
                for task in (*tasks, watcher):
                    task.cancel()
                await asyncio.gather(*tasks, watcher, return_exceptions=True)

    async def _one(
        self, session: aiohttp.ClientSession, prompt: Prompt, sampling: Sampling
    ) -> list[Completion]:
        body = {
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
        }
        try:
            async with session.post(f"{self._url}/v1/completions", json=body) as answer:
                text = await answer.read()
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
            raise RolloutServerLost(f"The rollout server broke off: {reason(error)}.") from error
        if answer.status >= 500:
            said = message(text.decode("utf-8", "replace"))
            raise RolloutServerLost(f"The rollout server failed with status {answer.status}: {said}.")
        if answer.status != 200:
            said = message(text.decode("utf-8", "replace"))
            raise UserError(f"The rollout server refused prompt {prompt.id} ({answer.status}): {said}.")
        return _completions(prompt, sampling, text)

    async def counters(self, session: aiohttp.ClientSession) -> float | None:
        """Sum of vLLM's counters; None if it does not tell."""
        text = await self._get(session, "/metrics")
        if text is None:
            return None
        lines = [line for line in text.splitlines() if line.startswith(_COUNTERS)]
        return sum(float(line.rpartition(b" ")[2]) for line in lines)

    async def paused(self, session: aiohttp.ClientSession) -> bool:
        """Whether the engine core says that it was paused (for a change of weights)."""
        text = await self._get(session, "/is_paused")
        return text is not None and b"true" in text

    async def _get(self, session: aiohttp.ClientSession, path: str) -> bytes | None:
        timeout = aiohttp.ClientTimeout(total=_PROBE_S)
        try:
            async with session.get(self._url + path, timeout=timeout) as answer:
                text = await answer.read()
                return text if answer.status == 200 else None
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError):
            return None


class _Watch:
    """Raises when the server's process is gone or nothing has moved for too long.

    A stopped engine core keeps the API server's /health well, so progress is a response, a counter that
    moves, or the engine's own word that it is paused.
    """

    def __init__(self, client: RolloutClient, session: aiohttp.ClientSession):
        self._client, self._session = client, session
        self._clock = asyncio.get_running_loop().time
        self._last = self._clock()
        self._seen: float | None = None

    def moved(self) -> None:
        self._last = self._clock()

    async def run(self) -> None:
        client = self._client
        while True:
            await asyncio.sleep(_WATCH_S)
            if client._alive is not None and not client._alive():
                raise RolloutServerLost("The rollout server's process is gone.")
            if self._clock() - self._last < _WATCH_S:
                continue  # a response came since: no need to ask
            seen = await client.counters(self._session)
            if seen is not None and seen != self._seen:
                first, self._seen = self._seen is None, seen
                if not first:
                    self.moved()
                    continue
            silent = self._clock() - self._last
            if silent > client._stall_s:
                if await client.paused(self._session):
                    self.moved()
                    continue
                raise RolloutServerLost(f"The rollout server made no progress for {silent:.0f} s.")


def _completions(prompt: Prompt, sampling: Sampling, text: bytes) -> list[Completion]:
    try:
        choices: list[dict[str, Any]] = json.loads(text)["choices"]
        out = [
            Completion(
                prompt_id=prompt.id,
                sample=sample,
                token_ids=choice["token_ids"],
                log_probs=choice["logprobs"]["token_logprobs"],
                finish_reason=choice["finish_reason"],
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
