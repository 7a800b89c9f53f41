# SPDX-License-Identifier: Apache-2.0
"""Rollouts survive the loss of a server, here with a stand-in for its process."""

from types import SimpleNamespace

import pytest

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.rollout import Prompt, Rollouts, RolloutServerLost, Sampling

SAMPLING = Sampling(n=2, max_tokens=8)


class Handle:
    """Stand-in for a server's handle; the fake HTTP server survives its restarts."""

    def __init__(self, fake):
        self.url, self.token = fake.url, "secret"
        self.settings = SimpleNamespace(concurrency=1, stall_timeout_s=5.0, max_num_seqs=4)
        self.alive = True
        self.events = []
        self.asleep = False

    def is_alive(self):
        return self.alive

    def cause_of(self, loss):
        return str(loss) if self.alive else "it was killed."

    def vanished(self):
        return False

    def restart(self):
        self.events.append("restart")
        self.alive = True


def prompts(count=5):
    return [Prompt(f"p{i}", [10 + i], i) for i in range(count)]


def broken(body):
    return 500, b"broken"


@pytest.fixture
def rollouts(fake):
    handle = Handle(fake)
    return Rollouts(
        [handle], on_loss=handle.events.append, resync=lambda servers: handle.events.append("resync")
    )


def test_answers_are_in_the_order_of_the_prompts(fake, rollouts):
    seen = []
    answers = rollouts.generate(prompts(), SAMPLING, seen.append)
    assert [a[0].prompt_id for a in answers] == [f"p{i}" for i in range(5)]
    assert [a[1].token_ids[1] for a in answers] == [1, 2, 3, 4, 5]
    assert len(seen) == 5
    assert rollouts.servers[0].events == [] and rollouts.losses == []


def test_after_one_loss_only_the_unanswered_prompts_are_sent_again(fake, rollouts, answer):
    fake.plan = [answer, answer, broken]
    seen = []
    answers = rollouts.generate(prompts(), SAMPLING, lambda a: seen.append(a[0].prompt_id))
    assert [a[0].prompt_id for a in answers] == [f"p{i}" for i in range(5)]
    assert sorted(seen) == [f"p{i}" for i in range(5)]
    assert [a[0]["seed"] for a in fake.asked] == [0, 1, 2, 2, 3, 4]
    loss, *rest = rollouts.servers[0].events
    assert "status 500: broken" in loss and rest == ["restart", "resync"]
    assert rollouts.losses == [loss]


def test_a_second_loss_is_raised(fake, rollouts, answer):
    fake.plan = [answer, broken, answer, broken]
    with pytest.raises(RolloutServerLost, match="status 500"):
        rollouts.generate(prompts(), SAMPLING)
    assert rollouts.servers[0].events[1:] == ["restart", "resync"]


def test_each_call_may_lose_the_server_once(fake, rollouts, answer):
    for _ in range(2):
        fake.plan = [answer, broken]
        assert len(rollouts.generate(prompts(), SAMPLING)) == 5
    assert len(rollouts.losses) == 2


def test_the_cause_of_a_loss_comes_from_the_process(fake, rollouts):
    def dies(body):
        rollouts.servers[0].alive = False
        return None

    fake.plan = [dies]
    assert len(rollouts.generate(prompts(), SAMPLING)) == 5
    assert rollouts.losses == ["it was killed. 1 prompt is sent again."]


def test_a_server_that_does_not_run_is_started_first(fake, rollouts):
    rollouts.servers[0].alive = False
    assert len(rollouts.generate(prompts(), SAMPLING)) == 5
    assert rollouts.servers[0].events == ["restart", "resync"] and rollouts.losses == []


def test_a_refused_request_is_not_a_loss(fake, rollouts):
    fake.plan = [lambda body: (400, b'{"error": {"message": "too long"}}')]
    with pytest.raises(UserError, match="too long"):
        rollouts.generate(prompts(), SAMPLING)
    assert rollouts.servers[0].events == []


def test_prompt_ids_must_differ(fake, rollouts):
    with pytest.raises(ValueError, match="unique"):
        rollouts.generate([Prompt("p", [1], 1), Prompt("p", [2], 2)], SAMPLING)


def test_a_call_without_prompts(fake, rollouts):
    assert rollouts.generate([], SAMPLING) == []


def test_a_stream_may_be_closed_early(fake, rollouts):
    stream = rollouts.stream(prompts(), SAMPLING)
    next(stream)
    stream.close()
    assert rollouts.servers[0].events == []
