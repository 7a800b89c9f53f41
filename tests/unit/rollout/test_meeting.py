# SPDX-License-Identifier: Apache-2.0
"""Where ranks meet, who can connect there, and which objects are accepted from them."""

import io
import os
import pickle
import sys

import pytest

torch = pytest.importorskip("torch", reason="the trainer environment's tests")

from listeners import listening, open_to_strangers  # noqa: E402
from torch.distributed import distributed_c10d as c10d  # noqa: E402

from reasongrm_nemo.errors import UserError  # noqa: E402
from reasongrm_nemo.processes import meeting  # noqa: E402
from reasongrm_nemo.recipe.load import load_recipe, recipes_root  # noqa: E402
from reasongrm_nemo.rollout import RolloutSettings  # noqa: E402
from reasongrm_nemo.rollout.server import settings as settings_module  # noqa: E402
from reasongrm_nemo.rollout.server.settings import HOST  # noqa: E402


def test_a_store_listens_on_its_address_alone():
    store = meeting.listen("127.0.0.2", 0, 2, 5.0)
    (where,) = [where for _, where in listening([os.getpid()]) if where.endswith(f":{store.port}")]
    assert where == f"tcp 127.0.0.2:{store.port}"
    other = meeting.join(None, "127.0.0.2", store.port, 2, 5.0)
    other.set("a", "b")
    assert store.get("a") == b"b"
    with pytest.raises(OSError, match="in use"):
        meeting.listen("127.0.0.2", store.port, 2, 5.0)


def test_a_meeting_file_is_private_and_goes_with_its_owner():
    file = meeting.PrivateFile()
    assert file.path.parent.stat().st_mode & 0o777 == 0o700
    first, second = (meeting.join(str(file.path), "", 0, 2, 5.0) for _ in range(2))
    first.set("a", "b")
    assert second.get("a") == b"b"
    file.close()
    assert not file.path.parent.exists()


def test_ranks_without_a_key_do_not_meet(monkeypatch):
    for name, value in (
        ("RANK", "0"),
        ("WORLD_SIZE", "2"),
        ("MASTER_ADDR", "127.0.0.1"),
        ("MASTER_PORT", "1"),
    ):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("REASONGRM_RUN_KEY", raising=False)
    with pytest.raises(UserError, match="REASONGRM_RUN_KEY is not set"):
        meeting.init_ranks("gloo")


class Trap:
    """Fails the test when it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("an unsigned object was unpickled",)


def test_only_whole_objects_with_the_runs_signature_are_unpickled(monkeypatch):
    for name in ("_pickler", "_unpickler"):
        monkeypatch.setattr(c10d, name, getattr(c10d, name))
    meeting.sign_objects("another run's key")
    foreign, size = c10d._object_to_tensor(Trap(), "cpu", None)
    meeting.sign_objects("the run's key")
    value = {"a": [1, None, "x"]}
    tensor, size = c10d._object_to_tensor(value, "cpu", None)
    assert c10d._tensor_to_object(tensor, size, None) == value
    data, trap = tensor.numpy().tobytes(), pickle.dumps(Trap())
    forged = [
        b"",
        b"\0",
        trap,
        bytes(31),
        bytes(32),
        bytes(32) + trap,
        data[:32] + trap,
        trap + data,
        data + trap,
    ]
    forged += [
        data[:-1],
        data[1:],
        data + b"\0",
        data[32:],
        data[:32],
        data[:16] + data,
        foreign.numpy().tobytes(),
    ]
    for place in (0, 15, 31, 32, 40, len(data) - 1):
        forged.append(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    for message in forged:
        with pytest.raises(RuntimeError, match="lacks the run's signature"):
            c10d._unpickler(io.BytesIO(message)).load()


def test_sockets_that_the_listing_calls_open_to_strangers():
    sockets = {("x", where) for where in ("tcp 127.0.0.1:5", "tcp 0.0.0.0:6", "tcp6 :::7", "tcp 10.0.0.1:8")}
    sockets |= {("x", "udp 0.0.0.0:9"), ("x", "unix @abstract"), ("x", "unix /gone"), ("agent", "tcp6 :::10")}
    wrong = open_to_strangers(sockets, {"127.0.0.1"}, guarded=("agent",))
    assert {entry.split(" of ")[0] for entry in wrong} == {
        "tcp 0.0.0.0:6", "tcp6 :::7", "tcp 10.0.0.1:8", "udp 0.0.0.0:9", "unix @abstract"
    }  # fmt: skip


def test_a_servers_workers_meet_at_its_address_whatever_the_environment_says(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "eth7")
    monkeypatch.setenv("REASONGRM_ROLLOUT_PYTHON", sys.executable)
    settings = RolloutSettings.from_config(load_recipe(recipes_root() / "tiny/1_grpo_zero.yaml", []))
    here = settings.environment("token")
    assert (here["GLOO_SOCKET_IFNAME"], here["NCCL_SOCKET_IFNAME"], here["VLLM_HOST_IP"]) == (
        "lo",
        "lo",
        HOST,
    )
    # on another node the site's choice (launch/site.env) wins; without one, the interface of the address
    there = settings.environment("token", "10.0.0.1")
    assert (there["GLOO_SOCKET_IFNAME"], there["VLLM_HOST_IP"]) == ("eth7", "10.0.0.1")
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    monkeypatch.setattr(settings_module, "interface_of", {"10.0.0.1": "ib0"}.get)
    assert settings.environment("token", "10.0.0.1")["GLOO_SOCKET_IFNAME"] == "ib0"
