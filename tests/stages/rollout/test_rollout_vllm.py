# SPDX-License-Identifier: Apache-2.0
"""Completions, weights and losses with a real vLLM server."""

import os
import random
import signal
import threading
import time
import urllib.error
import urllib.request

import pytest
import torch

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.processes import child
from reasongrm_nemo.rollout import (
    Prompt,
    RolloutServer,
    RolloutServerLost,
    RolloutSettings,
    Sampling,
    Scoring,
    TensorInfo,
    WeightSender,
)
from reasongrm_nemo.rollout.http import call

pytestmark = pytest.mark.stages

END = 2
GREEDY = Sampling(n=1, max_tokens=24, temperature=0.0, stop_token_ids=(END,))
LONG = Sampling(n=4, max_tokens=200, stop_token_ids=(END,))


def prompts(count=8, seed=0):
    draw = random.Random(seed)
    return [
        Prompt(f"p{i}", [draw.randrange(3, 96) for _ in range(draw.randrange(5, 30))], seed=1000 * i)
        for i in range(count)
    ]


def log_probs(model, prompt, token_ids):
    """Log-probabilities of the completion's tokens by transformers."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt.token_ids + token_ids])).logits[0]
    logs = logits.log_softmax(-1)[len(prompt.token_ids) - 1 : -1]
    return logs.gather(1, torch.tensor(token_ids)[:, None])[:, 0]


def worst(model, asked, answers):
    """Largest difference of the answers' log-probabilities from transformers'."""
    return max(
        float((log_probs(model, prompt, c.token_ids) - torch.tensor(c.log_probs)).abs().max())
        for prompt, answer in zip(asked, answers, strict=True)
        for c in answer
    )


def greedy(model, prompt):
    """Transformers' greedy continuation, the end token included."""
    ids = torch.tensor([prompt.token_ids])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=24,
        eos_token_id=END,
        pad_token_id=0,
    )
    return out[0, ids.shape[1] :].tolist()


def serves(rollouts, model):
    """Whether the server's greedy continuations and log-probabilities are this model's."""
    asked = prompts()
    answers = rollouts.generate(asked, GREEDY)
    same = [
        answer[0].token_ids == greedy(model, prompt) for prompt, answer in zip(asked, answers, strict=True)
    ]
    return all(same) and worst(model, asked, answers) < 1e-4


def push(sender, model, version=1):
    tensors = {name: p for name, p in model.state_dict().items() if name != "lm_head.weight"}
    sender.push([TensorInfo.of(n, t) for n, t in tensors.items()], iter(tensors.items()), version)


def engine(server):
    """Process id of the engine core."""
    state = server.state()
    for pid in child._group(state["pid"], state["ticks"]):
        with open(f"/proc/{pid}/comm") as file:
            if "EngineCor" in file.read():
                return pid
    raise AssertionError("no engine core")


# ---- completions


def test_structure_stops_and_log_probs(rollouts, models):
    asked = prompts(16)
    sampling = Sampling(n=4, max_tokens=60, temperature=0.8, top_p=0.95, stop_token_ids=(END, 7))
    answers = rollouts.generate(asked, sampling)
    assert [a[0].prompt_id for a in answers] == [p.id for p in asked]
    reasons = set()
    for answer in answers:
        assert [c.sample for c in answer] == [0, 1, 2, 3]
        assert len({tuple(c.token_ids) for c in answer}) > 1
        for c in answer:
            reasons.add(c.finish_reason)
            assert len(c.token_ids) == len(c.log_probs) and max(c.log_probs) <= 0
            assert not {END, 7} & set(c.token_ids[:-1])
            if c.finish_reason == "stop":
                assert c.token_ids[-1] in (END, 7)
            else:
                assert c.token_ids[-1] not in (END, 7) and len(c.token_ids) == 60
    assert reasons == {"stop", "length"}
    # Raw: from the full distribution at temperature 1, although sampled from a truncated one at 0.8.
    assert worst(models["a"][1], asked, answers) < 1e-4


def test_given_tokens_are_scored_as_they_were_sampled(rollouts, models):
    """A teacher-forced pass and truncated sampling give the same raw probabilities as transformers."""
    draw = random.Random(8)
    asked = [Prompt(f"p{i}", [draw.randrange(3, 96) for _ in range(56)], 1000 * i) for i in range(8)]
    sampling = Sampling(n=2, max_tokens=200, temperature=0.7, top_p=0.8, top_k=20, stop_token_ids=(END,))
    answers = [c for answer in rollouts.generate(asked, sampling) for c in answer]
    by_id = {p.id: p for p in asked}
    whole = [
        Prompt(f"{c.prompt_id} {c.sample}", by_id[c.prompt_id].token_ids + c.token_ids, 0) for c in answers
    ]
    lengths = [len(completion.token_ids) for completion in whole]
    assert max(lengths) == 256 and min(lengths) < 256  # some fill the context, some end before
    scored = [c for (c,) in rollouts.generate(whole, Scoring())]
    for sampled, again in zip(answers, scored, strict=True):
        size = len(sampled.token_ids)
        assert again.token_ids[-size:] == sampled.token_ids
        assert again.log_probs[-size:] == pytest.approx(sampled.log_probs, abs=1e-4)
        truth = log_probs(models["a"][1], by_id[sampled.prompt_id], sampled.token_ids).tolist()
        assert again.log_probs[-size:] == pytest.approx(truth, abs=1e-4)


def test_only_seeds_decide(rollouts):
    asked = prompts(12)
    sampling = Sampling(n=3, max_tokens=40, stop_token_ids=(END,))
    first = rollouts.generate(asked, sampling)
    again = rollouts.generate(list(reversed(asked)), sampling)[::-1]
    alone = [rollouts.generate([p], sampling)[0] for p in asked[:3]]
    assert [[c.token_ids for c in a] for a in first] == [[c.token_ids for c in a] for a in again]
    assert [[c.token_ids for c in a] for a in first[:3]] == [[c.token_ids for c in a] for a in alone]
    other = rollouts.generate([Prompt(p.id, p.token_ids, p.seed + 7) for p in asked], sampling)
    assert [[c.token_ids for c in a] for a in first] != [[c.token_ids for c in a] for a in other]


def test_more_prompts_than_one_prefill_holds(rollouts):
    """Seeded requests with chunked prefill would crash vLLM 0.32 on CPU."""
    draw = random.Random(5)
    asked = [Prompt(str(i), [draw.randrange(3, 96) for _ in range(250)], i) for i in range(80)]
    answers = rollouts.generate(asked, Sampling(n=1, max_tokens=6))
    assert len(answers) == 80 and rollouts.losses == []


def test_a_prompt_that_is_too_long_is_refused(rollouts):
    with pytest.raises(UserError, match="refused prompt long"):
        rollouts.generate([Prompt("long", [5] * 300, 1)], GREEDY)
    assert rollouts.losses == []


@pytest.mark.parametrize(
    "path", ["/v1/models", "/health", "/metrics", "/is_paused", "/collective_rpc", "/resume"]
)
def test_no_route_without_the_token(rollouts, path):
    for headers in ({}, {"Authorization": "Bearer x"}):
        method = "POST" if path in ("/collective_rpc", "/resume") else "GET"
        request = urllib.request.Request(rollouts.servers[0].url + path, headers=headers, method=method)
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=10)
        assert caught.value.code == 401


# ---- weights


def test_weights_pushed_and_from_a_folder(rollouts, models):
    (folder_a, a), (folder_b, b) = models["a"], models["b"]
    starts = rollouts.servers[0].starts
    assert serves(rollouts, a) and not serves(rollouts, b)
    sender = WeightSender(rollouts.servers)
    push(sender, b, 1)
    assert serves(rollouts, b)
    server = rollouts.servers[0]
    assert call(server.url, server.token, "GET", "/weight_info", 10) == {"weight_version": "1"}
    push(sender, a, 2)
    assert serves(rollouts, a)
    push(WeightSender([server]), b, 3)  # another trainer process meets the same server
    assert serves(rollouts, b)
    rollouts.use(folder_a)
    assert serves(rollouts, a)
    rollouts.use(folder_b)
    assert serves(rollouts, b)
    assert rollouts.servers[0].starts == starts


def running(server):
    """Number of sequences that the engine is running."""
    text = call(server.url, server.token, "GET", "/metrics", 10)
    lines = [line for line in text.splitlines() if line.startswith("vllm:num_requests_running")]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def test_push_with_requests_in_flight(rollouts, models):
    b = models["b"][1]
    got = []
    sampling = Sampling(n=4, max_tokens=200, stop_token_ids=())
    thread = threading.Thread(target=lambda: got.extend(rollouts.generate(prompts(60), sampling)))
    thread.start()
    deadline = time.monotonic() + 60
    while not running(rollouts.servers[0]):
        assert time.monotonic() < deadline
    push(WeightSender(rollouts.servers), b)
    assert running(rollouts.servers[0]) and not got
    thread.join(120)
    assert len(got) == 60 and rollouts.losses == []
    assert all(len(c.token_ids) == len(c.log_probs) for a in got for c in a)
    assert serves(rollouts, b)


# ---- losses


@pytest.mark.parametrize("whom", ["server", "engine"])
def test_a_server_killed_during_requests(rollouts, models, whom):
    b = models["b"][1]
    server = rollouts.servers[0]
    sender = WeightSender([server])
    push(sender, b)
    rollouts.resync = lambda servers: push(sender, b)
    victim = server.state()["pid"] if whom == "server" else engine(server)
    times = {}
    rollouts.on_loss = lambda cause: times.update(noticed=time.monotonic())
    seen = []

    def note(answer):
        seen.append(answer[0].prompt_id)
        if len(seen) == 2:
            times["killed"] = time.monotonic()
            os.kill(victim, signal.SIGKILL)

    asked = prompts(80)
    answers = rollouts.generate(asked, LONG, note)
    assert [a[0].prompt_id for a in answers] == [p.id for p in asked]
    assert sorted(seen) == sorted(p.id for p in asked)  # none twice
    (cause,) = rollouts.losses
    print(f"\n{whom} killed: noticed after {times['noticed'] - times['killed']:.1f} s: {cause}")
    assert times["noticed"] - times["killed"] < 90
    if whom == "server":
        assert "killed by SIGKILL" in cause
    assert worst(b, asked, answers) < 1e-4  # the restarted server got the pushed weights
    rollouts.on_loss = None


def test_a_stopped_engine_is_noticed(rollouts, models):
    server = rollouts.servers[0]
    stopped = engine(server)
    times = {}
    rollouts.on_loss = lambda cause: times.update(noticed=time.monotonic())

    def note(answer):
        if not times:
            os.kill(stopped, signal.SIGSTOP)
            times["stopped"] = time.monotonic()

    asked = prompts(80)
    answers = rollouts.generate(asked, LONG, note)
    took = times["noticed"] - times["stopped"]
    print(f"\nengine stopped: noticed after {took:.1f} s: {rollouts.losses}")
    assert took < 90
    assert worst(models["a"][1], asked, answers) < 1e-4
    assert not child._stat(stopped)
    rollouts.on_loss = None


def test_push_to_a_stopped_engine_is_a_loss(rollouts, models):
    server = rollouts.servers[0]
    sender = WeightSender([server])
    push(sender, models["b"][1])
    os.kill(engine(server), signal.SIGSTOP)
    begin = time.monotonic()
    with pytest.raises(RolloutServerLost, match="did not answer"):
        push(sender, models["a"][1])
    assert time.monotonic() - begin < 90
    server.restart()
    push(sender, models["a"][1])
    assert serves(rollouts, models["a"][1])


def test_a_model_of_another_shape_restarts_the_server(rollouts, models):
    folder, wide = models["wide"]
    starts = rollouts.servers[0].starts
    rollouts.use(folder)
    assert rollouts.servers[0].starts == starts + 1
    assert serves(rollouts, wide)


@pytest.mark.parametrize("family", ["mistral", "phi3"])
def test_a_further_family_is_served_and_takes_pushed_weights(shared, models, family):
    """Without the fixture `rollouts`, which would restart the server with model a for every family."""
    (folder_a, a), (_, b) = models[f"{family} a"], models[f"{family} b"]
    shared.use(folder_a)
    assert serves(shared, a) and not serves(shared, b)
    push(WeightSender(shared.servers), b)
    assert serves(shared, b)


def test_a_model_that_vllm_cannot_serve_is_refused(models, make_settings, tmp_path):
    server = RolloutServer(make_settings(max_model_len=100_000), models["a"][0], tmp_path / "server.log")
    with pytest.raises(UserError) as caught:
        server.start()
    message = str(caught.value)
    print("\n" + message)
    assert "while starting" in message and "\n" not in message
    assert not server.is_alive()
    assert isinstance(server.settings, RolloutSettings)
