# SPDX-License-Identifier: Apache-2.0
"""Dispatches prompts to servers from one queue as they answer, so a slow server gets fewer."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from reasongrm_nemo.rollout.client import RolloutClient
from reasongrm_nemo.rollout.types import Prompt, RolloutServerLost, Sampling, Scoring


@dataclass(frozen=True)
class Loss:
    """A server was lost; its unanswered prompts go to the others."""

    client: RolloutClient
    cause: RolloutServerLost
    asked: int = 0
    """Number of prompts that the server had not answered."""


class Dispatch:
    """Context manager that sends requests from a separate thread while the caller processes completions.

    A prompt goes to the server with the fewest requests in flight, up to the client's limit; the other
    prompts wait in a queue.  Leaving the context drops the requests in flight.

    Args:
        prompts: prompts, sent in this order.
        sampling: sampling options of all prompts.
    """

    def __init__(self, prompts: Sequence[Prompt], sampling: Sampling | Scoring) -> None:
        self.events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        """Lists of completions, `Loss` objects and exceptions as they arrive; callers may add events."""
        self._waiting = deque(prompts)
        self._sampling = sampling
        self._lanes: list[_Lane] = []
        self._closing: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="rollout-client", daemon=True)

    def __enter__(self) -> Dispatch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def add(self, clients: Sequence[RolloutClient]) -> None:
        """Start sending prompts to these clients as well; clients of one call start together."""
        self._loop.call_soon_threadsafe(self._add, clients)

    # ---- in the event loop

    def _add(self, clients: Sequence[RolloutClient]) -> None:
        for client in clients:
            client.open()
            lane = _Lane(client, self._loop.time())
            lane.watcher = self._loop.create_task(self._watch(lane))
            self._lanes.append(lane)
        self._share_out()

    def _share_out(self) -> None:
        while self._waiting:
            free = [lane for lane in self._lanes if len(lane.asked) < lane.client.limit]
            if not free:
                return
            lane = min(free, key=lambda lane: len(lane.asked))
            prompt = self._waiting.popleft()
            lane.asked[prompt.id] = prompt, self._loop.create_task(self._ask(lane, prompt))

    async def _ask(self, lane: _Lane, prompt: Prompt) -> None:
        try:
            answer = await lane.client.ask(prompt, self._sampling)
        except RolloutServerLost as cause:
            self._lose(lane, cause)
        except Exception as error:
            self.events.put(error)
        else:
            lane.last_sign = self._loop.time()
            del lane.asked[prompt.id]
            self.events.put(answer)
            self._share_out()

    async def _watch(self, lane: _Lane) -> None:
        try:
            await lane.client.watch(lambda: lane.last_sign if lane.asked else None)
        except RolloutServerLost as cause:
            self._lose(lane, cause)
        except Exception as error:
            self.events.put(error)

    def _lose(self, lane: _Lane, cause: RolloutServerLost) -> None:
        if lane not in self._lanes:
            return
        self._lanes.remove(lane)
        self._waiting.extendleft(prompt for prompt, _ in reversed(lane.asked.values()))
        # Cancel now, not in close(): no prompt may be answered by two servers.
        dropped = lane.drop(asyncio.current_task())
        self._closing.add(self._loop.create_task(lane.close(dropped)))
        self.events.put(Loss(lane.client, cause, len(lane.asked)))
        self._share_out()

    async def _end(self) -> None:
        self._waiting.clear()
        await asyncio.gather(*(lane.close(lane.drop()) for lane in self._lanes), *self._closing)


class _Lane:
    """A server's requests in flight."""

    watcher: asyncio.Task[None]

    def __init__(self, client: RolloutClient, last_sign: float) -> None:
        self.client, self.last_sign = client, last_sign
        self.asked: dict[str, tuple[Prompt, asyncio.Task[None]]] = {}

    def drop(self, keep: asyncio.Task[Any] | None = None) -> list[asyncio.Task[None]]:
        """Cancel all tasks except ``keep``, the calling one."""
        asked = [task for _, task in self.asked.values()]
        tasks = [task for task in (*asked, self.watcher) if task is not keep]
        for task in tasks:
            task.cancel()
        return tasks

    async def close(self, dropped: Sequence[asyncio.Task[None]]) -> None:
        """Wait for cancelled tasks to end, and close the client."""
        await asyncio.gather(*dropped, return_exceptions=True)
        await self.client.close()
