# SPDX-License-Identifier: Apache-2.0
"""A rollout server switches to other weights, or sleeps."""

import json
import os
import signal

from standin_vllm import model, posts, until_gone

from reasongrm_nemo.rollout import RolloutServer


def test_use_reloads_in_place(make, tmp_path):
    other = model(tmp_path / "other", transformers_version="9", torch_dtype="float32")
    with make() as server:
        server.use(tmp_path / "model")  # the folder that the server was started with
        assert posts(tmp_path) == []
        server.use(other)
        assert server.starts == 1 and server.model_dir == other
        first, second, third = posts(tmp_path)
        assert json.loads(first.split(" ", 1)[1]) == {
            "method": "reload_weights",
            "kwargs": {"weights_path": str(other)},
        }
        assert second.startswith("/reset_prefix_cache?reset_running_requests=true")
        # so that the version of an earlier push does not remain
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


def test_use_starts_a_stopped_server(make, tmp_path):
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
        assert server.asleep  # its KV cache still sleeps
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


def test_use_of_a_sleeping_server_reloads_its_weights(make, tmp_path):
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
