# SPDX-License-Identifier: Apache-2.0
"""Two real vLLM servers: the same completions as one, the loss of one of them, dropped stragglers."""

import os
import random
import signal
import threading
import time

import pytest

from reasongrm_nemo.rollout import Prompt, Rollouts, RolloutServer, Sampling, TensorInfo, WeightSender
from reasongrm_nemo.rollout.http import call

pytestmark = pytest.mark.stages

END = 2


@pytest.fixture(scope="module")
def pair(models, make_settings, tmp_path_factory):
    """Two running servers, serving model a."""
    logs = tmp_path_factory.mktemp("pair")
    settings = make_settings(servers=2, max_num_seqs=16)
    servers = [RolloutServer(settings, models["a"][0], logs / f"server-{i}.log") for i in range(2)]
    with Rollouts(servers) as rollouts:
        yield rollouts


def prompts(count):
    draw = random.Random(3)
    return [
        Prompt(f"p{i}", [draw.randrange(3, 96) for _ in range(draw.randrange(5, 30))], seed=1000 * i)
        for i in range(count)
    ]


def tokens(answers):
    return [[c.token_ids for c in answer] for answer in answers]


def gauge(server, name):
    text = call(server.url, server.token, "GET", "/metrics", 10)
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))


def test_two_servers_answer_as_one_does(pair):
    asked = prompts(24)
    sampling = Sampling(n=4, max_tokens=40, stop_token_ids=(END,))
    before = [gauge(server, "vllm:generation_tokens_total") for server in pair.servers]
    both = pair.generate(asked, sampling)
    shares = [
        gauge(server, "vllm:generation_tokens_total") - was
        for server, was in zip(pair.servers, before, strict=True)
    ]
    one = Rollouts(pair.servers[:1]).generate(asked, sampling)
    print(f"\ntokens by server: {shares}")
    assert tokens(both) == tokens(one)
    # Batches of other sizes sum in another order (fp32); seen 1e-6.
    worst = max(
        abs(a - b)
        for first, second in zip(both, one, strict=True)
        for c, d in zip(first, second, strict=True)
        for a, b in zip(c.log_probs, d.log_probs, strict=True)
    )
    print(f"log-probs differ by {worst:.1e}")
    assert worst < 1e-4
    assert min(shares) > sum(shares) / 10


def generated(server):
    """Tokens that the server has generated so far, read when it is idle."""
    deadline = time.monotonic() + 120
    while gauge(server, "vllm:num_requests_running") or gauge(server, "vllm:num_requests_waiting"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return gauge(server, "vllm:generation_tokens_total")


def test_stragglers_are_dropped_on_the_server(pair):
    """The first answer ends the wait; requests that nobody awaits any more are aborted.

    All prompts are on one server, which has work for seconds, because on a busy machine the server learns
    late what to abort.
    """
    server = pair.servers[0]
    rollouts = Rollouts([server])
    asked = [Prompt(f"p{i}", [5 + i, 9, 11], 7 * i) for i in range(60)]
    sampling = Sampling(n=8, max_tokens=250)
    assert len(asked) <= server.settings.concurrency
    begin = generated(server)
    answers = rollouts.generate(asked, sampling, timeout_s=0.01)
    missing = sum(not answer for answer in answers)
    cut = generated(server) - begin
    assert all(rollouts.generate(asked, sampling))
    whole = generated(server) - begin - cut
    print(f"\n{missing} of {len(asked)} left out; {cut:.0f} of {whole:.0f} tokens were generated")
    assert 0 < missing < len(asked)
    assert cut < 0.7 * whole
    assert rollouts.losses == []


def test_one_server_is_killed_while_both_answer(pair, models):
    """All prompts are answered once; the other server never stops; both then serve the pushed weights."""
    b = models["b"][1]
    tensors = {name: p for name, p in b.state_dict().items() if name != "lm_head.weight"}
    sender, said = WeightSender(pair.servers), [TensorInfo.of(n, t) for n, t in tensors.items()]
    sender.push(said, iter(tensors.items()), 1)
    asked = prompts(60)
    sampling = Sampling(n=4, max_tokens=100, stop_token_ids=(END,))
    expected = tokens(pair.generate(asked, sampling))

    starts = [server.starts for server in pair.servers]
    pid = pair.servers[0].state()["pid"]
    seen, meanwhile, down = [], [], threading.Event()

    def resync(servers):
        assert servers == pair.servers[:1]
        down.clear()
        sender.push(said, iter(tensors.items()), 1, servers)

    pair.resync, pair.on_loss = resync, lambda cause: down.set()

    def note(answer):
        seen.append(answer[0].prompt_id)
        if len(seen) == 4:
            os.kill(pid, signal.SIGKILL)
        if down.is_set():
            meanwhile.append(answer[0].prompt_id)

    got = pair.generate(asked, sampling, note)
    assert sorted(seen) == sorted(prompt.id for prompt in asked)
    assert meanwhile
    (cause,) = pair.losses
    assert "killed by SIGKILL" in cause
    assert [server.starts for server in pair.servers] == [starts[0] + 1, starts[1]]
    assert tokens(got) == expected
    # the restarted one has the pushed weights, not its folder's
    assert tokens(Rollouts(pair.servers[:1]).generate(asked, sampling)) == expected
