# SPDX-License-Identifier: Apache-2.0
import json
import socket
import threading
import time

import pytest

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.rollout import Completion, Prompt, RolloutClient, RolloutServerLost, Sampling, Scoring
from reasongrm_nemo.rollout import client as rollout_client
from reasongrm_nemo.rollout.dispatch import Dispatch, Loss


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(rollout_client, "_WATCH_S", 0.1)
    monkeypatch.setattr(rollout_client, "_PROBE_S", 0.3)


SAMPLING = Sampling(n=2, max_tokens=8, temperature=0.6, top_p=0.9, top_k=5, stop_token_ids=(2, 3))


def prompts(count=3):
    return [Prompt(f"p{i}", [10 + i, 11], 100 * i) for i in range(count)]


def ask(url, asked, sampling=SAMPLING, **options):
    """Yield the answers of one server as they arrive; raise its loss."""
    with Dispatch(asked, sampling) as dispatch:
        dispatch.add([RolloutClient(url, "secret", **options)])
        for _ in asked:
            event = dispatch.events.get(timeout=30)
            if isinstance(event, Loss):
                raise event.cause
            if isinstance(event, BaseException):
                raise event
            yield event


def scored(body, **changes):
    """An answer like vLLM's to a scoring pass: log-probs -0.1 for the second token, -0.2 for the third ..."""
    given = [None, *({str(t): {"logprob": -n / 10}} for n, t in enumerate(body["prompt"][1:], 1))]
    last = body["allowed_token_ids"]
    choice = {"prompt_logprobs": given, "token_ids": last, "logprobs": {"token_logprobs": [-9.0]}} | changes
    return 200, json.dumps({"choices": [choice]}).encode()


def test_the_last_token_is_scored_by_forcing_it(fake):
    fake.plan = [scored]
    (answer,) = ask(fake.url, [Prompt("p", [5, 6, 7, 5], 3)], sampling=Scoring())
    assert answer == [Completion("p", 0, [6, 7, 5], [-0.1, -0.2, -9.0], "stop")]
    body, _ = fake.asked[0]
    assert body["prompt"] == [5, 6, 7] and body["allowed_token_ids"] == [5] and body["max_tokens"] == 1
    assert body["prompt_logprobs"] == body["logprobs"] == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"token_ids": [8]},
        {"token_ids": []},
        {"prompt_logprobs": None},
        {"prompt_logprobs": [None, {"6": {"logprob": -1.0}}]},
        {"prompt_logprobs": [None, {"6": {"logprob": -1.0}}, {"8": {"logprob": -1.0}}]},
        {"logprobs": {"token_logprobs": [None]}},
    ],
)
def test_an_incomplete_scoring_answer_is_a_loss(fake, changes):
    fake.plan = [lambda body: scored(body, **changes)]
    with pytest.raises(RolloutServerLost, match=r"is torn|is incomplete"):
        list(ask(fake.url, [Prompt("p", [5, 6, 7, 5], 3)], sampling=Scoring()))


def test_request_and_answer(fake):
    answers = {a[0].prompt_id: a for a in ask(fake.url, prompts())}
    assert set(answers) == {"p0", "p1", "p2"}
    assert [c.sample for c in answers["p1"]] == [0, 1]
    assert answers["p1"][1].token_ids == [11, 101, 2]
    assert answers["p1"][1].log_probs == [-0.5, -1.0, -2.0]
    assert answers["p1"][1].finish_reason == "stop"
    body, authorization = next(a for a in fake.asked if a[0]["seed"] == 100)
    assert authorization == "Bearer secret"
    assert body == {
        "model": "policy",
        "prompt": [11, 11],
        "n": 2,
        "max_tokens": 8,
        "temperature": 0.6,
        "top_p": 0.9,
        "top_k": 5,
        "stop_token_ids": [2, 3],
        "seed": 100,
        "logprobs": 0,
        "return_token_ids": True,
    }


def test_concurrency_is_bounded(fake):
    fake.delay.clear()
    threading.Timer(0.5, fake.delay.set).start()
    assert len(list(ask(fake.url, prompts(12), limit=3))) == 12
    assert fake.busiest == 3


def test_leaving_early_ends_the_requests(fake, answer):
    fake.plan = [answer]
    stream = ask(fake.url, prompts(50), limit=1)
    next(stream)
    fake.delay.clear()
    stream.close()
    assert not [t for t in threading.enumerate() if t.name == "rollout-client"]
    assert len(fake.asked) < 50


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (lambda body: (500, b'{"error": {"message": "EngineCore died.", "code": 500}}'), "EngineCore died"),
        (lambda body: (503, b"busy"), "status 503: busy"),
        (lambda body: None, "broke off"),
        (lambda body: (200, b'{"choices": [{"tok', 5000), "broke off"),
        (lambda body: (200, b'{"choices": [{"tok'), "torn"),
        (lambda body: (200, b"[]"), "torn"),
        (lambda body: (200, b'{"choices": [{"index": 0}]}'), "torn"),
    ],
)
def test_a_failed_request_is_a_loss(fake, step, words):
    fake.plan = [step]
    with pytest.raises(RolloutServerLost, match=words):
        list(ask(fake.url, prompts(1)))


@pytest.mark.parametrize(
    "change", [{"n": 1}, {"reason": "abort"}, {"log_probs": (-0.5, -1.0)}, {"log_probs": (-0.5, None, -1.0)}]
)
def test_an_incomplete_answer_is_a_loss(fake, answer, change):
    fake.plan = [lambda body: answer(body, **change)]
    with pytest.raises(RolloutServerLost, match="incomplete"):
        list(ask(fake.url, prompts(1)))


def test_answers_before_a_loss_are_kept(fake, answer):
    fake.plan = [answer, answer, lambda body: (500, b"no")]
    seen = []
    with pytest.raises(RolloutServerLost):
        for one in ask(fake.url, prompts(5), limit=1):
            seen.append(one[0].prompt_id)
    assert seen == ["p0", "p1"]


def test_a_refused_request_is_a_user_error(fake):
    body = json.dumps({"error": {"message": "maximum context length is 16 tokens.", "code": 400}}).encode()
    fake.plan = [lambda _: (400, body)]
    with pytest.raises(UserError, match=r"refused prompt p0 \(400\): maximum context length") as caught:
        list(ask(fake.url, prompts(1)))
    assert not isinstance(caught.value, RolloutServerLost)


def test_a_port_without_a_server_is_a_loss():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    with pytest.raises(RolloutServerLost, match="broke off"):
        list(ask(url, prompts(1)))


def test_a_hanging_request_is_noticed(fake):
    fake.delay.clear()
    begin = time.monotonic()
    with pytest.raises(RolloutServerLost, match="no progress"):
        list(ask(fake.url, prompts(1), stall_timeout_s=0.6))
    assert 0.6 <= time.monotonic() - begin < 20


def test_a_server_that_hangs_as_a_whole_is_noticed(fake):
    fake.delay.clear()
    fake.routes["/metrics"] = fake.routes["/is_paused"] = lambda body: (fake.delay.wait(30), (200, b""))[1]
    begin = time.monotonic()
    with pytest.raises(RolloutServerLost, match="no progress"):
        list(ask(fake.url, prompts(1), stall_timeout_s=0.6))
    assert 0.6 <= time.monotonic() - begin < 20


@pytest.mark.parametrize("sign", ["steps", "is_paused"])
def test_a_slow_server_is_not_lost(fake, sign):
    fake.delay.clear()
    fake.is_paused = sign == "is_paused"
    stop = threading.Event()

    def work():
        begin = time.monotonic()
        while not stop.wait(0.1) and time.monotonic() - begin < 2:
            fake.steps += sign == "steps"
        fake.delay.set()

    worker = threading.Thread(target=work)
    worker.start()
    try:
        assert len(list(ask(fake.url, prompts(1), stall_timeout_s=0.5))) == 1
    finally:
        stop.set()
        worker.join()


def test_a_dead_process_is_noticed_at_once(fake):
    fake.delay.clear()
    begin = time.monotonic()
    with pytest.raises(RolloutServerLost, match="process is gone"):
        list(ask(fake.url, prompts(1), alive=lambda: False))
    assert time.monotonic() - begin < 20


@pytest.mark.parametrize(
    ("said", "version"),
    [
        (b'{"weight_version": "7"}', 7),
        (b'{"weight_version": "default"}', 0),  # vLLM's value before the first push
        (b'{"weight_version": "folder"}', 0),  # weights of another folder were loaded in place
        (b"{}", None),
    ],
)
def test_a_completion_records_the_weight_version_it_began_with(fake, said, version):
    fake.routes["/weight_info"] = lambda body: (200, said)
    answers = ask(fake.url, prompts(2), versions=True)
    assert {c.weight_version for answer in answers for c in answer} == {version}
    assert {c.weight_version for answer in ask(fake.url, prompts(2)) for c in answer} == {None}
