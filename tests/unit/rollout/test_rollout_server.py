# SPDX-License-Identifier: Apache-2.0
import json
import os
import signal
import socket
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.rollout import RolloutServer, RolloutServerLost, RolloutSettings
from reasongrm_nemo.rollout.http import call
from reasongrm_nemo.rollout.server.hosts import AgentStep

ROOT = Path(__file__).parents[3]

# Stands where vLLM's API server stands: says its arguments and its environment, and notes what is posted.
SERVER = """
import json, os, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
mode = os.environ.get("MODE", "")
args = dict(zip(sys.argv[1::2], sys.argv[2::2]))
print("INFO 01-01 00:00:00 [a.py:1] starting", flush=True)
if mode == "fails":
    print("(EngineCore pid=3) ERROR 01-01 00:00:00 [core.py:1] ValueError: head size 16 is not supported")
    print("RuntimeError: Engine core initialization failed. See root cause above.")
    sys.exit(1)
if mode == "once" and not os.path.exists(os.environ["FLAG"]):
    open(os.environ["FLAG"], "w").close()
    print("(EngineCore pid=3) ERROR 01-01 00:00:00 [core.py:1] Traceback (most recent call last):")
    print("(EngineCore pid=3) ERROR 01-01 00:00:00 [core.py:1] OSError: no device is free")
    print("WARNING 01-01 00:00:00 [w.py:1] ImportError: nice_to_have is missing")
    print("RuntimeError: Engine core initialization failed. See root cause above.")
    print("Loading shards: 40% done", flush=True)
    os.kill(os.getpid(), 9)
if mode == "quiet":
    print("WARNING 01-01 00:00:00 [w.py:1] something is odd")
    print("Loading shards: 40% done", flush=True)
    os.kill(os.getpid(), 9)
if mode == "race" and not os.path.exists(os.environ["FLAG"]):
    open(os.environ["FLAG"], "w").close()
    print("OSError: [Errno 98] address already in use")
    sys.exit(1)
if mode == "slow":
    time.sleep(60)
class Handler(BaseHTTPRequestHandler):
    def log_message(self, *a): pass
    def do_GET(self):
        ok = self.headers.get("Authorization") == "Bearer " + os.environ["VLLM_API_KEY"]
        body = json.dumps({"argv": sys.argv[1:], "env": sorted(os.environ)}).encode()
        self.send_response(200 if ok else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_POST(self):
        size = int(self.headers.get("Content-Length") or 0)
        with open(os.environ["POSTS"], "a") as out:
            out.write(self.path + " " + self.rfile.read(size).decode() + "\\n")
        if mode == "noreload" and "collective" in self.path:
            self.send_response(500); self.end_headers(); return
        body = b'{"success": true}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
ThreadingHTTPServer((args["--host"], int(args["--port"])), Handler).serve_forever()
"""


@pytest.fixture
def make(tmp_path):
    """A function that makes a server whose vLLM is the one above."""
    package = tmp_path / "fake" / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    for folder in (package, package.parent, package.parent.parent):
        (folder / "__init__.py").touch()
    (package / "api_server.py").write_text(textwrap.dedent(SERVER))
    made = []

    def build(mode="", host=None, **changes):
        env = {"PYTHONPATH": f"{tmp_path / 'fake'}:{ROOT}", "MODE": mode}
        env |= {"POSTS": str(tmp_path / "posts"), "FLAG": str(tmp_path / "flag")}
        values = {
            "python": sys.executable,
            "platform": "cpu",
            "weight_transfer": "gloo",
            "dtype": "fp32",
            "max_model_len": 64,
            "trust_remote_code": False,
            "max_num_seqs": 8,
            "kv_cache_gib": 0.5,
            "enforce_eager": True,
            "tensor_parallel": 1,
            "threads": 1,
            "port": None,
            "concurrency": 4,
            "stall_timeout_s": 5,
            "start_timeout_s": 20,
            "extra_env": env,
        }
        settings = RolloutSettings(**(values | changes))
        log = tmp_path / "logs" / "server.log"
        server = RolloutServer(settings, model(tmp_path / "model"), log, host=host)
        made.append(server)
        return server

    yield build
    for server in made:
        server.stop(grace_s=0)


def model(folder, **changes):
    folder.mkdir(exist_ok=True)
    config = {"architectures": ["Qwen2ForCausalLM"], "hidden_size": 8, "num_attention_heads": 2}
    (folder / "config.json").write_text(json.dumps(config | changes))
    (folder / "model.safetensors").write_bytes(os.urandom(8))
    return folder


def info(server):
    return call(server.url, server.token, "GET", "/health", 5)


def posts(tmp_path):
    file = tmp_path / "posts"
    return file.read_text().splitlines() if file.exists() else []


def test_starts_and_stops(make, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("MASTER_ADDR", "elsewhere")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with make() as server:
        server.check()
        said = info(server)
        token, pid = server.token, server.state()["pid"]
        assert "--api-key" not in said["argv"] and token not in " ".join(said["argv"])
        assert said["argv"][said["argv"].index("--host") + 1] == "127.0.0.1"
        assert {"VLLM_API_KEY", "MODE"} <= set(said["env"])
        assert not {"RANK", "MASTER_ADDR", "SLURM_JOB_ID"} & set(said["env"])
        assert oct(server.spec().stat().st_mode & 0o777) == "0o600"
    assert not server.is_alive()
    assert not Path(f"/proc/{pid}").exists()
    assert token not in server.spec().read_text()
    with pytest.raises(RolloutServerLost, match="not running"):
        server.check()


def test_start_does_nothing_when_running(make):
    with make() as server:
        server.start()
        assert server.starts == 1


def test_port_taken(make):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=rf"Port {port} \(rollout.port\) is already taken"):
            make(port=port).start()


def test_fixed_port_is_used(make):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
    with make(port=port) as server:
        assert server.url.endswith(f":{port}")


def test_free_port_lost_to_another_process_is_tried_again(make):
    with make(mode="race") as server:
        assert server.starts == 2


def test_failed_start_says_why(make, tmp_path):
    server = make(mode="fails")
    with pytest.raises(UserError) as caught:
        server.start()
    message = str(caught.value)
    assert "ended with status 1 while starting" in message
    assert "ValueError: head size 16 is not supported" in message
    assert str(tmp_path / "logs" / "server.log") in message
    assert "\n" not in message and not server.is_alive()


def test_a_start_that_fails_is_tried_once_more_and_told(make, tmp_path):
    told = []
    server = make(mode="once")
    server.on_failed_start = told.append
    with server:
        assert server.starts == 2
    assert told == [
        "The rollout server was killed by SIGKILL, probably out of memory while starting (log: "
        f"{server.log_path}); its last error: OSError: no device is free. It is started once more."
    ]
    assert f"reasongrm: {told[0]}" in server.log_path.read_text()


def test_no_warning_and_no_progress_is_quoted_as_an_error(make):
    server = make(mode="quiet")
    with pytest.raises(UserError) as caught:
        server.start()
    said = str(caught.value)
    assert said.startswith("The rollout server was killed by SIGKILL, probably out of memory while starting")
    assert said.endswith(f"(log: {server.log_path}). It was tried twice.") and server.starts == 2


def test_start_timeout(make):
    begin = time.monotonic()
    server = make(mode="slow", start_timeout_s=1.0)
    with pytest.raises(UserError, match=r"was not ready after \d+ s \(rollout.start_timeout_s\)"):
        server.start()
    assert time.monotonic() - begin < 30
    assert not server.is_alive()


def test_environment_without_this_package(make, tmp_path):
    server = make()
    settings = server.settings
    settings.extra_env["PYTHONPATH"] = ""
    # -S hides what is installed; a wrapper stands for the interpreter of such an environment.
    wrapper = tmp_path / "python"
    wrapper.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    wrapper.chmod(0o755)
    object.__setattr__(settings, "python", str(wrapper))
    with pytest.raises(UserError, match=r"lacks this package or vLLM .*install"):
        server.start()


def test_missing_model(make, tmp_path):
    server = make()
    (tmp_path / "model" / "config.json").unlink()
    with pytest.raises(UserError, match=r"has no config\.json"):
        server.start()
    with pytest.raises(UserError, match=r"has no config\.json"):
        server.use(tmp_path)


def until_gone(server):
    deadline = time.monotonic() + 30
    while server.is_alive():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_killed_server_is_noticed(make):
    with make() as server:
        pid = server.state()["pid"]
        os.kill(pid, signal.SIGKILL)
        until_gone(server)
        with pytest.raises(RolloutServerLost, match=rf"process {pid}\) was killed by SIGKILL"):
            server.check()
        assert server.vanished()
        # not where it died with the process that had started it, as at the end of a trainer's rank
        server._write(parent=[os.getpid(), 1])
        assert not server.vanished()
        server.start()
        assert not server.vanished()
    assert not server.vanished(), "it was stopped"


def test_a_start_that_is_over_is_not_killed_in_its_successor(make):
    with make() as server:
        server.restart()
        server.kill(1)
        assert server.is_alive() and server.starts == 2
        server.kill(2)
        assert not server.is_alive()


def test_cause_of_a_loss(make):
    loss = RolloutServerLost("The rollout server failed with status 500: no.")
    with make() as server:
        with server.log_path.open("a") as log:
            log.write("(Worker pid=1) ERROR 01-01 00:00:00 [w.py:1] RuntimeError: out of luck\nhello\n")
        assert server.cause_of(loss) == f"{str(loss)[:-1]}; it last said: RuntimeError: out of luck."
        os.kill(server.state()["pid"], signal.SIGKILL)
        assert server.cause_of(loss).endswith("was killed by SIGKILL, probably out of memory.")


def test_another_handle_follows_a_restart(make):
    with make() as server:
        other = RolloutServer.from_spec(server.spec())
        assert (other.url, other.token, other.starts) == (server.url, server.token, 1)
        assert other.settings == server.settings
        before = server.token
        other.restart()
        assert other.token != before
        assert (other.url, other.token, other.starts) == (server.url, server.token, 2)
        server.check()


def test_a_new_server_forgets_an_old_file(make):
    server = make()
    spec = server.spec()
    spec.write_text(json.dumps(server.state() | {"pid": os.getpid(), "ticks": 1}))
    assert make().state()["pid"] == 0


def test_threads_lose_nothing_that_another_wrote(make):
    server = make()
    handles = {"model_dir": server, "weights": RolloutServer.from_spec(server.spec())}

    def write(name):
        for count in range(500):
            handles[name]._write(**{name: str(count)})
            assert server.state()["log_path"] == str(server.log_path)
            assert handles[name].state()[name] == str(count)
        return name

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(write, handles)) == list(handles)
    assert {name: server.state()[name] for name in handles} == dict.fromkeys(handles, "499")
    assert not list(server.spec().parent.glob("*.tmp"))
    left = server.spec().with_name(server.spec().name + ".killed.tmp")
    left.touch()
    make()
    assert not left.exists()


def test_not_a_spec_file(tmp_path):
    file = tmp_path / "x.json"
    with pytest.raises(UserError, match="does not describe"):
        RolloutServer.from_spec(file)
    file.write_text("{}")
    with pytest.raises(UserError, match="does not describe"):
        RolloutServer.from_spec(file)


def test_use_reloads_in_place(make, tmp_path):
    other = model(tmp_path / "other", transformers_version="9", torch_dtype="float32")
    with make() as server:
        server.use(tmp_path / "model")  # what it was started with
        assert posts(tmp_path) == []
        server.use(other)
        assert server.starts == 1 and server.model_dir == other
        first, second, third = posts(tmp_path)
        assert json.loads(first.split(" ", 1)[1]) == {
            "method": "reload_weights",
            "kwargs": {"weights_path": str(other)},
        }
        assert second.startswith("/reset_prefix_cache?reset_running_requests=true")
        # not the version of what a trainer pushed before
        assert third == '/update_weight_version {"new_version": "folder"}'
        server.use(other)
        assert len(posts(tmp_path)) == 3
        model(tmp_path / "other")  # other weights in the same folder
        server.use(other)
        assert len(posts(tmp_path)) == 6
        server.forget_weights()  # a trainer pushed others
        server.use(other)
        assert len(posts(tmp_path)) == 9 and server.starts == 1


def test_use_restarts_for_another_shape(make, tmp_path):
    other = model(tmp_path / "other", hidden_size=16)
    with make() as server:
        server.use(other)
        assert server.starts == 2 and server.model_dir == other
        assert posts(tmp_path) == []


def test_use_restarts_when_reloading_fails(make, tmp_path):
    other = model(tmp_path / "other")
    with make(mode="noreload") as server:
        server.use(other)
        assert server.starts == 2 and server.model_dir == other


def test_use_starts_what_does_not_run(make, tmp_path):
    server = make()
    server.use(model(tmp_path / "other"))
    assert server.is_alive() and server.starts == 1


def test_use_after_the_process_that_restarted_it_ended(make):
    with make() as server:
        os.kill(server.state()["pid"], signal.SIGKILL)
        until_gone(server)
        server.use(server.model_dir)
        server.check()
        assert server.starts == 2


def test_sleep_and_wake(make, tmp_path):
    with make() as server:
        server.wake("weights")  # awake: nothing to do
        server.sleep()
        server.sleep()
        assert server.asleep and RolloutServer.from_spec(server.spec()).asleep
        server.wake("weights")
        assert server.asleep  # its cache still is
        server.wake("kv_cache")
        assert not server.asleep
        assert [line.split()[0] for line in posts(tmp_path)] == [
            "/sleep?level=2",
            "/wake_up?tags=weights",
            "/wake_up?tags=kv_cache",
        ]
        server.sleep()
        server.restart()
        assert not server.asleep


def test_use_of_a_sleeping_server_loads_its_weights_again(make, tmp_path):
    with make() as server:
        server.sleep()
        server.use(tmp_path / "model")
        assert server.starts == 1 and not server.asleep
        assert [line.split()[0] for line in posts(tmp_path)] == [
            "/sleep?level=2",
            "/wake_up",
            "/collective_rpc",
            "/reset_prefix_cache?reset_running_requests=true",
            "/update_weight_version",
        ]


# ---- on another node: the agent is a child here, as srun's task is one there


@pytest.fixture
def agent(make, tmp_path, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    settings = make().settings
    step = AgentStep(AGENT, settings, "node7", tmp_path / "logs" / "server.log", 20)
    yield step
    step.close()


AGENT = [sys.executable, "-m", "reasongrm_nemo.rollout.server.agent"]


def test_a_server_on_a_node_is_started_watched_and_ended_through_its_agent(make, agent):
    server = make(host=agent.host)
    with server:
        server.check()
        other = RolloutServer.from_spec(server.spec())  # a trainer rank's handle
        pid = other.state()["pid"]
        assert other.is_alive() and Path(f"/proc/{pid}").exists()
        os.kill(pid, signal.SIGKILL)
        while other.is_alive():
            time.sleep(0.02)
        with pytest.raises(RolloutServerLost, match="was killed by SIGKILL"):
            other.check()
        other.restart()
        server.check()
        assert server.starts == 2
        again = server.state()["pid"]
    assert not Path(f"/proc/{again}").exists()


def test_the_end_of_the_run_ends_agent_and_server(make, agent):
    server = make(host=agent.host)
    server.start()
    pid = server.state()["pid"]
    agent.close()
    assert not Path(f"/proc/{pid}").exists()
    assert not server.is_alive()
    with pytest.raises(RolloutServerLost, match="is gone with its node node7"):
        server.check()


def test_an_agent_obeys_its_token_alone_and_starts_nothing_else(agent):
    url, token = agent.host.url, agent.host.token
    for path, known, status in (("/start", "wrong", 401), ("/spawn", token, 404)):
        with pytest.raises(RolloutServerLost, match=f"status {status}"):
            call(url, known, "POST", path, 5, {"command": ["true"]})
    with pytest.raises(RolloutServerLost, match="status 500"):
        call(url, token, "POST", "/start", 5, {"command": ["true"]})


def test_an_agent_that_does_not_start_says_why(make, tmp_path):
    (tmp_path / "logs").mkdir(exist_ok=True)
    command = ["sh", "-c", "echo srun: error: no such node >&2"]
    with pytest.raises(UserError, match=r"did not start on node7 .*srun: error: no such node"):
        AgentStep(command, make().settings, "node7", tmp_path / "logs" / "server.log", 20)
