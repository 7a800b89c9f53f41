# SPDX-License-Identifier: Apache-2.0
"""A step's rollouts as a simulation of discrete events: prompts, servers, decoding slots, KV cache.

Prompts are shared out as ``rollout.dispatch`` does it: each, with all its samples, to the server with the
fewest prompts in flight, never past a limit. A server decodes all running samples by one token a step; it
admits waiting ones at a step's beginning while slots and KV cache last, and puts the newest back when the
cache is full (vLLM's preemption by recomputation).
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
    """How fast a server is, in seconds.

    A decoding step of n samples whose contexts hold c tokens takes
    fixed + max(weights, n · sample) + c · token.

    Attributes:
        fixed: of every step.
        weights: reading the weights once.
        sample: computing one sample's token; as much again as prefilling a token.
        token: reading one token's keys and values.
    """

    fixed: float
    weights: float
    sample: float
    token: float

    def steps(self, count: int, samples: int, context: int) -> float:
        """Seconds of ``count`` steps in a row, in which each sample's context grows by a token a step."""
        base = self.fixed + max(self.weights, samples * self.sample)
        return count * (base + self.token * context) + self.token * samples * count * (count - 1) / 2

    def steps_within(self, seconds: float, samples: int, context: int) -> int:
        """The fewest steps that take at least ``seconds``."""
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
    """What the rollouts run on.

    Attributes:
        count: servers.
        slots: samples that each runs at once.
        cache: tokens whose keys and values each holds at once.
        prompts: prompts in flight at each.
    """

    count: int
    slots: int
    cache: int
    prompts: int


@dataclass
class Timeline:
    """What happened, in seconds from the beginning.

    Attributes:
        lengths: int64 [groups, samples].
        began: when each sample was admitted first, fp64 [groups, samples].
        ended: when its last token was there, fp64 [groups, samples].
        server: which server answered, int64 [groups].
        running: by server, (time, samples that run from then on).
        preemptions: samples that were put back for want of KV cache.
    """

    lengths: NDArray[np.int64]
    began: NDArray[np.float64]
    ended: NDArray[np.float64]
    server: NDArray[np.int64]
    running: list[list[tuple[float, int]]]
    preemptions: int = 0

    @property
    def seconds(self) -> float:
        """Until the last answer."""
        return float(self.ended.max())

    def share_done(self, share: float) -> float:
        """When so large a share of the answers was there."""
        ordered = np.sort(self.ended, axis=None)
        return float(ordered[max(0, math.ceil(share * len(ordered)) - 1)])

    def idle(self) -> float:
        """Share of the servers' time, until the last answer, in which they had nothing to run."""
        used = sum(seconds for seconds, count in self._spans() if count)
        return max(0.0, 1.0 - used / (len(self.running) * self.seconds))  # no negative share by rounding

    def mean_running(self) -> float:
        """Samples that ran at once, on average over the time until the last answer, on all servers."""
        return sum(seconds * count for seconds, count in self._spans()) / self.seconds

    def _spans(self) -> Iterator[tuple[float, int]]:
        """Seconds, and how many samples a server ran meanwhile."""
        for events in self.running:
            for (start, count), (end, _) in zip(events, [*events[1:], (self.seconds, 0)], strict=True):
                yield end - start, count

    def within(self, seconds: float) -> NDArray[np.bool_]:
        """Which groups were complete by then, bool [groups]; the first one always counts."""
        ends = self.ended.max(axis=1)
        return (ends <= seconds) | (ends == ends.min())


@dataclass(eq=False)
class _Sample:
    group: int
    index: int
    length: int
    made: int = 0  # before it was admitted
    ends: int = 0  # at which of the server's steps


@dataclass(eq=False)
class _Server:
    rates: Rates
    capacity: Servers
    now: float = 0.0
    waiting: deque[_Sample] = field(default_factory=deque)
    running: dict[_Sample, None] = field(default_factory=dict)  # in the order of their admission
    endings: list[tuple[int, int, _Sample]] = field(default_factory=list)  # heap; of what was put back, too
    admitted: int = 0
    prompts: Counter[int] = field(default_factory=Counter)  # group -> samples that run
    steps: int = 0
    held: int = 0
    context: int = 0
    events: list[tuple[float, int]] = field(default_factory=list)


def roll_out(lengths: NDArray[np.int64], prompts: Sequence[int], servers: Servers, rates: Rates) -> Timeline:
    """Run a step's rollouts to their end.

    Args:
        lengths: tokens of each response, int64 [groups, samples], 1 or more.
        prompts: tokens of each group's prompt.
        servers: what they run on; its cache must hold the longest prompt and response together.
        rates: how fast.
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
            if server.running:  # it sees the request at its next step
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
    """Of the samples that run the one with the fewest tokens to go."""
    while server.endings:
        ends, _, sample = server.endings[0]
        if sample in server.running and sample.ends == ends:
            return sample
        heapq.heappop(server.endings)
    return None


def _steps_to_event(server: _Server) -> int:
    """Steps until a sample ends or the KV cache is full; at least one."""
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
    """Take in what waits, first come first served, while slots and cache last."""
    before, began = len(server.running), server.now
    while server.waiting and len(server.running) < server.capacity.slots:
        sample = server.waiting[0]
        shared = sample.group in server.prompts
        need = sample.made + (0 if shared else prompts[sample.group])
        # room for a step of all that run then
        if server.running and server.held + need + len(server.running) + 1 > server.capacity.cache:
            break
        server.waiting.popleft()
        server.now += need * server.rates.sample  # its prefill; samples of a prompt share it
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
    """The last of several events at one time, from time 0 on."""
    kept: dict[float, int] = {0.0: 0}
    for time, count in events:
        kept[time] = count
    return list(kept.items())


def steps_in_time(rollouts: Sequence[float], trainings: Sequence[float], lag: int) -> list[float]:
    """When each step is done: rollouts of a step may begin ``lag`` trainings before the step's own.

    As ``GRPOTrainer`` does it: a step trains when its rollouts have come and the step before has trained; as
    it begins to, the rollouts of the next ``lag`` steps may begin, one step's after another's.

    Args:
        rollouts: seconds of each step's rollouts.
        trainings: seconds of training and refit.
        lag: ``grpo.max_lag``.
    """
    came: list[float] = []  # when rollouts were complete
    began: list[float] = []  # when training began
    done: list[float] = []
    for step, (rollout, training) in enumerate(zip(rollouts, trainings, strict=True)):
        allowed = 0.0
        if step:
            allowed = max(began[max(0, step - lag)], came[-1]) if lag else done[-1]
        came.append(allowed + rollout)
        began.append(max(came[-1:] + done[-1:]))
        done.append(began[-1] + training)
    return done
