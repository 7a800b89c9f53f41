# SPDX-License-Identifier: Apache-2.0
"""The sender against a stand-in for vLLM that receives through the real gloo group."""

import time
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch", reason="the trainer environment's tests")

from reasongrm_nemo.errors import UserError  # noqa: E402
from reasongrm_nemo.rollout import RolloutServerLost, TensorInfo, WeightSender  # noqa: E402
from reasongrm_nemo.rollout.group import Group, open_store  # noqa: E402

TENSORS = {
    "a.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "b.weight": torch.linspace(-1, 1, 5, dtype=torch.bfloat16),
    "c.scale": torch.tensor(7.0),
    "d.slice": torch.arange(12.0).reshape(3, 4)[:, 1:3],  # not contiguous
}


class Receiver:
    """vLLM's routes, received as its plug-in receives."""

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
        store = open_store(info["master_host"], info["world_size"], info["timeout_s"], info["master_port"])
        self.group = Group("gloo", store, 1, info["world_size"], info["timeout_s"])
        return 200, b"{}"

    def receive(self, body):
        info = body["update_info"]
        self.calls.append(("receive", None))
        for name, dtype, shape in zip(info["names"], info["dtype_names"], info["shapes"], strict=True):
            self.got[name] = torch.empty(shape, dtype=getattr(torch, dtype))
            self.group.wait(self.group.broadcast(self.got[name]))
        return 200, b"{}"


class Handle:
    """A server's, as the sender knows it."""

    def __init__(self, fake, transfer, stall):
        self.url, self.token, self.starts, self.forgot = fake.url, "secret", 1, False
        self.settings = SimpleNamespace(weight_transfer=transfer, stall_timeout_s=stall)

    def forget_weights(self):
        self.forgot = True

    def wake(self, tag):
        pass


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
    assert server.forgot

    sender.push(metadata(), iter(TENSORS.items()), version=4)  # they have met
    assert [c[0] for c in receiver.calls].count("meet") == 1
    server.starts = 2  # a new server
    sender.push(metadata(), iter(TENSORS.items()), version=5)
    assert [c[0] for c in receiver.calls].count("meet") == 2


def test_resend(fake):
    receiver, server = Receiver(fake), handle(fake)
    sender = WeightSender([server], keep_copy=True)
    with pytest.raises(RuntimeError, match="earlier push"):
        sender.resend()
    tensors = {name: tensor.clone() for name, tensor in TENSORS.items()}
    sender.push(metadata(tensors), iter(tensors.items()), 1)
    for tensor in tensors.values():
        tensor.zero_()
    receiver.got.clear()
    server.starts = 2
    sender.resend()
    assert all(torch.equal(receiver.got[name], tensor) for name, tensor in TENSORS.items())


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
def test_failure_is_a_loss_and_the_tensors_are_used_up(fake, path, answer, words):
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
    with pytest.raises(RolloutServerLost, match=r"lost while it was sent|did not answer /update_weights"):
        WeightSender([handle(fake, stall=2.0)]).push(metadata(big), iter(big.items()), 1)


def test_a_receiver_that_hangs(fake):
    Receiver(fake)
    fake.delay.clear()
    fake.routes["/update_weights"] = lambda body: (fake.delay.wait(30), (200, b"{}"))[1]
    begin = time.monotonic()
    with pytest.raises(RolloutServerLost, match=r"within 1 s|lost while"):
        WeightSender([handle(fake, stall=1.0)]).push(metadata(), iter(TENSORS.items()), 1)
    assert time.monotonic() - begin < 6


def test_nobody_there(fake):
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
    with pytest.raises(ValueError, match=r"announced|ended before"):
        WeightSender([handle(fake, stall=1.0)]).push(said, iter(tensors.items()), 1)


@pytest.mark.parametrize("transfer", ["nccl", "ipc"])
def test_gpu_transports_are_refused_without_one(fake, transfer):
    with pytest.raises(UserError, match=f"weight_transfer is {transfer}, but torch finds no GPU"):
        WeightSender([handle(fake, transfer)])
