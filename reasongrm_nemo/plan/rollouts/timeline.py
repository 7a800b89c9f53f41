# SPDX-License-Identifier: Apache-2.0
"""Discrete-event simulation of a step's rollouts: prompts, servers, decoding slots, KV cache.

Prompts are dispatched as in ``rollout.dispatch``: with all samples, to the server with the fewest prompts in
flight, up to a limit. A server decodes one token per step for each running sample; it admits waiting samples
between steps while slots and KV cache last, and preempts the newest when the cache is full (vLLM's preemption
by recomputation).
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Rates:
    """Speed of a server; seconds.

    A decoding step of n samples with c tokens of context in total takes
    fixed + max(weights, n · sample) + c · token.

    Attributes:
        fixed: overhead per step.
        weights: reading the weights once.
        sample: computing one token of a sample; also prefilling a token.
        token: reading the keys and values of one token.
    """

    fixed: float
    weights: float
    sample: float
    token: float

    def steps(self, count: int, samples: int, context: int) -> float:
        """Seconds of ``count`` consecutive steps; each sample's context grows by a token per step."""
        base = self.fixed + max(self.weights, samples * self.sample)
        return count * (base + self.token * context) + self.token * samples * count * (count - 1) / 2

    def steps_within(self, seconds: float, samples: int, context: int) -> int:
        """Smallest number of steps that take at least ``seconds``."""
        linear = self.fixed + max(self.weights, samples * self.sample) + self.token * context
        square = self.token * samples / 2
        linear -= square
        if square > 0:
            count = (math.sqrt(linear**2 + 4 * square * max(0.0, seconds)) - linear) / (2 * square)
        else:
            count = max(0.0, seconds) / linear
        return math.ceil(count - 1e-9)


@dataclass(frozen=True)
class Servers:
    """Capacity of the rollout servers.

    Attributes:
        count: number of servers.
        slots: concurrent samples per server.
        cache: KV cache per server, in tokens.
        prompts: prompts in flight per server.
    """

    count: int
    slots: int
    cache: int
    prompts: int


@dataclass
class Timeline:
    """Events of the rollouts; seconds from the start.

    Attributes:
        lengths: tokens of each response, int64 [groups, samples].
        began: first admission of each sample, fp64 [groups, samples].
        ended: completion of each sample, fp64 [groups, samples].
        server: server of each group, int64 [groups].
        running: by server, (time, number of running samples from then on).
        preemptions: number of preempted samples.
    """

    lengths: NDArray[np.int64]
    began: NDArray[np.float64]
    ended: NDArray[np.float64]
    server: NDArray[np.int64]
    running: list[list[tuple[float, int]]]
    preemptions: int = 0

    @property
    def seconds(self) -> float:
        """Time of the last answer."""
        return float(self.ended.max())

    def share_done(self, share: float) -> float:
        """Time at which the given share of the answers was complete."""
        ordered = np.sort(self.ended, axis=None)
        return float(ordered[max(0, math.ceil(share * len(ordered)) - 1)])

    def idle(self) -> float:
        """Share of server time, up to the last answer, without a running sample."""
        used = sum(seconds for seconds, count in self._spans() if count)
        return max(0.0, 1.0 - used / (len(self.running) * self.seconds))  # rounding must not make it negative

    def mean_running(self) -> float:
        """Mean number of running samples on all servers, up to the last answer."""
        return sum(seconds * count for seconds, count in self._spans()) / self.seconds

    def _spans(self) -> Iterator[tuple[float, int]]:
        """(seconds, number of running samples) of each interval of each server."""
        for events in self.running:
            for (start, count), (end, _) in zip(events, [*events[1:], (self.seconds, 0)], strict=True):
                yield end - start, count

    def within(self, seconds: float) -> NDArray[np.bool_]:
        """Groups complete by then, bool [groups]; the first to complete always counts."""
        ends = self.ended.max(axis=1)
        return (ends <= seconds) | (ends == ends.min())


@dataclass(eq=False)
class _Sample:
    group: int
    index: int
    length: int
    made: int = 0  # tokens decoded before the last admission
    ends: int = 0  # server step of its last token


@dataclass(eq=False)
class _Server:
    rates: Rates
    capacity: Servers
    now: float = 0.0
    waiting: deque[_Sample] = field(default_factory=deque)
    running: dict[_Sample, None] = field(default_factory=dict)  # in order of admission
    endings: list[tuple[int, int, _Sample]] = field(default_factory=list)  # heap; includes preempted samples
    admitted: int = 0
    prompts: Counter[int] = field(default_factory=Counter)  # group -> running samples
    steps: int = 0
    held: int = 0
    context: int = 0
    events: list[tuple[float, int]] = field(default_factory=list)


def roll_out(lengths: NDArray[np.int64], prompts: Sequence[int], servers: Servers, rates: Rates) -> Timeline:
    """Simulate the rollouts of a step.

    Args:
        lengths: tokens of each response, int64 [groups, samples], 1 or more.
        prompts: prompt tokens of each group.
        servers: capacity; the cache must hold the longest prompt plus response.
        rates: speed of a server.
    """
    groups, samples = lengths.shape
    nothing = np.full(lengths.shape, np.inf)
    out = Timeline(lengths, nothing.copy(), nothing.copy(), np.zeros(groups, dtype=np.int64), [])
    pool = [_Server(rates, servers) for _ in range(servers.count)]
    queue = deque(range(groups))
    unanswered = [samples] * groups
    asked: list[set[int]] = [set() for _ in pool]

    def share_out(now: float) -> None:
        while queue:
            index = min(range(len(pool)), key=lambda i: len(asked[i]))
            if len(asked[index]) >= servers.prompts:
                return
            group = queue.popleft()
            asked[index].add(group)
            out.server[group] = index
            server = pool[index]
            if server.running:  # the request takes effect at the next step
                steps = rates.steps_within(now - server.now, len(server.running), server.context)
                _advance(server, min(steps, _steps_to_event(server)))
            else:
                server.now = max(server.now, now)
            server.waiting.extend(_Sample(group, i, int(lengths[group, i])) for i in range(samples))

    share_out(0.0)
    while any(server.running or server.waiting for server in pool):
        for server in pool:
            _admit(server, prompts, out)
        busy = [server for server in pool if server.running]
        server = min(busy, key=_next_event)
        _advance(server, _steps_to_event(server))
        while (sample := _first_to_end(server)) and sample.ends == server.steps:
            _leave(server, sample, prompts)
            out.ended[sample.group, sample.index] = server.now
            unanswered[sample.group] -= 1
            if not unanswered[sample.group]:
                asked[out.server[sample.group]].discard(sample.group)
        if server.held + len(server.running) > servers.cache:
            sample = next(reversed(server.running))
            _leave(server, sample, prompts)
            server.waiting.appendleft(sample)
            out.preemptions += 1
        server.events.append((server.now, len(server.running)))
        share_out(server.now)
    out.running = [_thinned(server.events) for server in pool]
    return out


def _first_to_end(server: _Server) -> _Sample | None:
    """The running sample with the fewest tokens left."""
    while server.endings:
        ends, _, sample = server.endings[0]
        if sample in server.running and sample.ends == ends:
            return sample
        heapq.heappop(server.endings)
    return None


def _steps_to_event(server: _Server) -> int:
    """Steps until a sample ends or the KV cache is full; at least 1."""
    first = _first_to_end(server)
    assert first is not None
    nearest = first.ends - server.steps
    room = (server.capacity.cache - server.held) // len(server.running)
    return max(1, min(nearest, room))


def _next_event(server: _Server) -> float:
    steps = _steps_to_event(server)
    return server.now + server.rates.steps(steps, len(server.running), server.context)


def _advance(server: _Server, steps: int) -> None:
    count = len(server.running)
    server.now += server.rates.steps(steps, count, server.context)
    server.held += steps * count
    server.context += steps * count
    server.steps += steps


def _admit(server: _Server, prompts: Sequence[int], out: Timeline) -> None:
    """Admit waiting samples in order while slots and cache last."""
    before, began = len(server.running), server.now
    while server.waiting and len(server.running) < server.capacity.slots:
        sample = server.waiting[0]
        shared = sample.group in server.prompts
        need = sample.made + (0 if shared else prompts[sample.group])
        # leaves room for one step of all running samples
        if server.running and server.held + need + len(server.running) + 1 > server.capacity.cache:
            break
        server.waiting.popleft()
        server.now += need * server.rates.sample  # prefill, shared by the samples of a prompt
        out.began[sample.group, sample.index] = min(out.began[sample.group, sample.index], server.now)
        sample.ends = server.steps + sample.length - sample.made
        server.prompts[sample.group] += 1
        server.running[sample] = None
        server.admitted += 1
        heapq.heappush(server.endings, (sample.ends, server.admitted, sample))
        server.held += need
        server.context += prompts[sample.group] + sample.made
    if len(server.running) != before:
        server.events.append((began, len(server.running)))


def _leave(server: _Server, sample: _Sample, prompts: Sequence[int]) -> None:
    del server.running[sample]
    sample.made = sample.length - (sample.ends - server.steps)
    server.prompts[sample.group] -= 1
    server.held -= sample.made
    server.context -= prompts[sample.group] + sample.made
    if not server.prompts[sample.group]:
        del server.prompts[sample.group]
        server.held -= prompts[sample.group]


def _thinned(events: list[tuple[float, int]]) -> list[tuple[float, int]]:
    """The last event at each time, starting at time 0."""
    kept: dict[float, int] = {0.0: 0}
    for time, count in events:
        kept[time] = count
    return list(kept.items())


def steps_in_time(rollouts: Sequence[float], trainings: Sequence[float], lag: int) -> list[float]:
    """Completion time of each step if rollouts may run ``lag`` steps ahead of training.

    As in ``GRPOTrainer``: a step trains once its rollouts are complete and the previous step has trained;
    when its training starts, the rollouts of the next ``lag`` steps may start, one step after another.

    Args:
        rollouts: seconds of each step's rollouts.
        trainings: seconds of each step's training and refit.
        lag: ``grpo.max_lag``.
    """
    came: list[float] = []  # rollouts complete
    began: list[float] = []  # training started
    done: list[float] = []
    for step, (rollout, training) in enumerate(zip(rollouts, trainings, strict=True)):
        allowed = 0.0
        if step:
            allowed = max(began[max(0, step - lag)], came[-1]) if lag else done[-1]
        came.append(allowed + rollout)
        began.append(max(came[-1:] + done[-1:]))
        done.append(began[-1] + training)
    return done
