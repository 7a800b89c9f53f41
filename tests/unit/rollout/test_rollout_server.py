# SPDX-License-Identifier: Apache-2.0
import json
import os
import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from standin_vllm import info, until_gone

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.rollout import RolloutServer, RolloutServerLost


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


def test_a_jobs_server_finds_the_notes_of_vllm_from_an_earlier_job(make, tmp_path, monkeypatch):
    """Without the notes vLLM starts another process to inspect the model's class."""
    monkeypatch.setenv("REASONGRM_CACHE", str(tmp_path / "mine"))
    for job, variable, root in (
        ("first", "XDG_CACHE_HOME", "vllm"),
        ("second", "VLLM_CACHE_ROOT", ""),
    ):
        monkeypatch.setenv(variable, str(tmp_path / job))
        notes = tmp_path / job / root / "modelinfos"
        with make():
            assert notes.is_dir()
            if job == "second":
                assert (notes / "class.json").read_text() == "noted"
            (notes / "class.json").write_text("noted")
    monkeypatch.delenv("REASONGRM_CACHE")
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path / "no job"))
    with make():
        assert not (tmp_path / "no job").exists()


def test_start_does_nothing_when_running(make):
    with make() as server:
        server.start()
        assert server.starts == 1


def test_a_taken_port_is_refused(make):
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


def test_a_failed_start_is_reported_and_tried_once_more(make, tmp_path):
    told = []
    server = make(mode="once")
    server.on_failed_start = told.append
    with server:
        assert server.starts == 2
    assert told == [
        "The rollout server was killed by SIGKILL, probably out of memory while starting (log: "
        f"{server.log_path}); its last error: OSError: no device is free. Starting it once more."
    ]
    assert f"reasongrm: {told[0]}" in server.log_path.read_text()


def test_warnings_and_progress_are_not_quoted_as_errors(make):
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
    # -S hides installed packages, so this wrapper acts like the interpreter of such an environment.
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


def test_killed_server_is_noticed(make):
    with make() as server:
        pid = server.state()["pid"]
        os.kill(pid, signal.SIGKILL)
        until_gone(server)
        with pytest.raises(RolloutServerLost, match=rf"process {pid}\) was killed by SIGKILL"):
            server.check()
        assert server.vanished()
        # but not if the server died with the process that had started it, as when a trainer rank ends
        server._write(parent=[os.getpid(), 1])
        assert not server.vanished()
        server.start()
        assert not server.vanished()
    assert not server.vanished(), "it was stopped"


def test_killing_an_earlier_start_spares_its_successor(make):
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
        assert server.cause_of(loss) == f"{str(loss)[:-1]}; its last error: RuntimeError: out of luck."
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


def test_a_new_server_ignores_an_old_spec_file(make):
    server = make()
    spec = server.spec()
    spec.write_text(json.dumps(server.state() | {"pid": os.getpid(), "ticks": 1}))
    assert make().state()["pid"] == 0


def test_threads_do_not_undo_each_others_writes(make):
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


def test_a_file_that_is_not_a_spec_is_refused(tmp_path):
    file = tmp_path / "x.json"
    with pytest.raises(UserError, match="does not describe"):
        RolloutServer.from_spec(file)
    file.write_text("{}")
    with pytest.raises(UserError, match="does not describe"):
        RolloutServer.from_spec(file)
