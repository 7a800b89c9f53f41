# SPDX-License-Identifier: Apache-2.0
"""Several servers: prompts shared out by load, the loss of one, and a time limit for stragglers."""

import threading
import time
from types import SimpleNamespace

import pytest

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.rollout import Prompt, Rollouts, RolloutServerLost, Sampling
from reasongrm_nemo.rollout import client as rollout_client

SAMPLING = Sampling(n=2, max_tokens=8)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(rollout_client, "_WATCH_S", 0.1)
    monkeypatch.setattr(rollout_client, "_PROBE_S", 0.3)


class Handle:
    """Stand-in for a server's handle; the fake HTTP server survives its restarts."""

    def __init__(self, fake, max_num_seqs=2, stall=20.0):
        self.fake, self.url, self.token = fake, fake.url, "secret"
        self.settings = SimpleNamespace(concurrency=64, stall_timeout_s=stall, max_num_seqs=max_num_seqs)
        self.alive, self.asleep = True, False
        self.starting = threading.Event()  # while this is cleared, a restart waits
        self.starting.set()
        self.restarts, self.killed, self.stopped = 0, False, False
        self.broken, self.gone = None, False

    def is_alive(self):
        return self.alive

    def vanished(self):
        return self.gone

    def cause_of(self, loss):
        return str(loss)

    def restart(self):
        self.fake.delay.set()  # a restart ends hanging requests
        self.starting.wait(20)
        if self.broken:
            raise self.broken
        self.alive = True
        self.restarts += 1

    def kill(self):
        self.killed = True
        self.starting.set()

    def stop(self, grace_s):
        self.stopped = True


@pytest.fixture
def fakes(fake, make_fake):
    return [fake, make_fake()]


@pytest.fixture
def handles(fakes):
    return [Handle(fake) for fake in fakes]


def prompts(count):
    return [Prompt(f"p{i}", [10 + i], 100 * i) for i in range(count)]


def asked(fake):
    return [body["seed"] // 100 for body, _ in fake.asked]


def whole(answers, count):
    """Whether every prompt has its own completions, in the order of the prompts."""
    return [[c.token_ids[1] for c in a] for a in answers] == [[100 * i, 100 * i + 1] for i in range(count)]


def test_prompts_are_shared_out_and_each_is_asked_once(fakes, handles):
    assert whole(Rollouts(handles).generate(prompts(20), SAMPLING), 20)
    assert sorted(asked(fakes[0]) + asked(fakes[1])) == list(range(20))
    assert min(len(asked(fake)) for fake in fakes) >= 2


def test_a_call_begins_with_equal_loads(fakes, handles):
    """Fewer prompts than one server would take at once."""
    for handle in handles:
        handle.settings.max_num_seqs = 64
    assert whole(Rollouts(handles).generate(prompts(8), SAMPLING), 8)
    assert [sorted(asked(fake)) for fake in fakes] == [[0, 2, 4, 6], [1, 3, 5, 7]]


def test_a_slow_server_gets_fewer_prompts(fakes, handles):
    """The slow server answers nothing until the other has emptied the common queue."""
    fakes[1].delay.clear()
    seen = []

    def note(answer):
        seen.append(answer)
        if len(seen) == 18:
            fakes[1].delay.set()

    assert whole(Rollouts(handles).generate(prompts(20), SAMPLING, note), 20)
    assert len(asked(fakes[1])) == 2  # twice what the server runs at once: one prompt of two samples


def error(handle):
    return lambda body: (500, b"broken")


def hang(handle):
    def step(body):
        handle.fake.delay.clear()
        handle.fake.delay.wait(30)
        return None

    return step


def die(handle):
    def step(body):
        handle.alive = False
        return None

    return step


@pytest.mark.parametrize("fault", [error, hang, die])
def test_the_loss_of_one_leaves_the_other_at_work(fakes, handles, fault, answer):
    handles[1].settings.stall_timeout_s = 0.6
    fakes[1].plan = [answer, fault(handles[1])]
    resynced, causes = [], []
    rollouts = Rollouts(handles, resynced.append, causes.append)
    assert whole(rollouts.generate(prompts(30), SAMPLING), 30)
    assert [handle.restarts for handle in handles] == [0, 1]
    assert resynced == [[handles[1]]]  # the other keeps its weights
    assert causes == rollouts.losses and len(causes) == 1
    once = asked(fakes[0])
    assert len(once) == len(set(once))  # none of the healthy server's prompts was sent again


def test_the_others_finish_while_a_lost_one_starts(fakes, handles):
    fakes[1].plan = [error(handles[1])]
    handles[1].starting.clear()
    arrived = []
    for answer in Rollouts(handles).stream(prompts(10), SAMPLING):
        arrived.append(answer[0].prompt_id)
        if len(arrived) == 10:
            assert handles[1].restarts == 0
            handles[1].starting.set()
    assert handles[1].restarts == 1  # the call waits for the restart, so that the next push finds the server


def test_a_restarted_server_takes_its_share_again(fakes, handles, answer):
    fakes[1].plan = [error(handles[1])]
    back = threading.Event()
    fakes[0].plan = [answer] * 3 + [lambda body: (back.wait(20), answer(body))[1]] * 2
    rollouts = Rollouts(handles, lambda servers: back.set())
    assert whole(rollouts.generate(prompts(30), SAMPLING), 30)
    assert len(asked(fakes[1])) > 2


def test_each_server_may_be_lost_once_a_call(fakes, handles, answer):
    rollouts = Rollouts(handles)
    for fake, handle in zip(fakes, handles, strict=True):
        fake.plan = [answer, error(handle)]
    assert whole(rollouts.generate(prompts(10), SAMPLING), 10)
    assert [handle.restarts for handle in handles] == [1, 1]
    fakes[0].plan = [error(handles[0])] * 9
    with pytest.raises(RolloutServerLost, match="status 500"):
        rollouts.generate(prompts(10), SAMPLING)


def test_a_server_that_does_not_start_again_ends_the_call(fakes, handles):
    fakes[1].plan = [error(handles[1])]
    handles[1].broken = UserError("no room")
    with pytest.raises(UserError, match="no room"):
        Rollouts(handles).generate(prompts(10), SAMPLING)


def test_a_stopped_server_starts_while_the_other_answers(fakes, handles):
    handles[1].alive = False
    resynced = []
    rollouts = Rollouts(handles, resynced.append)
    assert whole(rollouts.generate(prompts(6), SAMPLING), 6)
    assert handles[1].restarts == 1 and resynced == [[handles[1]]] and rollouts.losses == []


def test_a_server_killed_between_two_calls_is_a_loss_too(fakes, handles):
    handles[1].alive, handles[1].gone = False, True
    told = []
    rollouts = Rollouts(handles, on_loss=told.append)
    assert whole(rollouts.generate(prompts(6), SAMPLING), 6)
    assert handles[1].restarts == 1 and told == rollouts.losses
    assert told == ["The rollout server ended between two calls."]


def test_leaving_in_the_middle_of_a_restart_leaves_no_server_with_old_weights(fakes, handles):
    fakes[1].plan = [error(handles[1])]
    handles[1].starting.clear()
    resynced = []
    stream = Rollouts(handles, resynced.append).stream(prompts(40), SAMPLING)
    while not fakes[1].asked:
        next(stream)
    deadline = time.monotonic() + 10
    while not [t for t in threading.enumerate() if t.name == "rollout-restart"]:
        assert time.monotonic() < deadline
        next(stream)
    stream.close()
    assert handles[1].killed and handles[1].stopped and not handles[0].killed
    assert resynced == []


def test_a_sleeping_server_is_given_weights_before_it_is_asked(fakes, handles):
    events = []

    def resync(servers):
        events.append(servers)
        assert not fakes[0].asked and not fakes[1].asked
        for server in servers:
            server.asleep = False

    handles[1].asleep = True
    assert whole(Rollouts(handles, resync).generate(prompts(6), SAMPLING), 6)
    assert events == [[handles[1]]]

    handles[0].asleep, handles[0].model_dir = True, "folder"  # nobody pushes, so its folder is loaded
    handles[0].use = lambda folder: events.append(folder)
    assert whole(Rollouts(handles).generate(prompts(6), SAMPLING), 6)
    assert events[1:] == ["folder"]


def test_an_interrupt_ends_a_server_that_is_starting(handles, tmp_path):
    def interrupted(folder):
        raise KeyboardInterrupt

    handles[1].starting.clear()
    handles[0].use, handles[1].use = interrupted, lambda folder: handles[1].starting.wait(20)
    with pytest.raises(KeyboardInterrupt):
        Rollouts(handles).use(tmp_path)
    assert handles[1].killed and not handles[0].killed


# ---- stragglers


def late(seeds, gate, answer):
    """An answer that waits at the gate for these seeds."""
    return lambda body: (body["seed"] not in seeds or gate.wait(20), answer(body))[1]


@pytest.fixture
def gate():
    event = threading.Event()
    yield event
    event.set()


def test_stragglers_are_left_out(fakes, handles, answer, gate):
    for fake in fakes:
        fake.plan = [late({300, 500}, gate, answer)] * 8
    answers = Rollouts(handles).generate(prompts(8), SAMPLING, timeout_s=2.5)
    assert [i for i, a in enumerate(answers) if not a] == [3, 5]
    assert all(len(a) == 2 for i, a in enumerate(answers) if i not in (3, 5))
    assert [handle.restarts for handle in handles] == [0, 0]


def test_at_least_one_answer_is_waited_for_however_long(fakes, handles, answer, gate):
    for fake in fakes:
        fake.plan = [late({0, 100, 200}, gate, answer)] * 3
    threading.Timer(0.6, gate.set).start()
    begin = time.monotonic()
    answers = Rollouts(handles).generate(prompts(3), SAMPLING, timeout_s=0.1)
    assert any(answers) and time.monotonic() - begin >= 0.5


def test_a_restart_does_not_count_against_the_stragglers(fakes, handles, answer):
    """All prompts but one wait for the only server to restart, which takes longer than the budget."""
    (handle,) = handles[:1]
    handle.settings.concurrency = 1
    handle.fake.plan = [answer, error(handle)]
    handle.starting.clear()
    threading.Timer(2.5, handle.starting.set).start()
    assert whole(Rollouts([handle]).generate(prompts(4), SAMPLING, timeout_s=2.0), 4)


def test_without_a_budget_nothing_is_left_out(fakes, handles, answer, gate):
    fakes[0].plan = fakes[1].plan = [late({0}, gate, answer)] * 4
    threading.Timer(0.5, gate.set).start()
    assert whole(Rollouts(handles).generate(prompts(4), SAMPLING), 4)
