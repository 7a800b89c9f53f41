# SPDX-License-Identifier: Apache-2.0
"""The sender against a stand-in for vLLM that receives through the real gloo group."""

import os
import time
import weakref
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the trainer environment's tests")

from reasongrm_nemo.errors import UserError  # noqa: E402
from reasongrm_nemo.processes import meeting  # noqa: E402
from reasongrm_nemo.rollout import RolloutServerLost, TensorInfo, WeightSender  # noqa: E402
from reasongrm_nemo.rollout.weights.broadcast_group import BroadcastGroup, check_nccl, tensors_ahead  # noqa: E402

TENSORS = {
    "a.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "b.weight": torch.linspace(-1, 1, 5, dtype=torch.bfloat16),
    "c.scale": torch.tensor(7.0),
    "d.slice": torch.arange(12.0).reshape(3, 4)[:, 1:3],  # not contiguous
}


class Receiver:
    """vLLM's routes for weights, which receive as its plug-in does."""

    def __init__(self, fake):
        self.fake, self.group, self.got, self.calls = fake, None, {}, []
        ok = (200, b'{"success": true}')
        fake.routes["/get_world_size"] = lambda body: (200, b'{"world_size": 1}')
        fake.routes["/init_weight_transfer_engine"] = self.meet
        fake.routes["/update_weights"] = self.receive
        for path in (
            "/pause?mode=keep",
            "/start_weight_update",
            "/finish_weight_update",
            "/reset_prefix_cache?reset_running_requests=true",
            "/resume",
        ):
            fake.routes[path] = lambda body, path=path: self.calls.append((path.split("?")[0], body)) or ok

    def meet(self, body):
        info = body["init_info"]
        self.calls.append(("meet", None))
        host, world, timeout_s = info["master_host"], info["world_size"], info["timeout_s"]
        store = meeting.in_file(info["file"], world, timeout_s)
        self.group = BroadcastGroup("gloo", store, host, 1, world, timeout_s)
        return 200, b"{}"

    def receive(self, body):
        info = body["update_info"]
        self.calls.append(("receive", None))
        for name, dtype, shape in zip(info["names"], info["dtype_names"], info["shapes"], strict=True):
            self.got[name] = torch.empty(shape, dtype=getattr(torch, dtype))
            self.group.wait(self.group.broadcast(self.got[name]))
        return 200, b"{}"


class Handle:
    """What the sender uses of a server's handle."""

    def __init__(self, fake, transfer, stall):
        self.url, self.token, self.starts, self.forgot = fake.url, "secret", 1, False
        self.settings = SimpleNamespace(weight_transfer=transfer, stall_timeout_s=stall)
        self.calls = []

    def forget_weights(self):
        self.forgot = True

    def wake(self, tag):
        self.calls.append(("wake", tag))


def handle(fake, transfer="gloo", stall=3.0):
    return Handle(fake, transfer, stall)


def metadata(tensors=TENSORS):
    return [TensorInfo.of(name, tensor) for name, tensor in tensors.items()]


def test_push(fake):
    receiver, server = Receiver(fake), handle(fake)
    sender = WeightSender([server])
    sender.push(metadata(), iter(TENSORS.items()), version=3)
    assert list(receiver.got) == list(TENSORS)
    assert all(torch.equal(receiver.got[name], tensor) for name, tensor in TENSORS.items())
    assert [c[0] for c in receiver.calls] == [
        "meet",
        "/pause",
        "/start_weight_update",
        "receive",
        "/finish_weight_update",
        "/reset_prefix_cache",
        "/resume",
    ]
    assert dict(receiver.calls)["/finish_weight_update"] == {"weight_version": "3"}
    assert server.calls == [("wake", "weights"), ("wake", "kv_cache")]
    assert server.forgot

    sender.push(metadata(), iter(TENSORS.items()), version=4)  # the group exists already
    assert [c[0] for c in receiver.calls].count("meet") == 1
    server.starts = 2  # a new server
    sender.push(metadata(), iter(TENSORS.items()), version=5)
    assert [c[0] for c in receiver.calls].count("meet") == 2


def test_a_push_does_not_repeat_a_pause_begun_ahead(fake):
    receiver, server = Receiver(fake), handle(fake)
    sender = WeightSender([server])
    sender.pause()
    sender.push(metadata(), iter(TENSORS.items()), version=1)
    assert [c[0] for c in receiver.calls].count("/pause") == 1
    sender.push(metadata(), iter(TENSORS.items()), version=2)  # a pause ahead serves one push only
    assert [c[0] for c in receiver.calls].count("/pause") == 2

    sender.pause()
    server.starts = 2  # the paused server is gone
    sender.push(metadata(), iter(TENSORS.items()), version=3)
    assert [c[0] for c in receiver.calls].count("/pause") == 4


def test_no_tensor_is_sent_to_a_server_that_did_not_pause(fake):
    receiver, server = Receiver(fake), handle(fake)
    sender = WeightSender([server])
    fake.routes["/pause?mode=keep"] = lambda body: (500, b"engine dead")
    sender.pause()
    with pytest.raises(RolloutServerLost, match="engine dead"):
        sender.push(metadata(), iter(TENSORS.items()), version=1)
    assert [c[0] for c in receiver.calls] == ["meet"]


@pytest.mark.parametrize(
    ("path", "answer", "words"),
    [
        ("/update_weights", (500, b'{"error": {"message": "no such parameter: x"}}'), "no such parameter: x"),
        ("/start_weight_update", (500, b"already active"), "already active"),
        ("/init_weight_transfer_engine", (500, b"no engine"), "no engine"),
        ("/reset_prefix_cache?reset_running_requests=true", (200, b'{"success": false}'), "prefix cache"),
        ("/finish_weight_update", None, "did not answer /finish_weight_update"),
    ],
)
def test_a_failure_is_a_loss_and_all_tensors_are_consumed(fake, path, answer, words):
    Receiver(fake)
    fake.routes[path] = lambda body: answer
    taken = []
    tensors = ((taken.append(name), (name, tensor))[1] for name, tensor in TENSORS.items())
    with pytest.raises(RolloutServerLost, match=words):
        WeightSender([handle(fake, stall=1.0)]).push(metadata(), tensors, 1)
    assert taken == list(TENSORS)


def test_a_receiver_that_leaves_in_the_middle(fake):
    receiver = Receiver(fake)

    def leave(body):
        receiver.group.wait(receiver.group.broadcast(torch.empty(2, 3)))
        receiver.group = None
        return None

    fake.routes["/update_weights"] = leave
    big = {"a": TENSORS["a.weight"]} | {f"b{i}": torch.zeros(1 << 20) for i in range(8)}
    with pytest.raises(RolloutServerLost, match=r"lost while receiving|did not answer /update_weights"):
        WeightSender([handle(fake, stall=2.0)]).push(metadata(big), iter(big.items()), 1)


def test_a_receiver_that_hangs(fake):
    Receiver(fake)
    fake.delay.clear()
    fake.routes["/update_weights"] = lambda body: (fake.delay.wait(30), (200, b"{}"))[1]
    begin = time.monotonic()
    with pytest.raises(RolloutServerLost, match=r"within 1 s|lost while"):
        WeightSender([handle(fake, stall=1.0)]).push(metadata(), iter(TENSORS.items()), 1)
    assert time.monotonic() - begin < 20


def test_a_server_that_is_gone(fake):
    fake.close()
    with pytest.raises(RolloutServerLost, match="did not answer /get_world_size"):
        WeightSender([handle(fake)]).push(metadata(), iter(TENSORS.items()), 1)


@pytest.mark.parametrize("change", ["name", "dtype", "shape", "missing", "more"])
def test_tensors_must_be_those_announced(fake, change):
    Receiver(fake)
    said = metadata()
    tensors = dict(TENSORS)
    if change == "name":
        tensors = {f"x{name}": tensor for name, tensor in tensors.items()}
    elif change == "dtype":
        tensors["b.weight"] = tensors["b.weight"].float()
    elif change == "shape":
        tensors["b.weight"] = tensors["b.weight"][:2]
    elif change == "missing":
        del tensors["d.slice"]
    else:
        said = said[:-1]
    with pytest.raises(ValueError, match=r"expected|no tensor for"):
        WeightSender([handle(fake, stall=1.0)]).push(said, iter(tensors.items()), 1)


def test_a_sleeping_server_wakes_for_the_weights_then_for_the_cache(fake):
    """The KV cache wakes last, since it must not take the memory that loading needs."""
    receiver, server = Receiver(fake), handle(fake)
    server.calls = receiver.calls
    WeightSender([server]).push(metadata(), iter(TENSORS.items()), version=1)
    assert [c[1] if c[0] == "wake" else c[0] for c in receiver.calls] == [
        "meet",
        "weights",
        "/pause",
        "/start_weight_update",
        "receive",
        "/finish_weight_update",
        "kv_cache",
        "/reset_prefix_cache",
        "/resume",
    ]


# ---- several servers


@pytest.fixture
def two(fake, make_fake):
    """Two receivers and their handles."""
    fakes = [fake, make_fake()]
    return [Receiver(server) for server in fakes], [handle(server) for server in fakes]


def test_one_export_serves_all(two):
    receivers, servers = two
    taken = []
    tensors = ((taken.append(name), (name, tensor))[1] for name, tensor in TENSORS.items())
    WeightSender(servers).push(metadata(), tensors, 1)
    assert taken == list(TENSORS)
    for receiver in receivers:
        assert all(torch.equal(receiver.got[name], tensor) for name, tensor in TENSORS.items())


def test_memory_does_not_grow_with_the_model(two):
    """Alive at once: tensors in flight, the next one, and one for each group, whose thread releases late."""
    receivers, servers = two
    freed, most = [], []

    def tensors():
        for i in range(24):
            values = np.full(1000, i, dtype=np.float32)  # lives as long as a tensor's storage does
            weakref.finalize(values, freed.append, i)
            tensor = torch.from_numpy(values)
            del values
            most.append(i + 1 - len(freed))
            yield f"t{i}", tensor

    said = [TensorInfo(f"t{i}", torch.float32, (1000,)) for i in range(24)]
    WeightSender(servers).push(said, tensors(), 1)
    assert max(most) <= 2 + tensors_ahead("gloo") + len(servers)
    assert all(torch.equal(r.got["t23"], torch.full((1000,), 23.0)) for r in receivers)


@pytest.mark.parametrize("path", ["/start_weight_update", "/update_weights", "/finish_weight_update"])
def test_a_lost_server_is_named_and_the_others_have_the_weights(two, path):
    receivers, servers = two
    receivers[0].fake.routes[path] = lambda body: (500, b"out of luck")
    taken = []
    tensors = ((taken.append(name), (name, tensor))[1] for name, tensor in TENSORS.items())
    sender = WeightSender(servers)
    with pytest.raises(RolloutServerLost, match="out of luck") as caught:
        sender.push(metadata(), tensors, 1)
    assert caught.value.servers == (servers[0],)
    assert taken == list(TENSORS)
    assert all(torch.equal(receivers[1].got[name], tensor) for name, tensor in TENSORS.items())
    assert receivers[1].calls[-1][0] == "/resume"


def test_a_push_to_some_servers_alone(two):
    receivers, servers = two
    WeightSender(servers).push(metadata(), iter(TENSORS.items()), 1, servers[1:])
    assert not receivers[0].calls and list(receivers[1].got) == list(TENSORS)


@pytest.mark.parametrize("transfer", ["nccl", "ipc"])
def test_gpu_transports_are_refused_without_one(fake, transfer):
    with pytest.raises(UserError, match=f"weight_transfer is {transfer}, but torch finds no GPU"):
        WeightSender([handle(fake, transfer)])


def test_the_group_meets_at_the_address_where_the_server_sees_the_trainer(fake):
    seen = []
    receiver, server = Receiver(fake), handle(fake)
    fake.routes["/init_weight_transfer_engine"] = lambda body: (
        seen.append(body["init_info"]) or receiver.meet(body)
    )
    WeightSender([server]).push(metadata(), iter(TENSORS.items()), 1)
    assert seen[0]["master_host"] == "127.0.0.1" and seen[0]["world_size"] == 2


def test_an_nccl_group_outlives_its_peers(monkeypatch):
    """All but NCCL itself: blocking waits that raise, for this group alone, and any dtype as bytes."""
    made, sent = [], []

    class Work:
        def wait(self, timeout):
            sent.append(timeout.total_seconds())

    class FakeNccl:
        Options = SimpleNamespace

        def __init__(self, store, rank, world_size, options):
            made.append((rank, world_size, options._timeout.total_seconds()))
            assert os.environ["TORCH_NCCL_BLOCKING_WAIT"] == "1"

        def broadcast(self, tensor, root):
            sent.append((tensor.dtype, tensor.numel(), root))
            return Work()

    monkeypatch.delenv("TORCH_NCCL_BLOCKING_WAIT", raising=False)
    monkeypatch.setattr("torch.distributed.ProcessGroupNCCL", FakeNccl, raising=False)
    group = BroadcastGroup("nccl", meeting.listen("127.0.0.1", 0, 3, 4.0), "127.0.0.1", 0, 3, 4.0)
    assert made == [(0, 3, 4.0)] and "TORCH_NCCL_BLOCKING_WAIT" not in os.environ
    group.wait(group.broadcast(TENSORS["b.weight"]))
    assert sent == [(torch.uint8, 10, 0), 4.0]


def test_two_versions_of_nccl_are_refused_with_what_to_do():
    check_nccl([2, 26, 2], [2, 26, 2])
    with pytest.raises(RuntimeError, match=r"trainer's NCCL is 2.26.2, .* server's 2.29.7.*LD_PRELOAD"):
        check_nccl([2, 26, 2], [2, 29, 7])
