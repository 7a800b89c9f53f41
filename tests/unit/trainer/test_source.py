# SPDX-License-Identifier: Apache-2.0
"""A step's completions are stored as they arrive: a killed rollout is completed, not repeated."""

import json
import threading

import pytest
import torch
import torch.distributed as dist

from reasongrm_nemo.grpo.source import Part, RolloutSource
from reasongrm_nemo.rollout import Completion, Prompt, RolloutServerLost, Sampling

SAMPLING = Sampling(n=2, max_tokens=8)
PROMPTS = [Prompt(f"{i}:t", [5, 6], 100 * i) for i in range(6)]


def answer(prompt):
    return [
        Completion(prompt.id, i, [prompt.seed + i, 2], [-1 / 3 * (i + 1), -0.1], "stop") for i in range(2)
    ]


class Servers:
    """Answers in reverse order; after a given number of answers the run is killed, or the call ends."""

    servers = ()

    def __init__(self, killed_after=99, ends_after=99):
        self.killed_after, self.ends_after, self.asked, self.timeouts = killed_after, ends_after, [], []

    def stream(self, prompts, sampling, timeout_s=None):
        self.asked.append([prompt.id for prompt in prompts])
        self.timeouts.append(timeout_s)
        for count, prompt in enumerate(reversed(prompts)):
            if count == self.killed_after:
                raise KeyboardInterrupt
            if count == self.ends_after:
                return
            yield answer(prompt)


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A function that makes the source of a single process with the given servers."""
    monkeypatch.setattr("reasongrm_nemo.grpo.source.WeightSender", lambda *_: None)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield lambda servers: RolloutSource(servers, None, tmp_path / "rollouts", "gloo")
    dist.destroy_process_group()


def test_only_the_missing_prompts_are_asked_after_a_kill(source, tmp_path):
    file = tmp_path / "rollouts" / "step_000003.jsonl"
    partial = file.with_name(file.name + ".partial")
    with pytest.raises(KeyboardInterrupt):
        source(Servers(killed_after=4)).collect(Part(3, 0, PROMPTS, SAMPLING))
    assert not file.exists()
    with partial.open("ab") as torn:
        torn.write(b'{"prompt_id": "0:t", "compl')

    servers = Servers()
    got = source(servers).collect(Part(3, 0, PROMPTS, SAMPLING))
    assert servers.asked == [["0:t", "1:t"]]
    assert got == [answer(prompt) for prompt in PROMPTS]  # to the bit, in the prompts' order
    assert not partial.exists()

    unbroken = tmp_path / "unbroken.jsonl"
    file.rename(unbroken)
    source(Servers()).collect(Part(3, 0, PROMPTS, SAMPLING))
    assert file.read_bytes() == unbroken.read_bytes()
    servers = Servers()
    assert source(servers).collect(Part(3, 0, PROMPTS, SAMPLING)) == got  # from the file
    assert servers.asked == []


def test_an_answer_is_on_disk_before_the_next_is_awaited(source, tmp_path):
    seen = []

    class Watched(Servers):
        def stream(self, prompts, sampling, timeout_s=None):
            for count, one in enumerate(super().stream(prompts, sampling, timeout_s)):
                lines = (tmp_path / "rollouts" / "step_000000_1.jsonl.partial").read_text().splitlines()
                seen.append([json.loads(line)["prompt_id"] for line in lines])
                assert len(seen[-1]) == count
                yield one

    source(Watched()).collect(Part(0, 1, PROMPTS, SAMPLING))
    assert seen[-1] == ["5:t", "4:t", "3:t", "2:t", "1:t"]


def test_stragglers_stay_dropped_when_the_step_is_repeated(source):
    servers = Servers(ends_after=4)
    got = source(servers).collect(Part(0, 0, PROMPTS, SAMPLING, 7.5))
    assert servers.timeouts == [7.5]
    assert got == [[], []] + [answer(prompt) for prompt in PROMPTS[2:]]
    servers = Servers()
    assert source(servers).collect(Part(0, 0, PROMPTS, SAMPLING)) == got
    assert servers.asked == []


def test_no_rank_trains_before_the_servers_sleep(source, monkeypatch):
    """The first rank tells the others only afterwards, even if a server is lost meanwhile."""
    events = []

    class Sleepers(Servers):
        def sleep(self):
            events.append("sleep")
            raise RolloutServerLost("gone")

    def broadcast(box, root, group):
        events.append("told")

    monkeypatch.setattr(dist, "broadcast_object_list", broadcast)
    source(Sleepers()).sleep()
    source(None).sleep()
    assert events == ["sleep", "told", "told"]


def test_a_push_leaves_the_cpu_threads_to_the_servers(source, monkeypatch):
    """The trainer has one thread while sending and all of them afterwards, even if the push fails."""
    seen = []

    class Sender:
        def push(self, *_):
            seen.append(torch.get_num_threads())
            raise RolloutServerLost("gone")

    class Transfer:
        def infos(self):
            return []

        def export(self, everywhere):
            return iter(())

    monkeypatch.setattr("reasongrm_nemo.grpo.source.parallel_state.get_data_parallel_rank", lambda: 0)
    monkeypatch.setattr("reasongrm_nemo.grpo.source.WeightSender", lambda *_: Sender())
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        asked = source(Servers())
        asked._transfer = Transfer()
        with pytest.raises(RolloutServerLost):
            asked._send()
        assert (seen, torch.get_num_threads()) == ([1], 2)
    finally:
        torch.set_num_threads(before)


class Slow(Servers):
    """Answers once ``go`` is set; half-way a server is restarted and needs weights."""

    def __init__(self, restarts=False):
        super().__init__()
        self.begun, self.go, self.restarts, self.resync = threading.Event(), threading.Event(), restarts, None
        self.steady_ones = []

    def steady(self):
        return self.steady_ones

    def stream(self, prompts, sampling, timeout_s=None):
        self.begun.set()
        assert self.go.wait(20)
        if self.restarts:
            self.resync(["restarted"])
        yield from super().stream(prompts, sampling, timeout_s)


def test_rollouts_run_while_the_caller_does_something_else(source):
    servers = Slow()
    rollouts = source(servers)
    rollouts.begin(Part(1, 0, PROMPTS, SAMPLING))
    rollouts.begin(Part(1, 0, PROMPTS, SAMPLING))
    rollouts.begin(Part(2, 0, PROMPTS[:1], SAMPLING))
    assert servers.begun.wait(20)
    servers.go.set()
    assert rollouts.collect(Part(1, 0, PROMPTS, SAMPLING)) == [answer(prompt) for prompt in PROMPTS]
    assert rollouts.collect(Part(2, 0, PROMPTS[:1], SAMPLING)) == [answer(PROMPTS[0])]
    assert [len(asked) for asked in servers.asked] == [6, 1], "each once, in their order"


def test_a_server_restarted_meanwhile_gets_its_weights_from_the_callers_thread(source):
    """Sending weights is collective, and the other ranks follow only the first rank's main thread."""
    servers = Slow(restarts=True)
    rollouts, given = source(servers), []
    rollouts._send = lambda to: given.append((to, threading.current_thread() is threading.main_thread()))
    rollouts.begin(Part(1, 0, PROMPTS, SAMPLING))
    servers.go.set()
    rollouts.collect(Part(1, 0, PROMPTS, SAMPLING))
    assert given == [(["restarted"], True)]


def test_a_push_that_loses_a_server_leaves_its_restart_to_the_running_rollouts(source):
    """The push must not kill a server that the rollouts have restarted meanwhile."""

    class Server:
        starts, killed = 1, []

        def kill(self, start):
            self.killed.append(start)

    server, servers = Server(), Slow()
    servers.steady_ones = [server]
    rollouts = source(servers)

    def lose(to):
        assert to == [server]
        server.starts += 1  # the rollouts noticed the loss too
        raise RolloutServerLost("cut", [server])

    rollouts._send = lose
    rollouts.begin(Part(1, 0, PROMPTS, SAMPLING))
    rollouts.push(1)
    assert server.killed == [1]
    servers.go.set()
    assert rollouts.collect(Part(1, 0, PROMPTS, SAMPLING)) == [answer(prompt) for prompt in PROMPTS]


def test_a_server_lost_by_a_push_is_reported_and_counted(source):
    servers = Slow()
    servers.losses, servers.brought = ["while it answered"], []
    servers.tell, servers.bring_up = servers.losses.append, servers.brought.extend
    rollouts = source(servers)
    assert rollouts.losses() == 1 and rollouts.losses() == 0

    def lose(to):
        raise RolloutServerLost("cut while receiving x", ["server"])

    rollouts._send = lose
    rollouts.push(1)
    assert servers.losses[1:] == ["cut while receiving x"] and servers.brought == ["server"]
    assert rollouts.losses() == 1
