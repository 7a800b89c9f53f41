# SPDX-License-Identifier: Apache-2.0
"""Buckets in a shared buffer without CUDA: a stand-in returns what torch's `reduce_tensor` returns."""

import json
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch", reason="the trainer environment's tests")

from reasongrm_nemo.rollout import TensorInfo  # noqa: E402
from reasongrm_nemo.rollout.weights import ipc  # noqa: E402
from reasongrm_nemo.rollout.weights.transports import IpcConnection, IpcTransport, Posts  # noqa: E402

TENSORS = {
    "a.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "b.weight": torch.linspace(-1, 1, 5, dtype=torch.bfloat16),
    "c.big": torch.randn(40, 40, generator=torch.Generator().manual_seed(0)),
    "d.slice": torch.arange(12.0).reshape(3, 4)[:, 1:3],  # not contiguous
    "e.scale": torch.tensor(7.0),
}
INFOS = [TensorInfo.of(name, tensor) for name, tensor in TENSORS.items()]


class Shared:
    """Stand-in for the memory that an IPC handle names."""

    def __init__(self):
        self.exports = []

    def reduce(self, tensor):
        """Arguments in the order of torch 2.13's `reduce_tensor`."""
        self.exports.append(tensor)
        size = tensor.numel()
        arguments = (torch.Tensor, tensor.size(), tensor.stride(), 0, torch.UntypedStorage, torch.uint8, 3)
        return None, (*arguments, b"\x00handle\xff", size, 512, False, b"counter", 40, b"event", True)


def fill(limit):
    shared = Shared()
    made = ipc.buckets(INFOS, iter(TENSORS.items()), torch.device("cpu"), "GPU-7", shared.reduce, limit)
    return shared, made


@pytest.mark.parametrize("limit", [1, 1024, 1 << 20])
def test_every_tensor_arrives_whatever_the_bucket_size(limit):
    shared, made = fill(limit)
    got, sizes, unpacking = {}, [], ipc.Unpacking()
    for bucket in made:
        info = json.loads(json.dumps(bucket.update_info()))
        (buffer,) = shared.exports
        sizes.append(len(info["names"]))
        got |= dict(unpacking.tensors(buffer, info))
    assert list(got) == list(TENSORS)
    assert all(torch.equal(got[name], tensor) for name, tensor in TENSORS.items())
    nbytes = sum(info.nbytes for info in INFOS)
    assert sizes == {1: [1] * nbytes, 1024: [2, 1, 1, 1, 1, 1, 1, 3], 1 << 20: [5]}[limit]
    # at most the limit, however large a tensor, and at most all tensors; plus the byte that marks the release
    assert shared.exports[0].numel() == {1: 1, 1024: 1024, 1 << 20: 256 + 256 + 6400 + 256 + 4}[limit] + 1


def test_copies_outlive_the_buffer():
    shared, made = fill(1 << 20)
    (bucket,) = made
    got = dict(ipc.Unpacking().tensors(shared.exports[0], bucket.update_info()))
    shared.exports[0].zero_()
    assert torch.equal(got["c.big"], TENSORS["c.big"])


def test_ranks_meet_in_the_group_that_is_given(monkeypatch):
    """Twice per bucket and once for the handles: in NCCL's default group each would cost the GPU."""
    met = []

    def gather(parts, mine, group):
        met.append(group)
        parts[0] = mine

    monkeypatch.setattr(ipc.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(ipc.dist, "get_world_size", lambda group: 1)
    monkeypatch.setattr(ipc.dist, "barrier", met.append)
    monkeypatch.setattr(ipc.dist, "all_gather_object", gather)
    shared = Shared()
    made = ipc.buckets(
        INFOS, iter(TENSORS.items()), torch.device("cpu"), "GPU-7", shared.reduce, 1024, group="gloo"
    )
    count = len(list(made))
    assert count > 1 and met == ["gloo"] * (1 + 2 * count)


def test_the_next_bucket_waits_for_the_last_to_be_read():
    """The buffer keeps its content until the next bucket is requested."""
    shared, made = fill(1024)
    first = next(made)
    before = shared.exports[0].clone()
    assert [piece.info.name for piece in first.pieces] == ["a.weight", "b.weight"]
    assert torch.equal(shared.exports[0], before)
    next(made)
    assert not torch.equal(shared.exports[0], before)


class Counted(Shared):
    """Torch's reference count of every export: 1 at first, 1 less per release; memory is free only at 0."""

    def __init__(self):
        super().__init__()
        self.counts = []

    def reduce(self, tensor):
        function, arguments = super().reduce(tensor)
        self.counts.append(1)
        return function, (*arguments[:12], len(self.counts) - 1, *arguments[13:])

    def release(self, counter, place, device):
        assert (counter, device) == (b"counter", 3)
        self.counts[place] -= 1

    def import_and_let_go(self):
        """What a worker does at the end of its update."""
        ipc.mark_let_go(self.exports[-1])
        self.release(b"counter", len(self.counts) - 1, 3)


ENDS = {
    "answered": (Counted.import_and_let_go, [0]),
    "nobody imported, or the worker was killed": (lambda shared: None, [1]),
}


@pytest.mark.parametrize("ends", [["answered"] * 10, [*ENDS] * 3, [*reversed(ENDS)] * 3, [[*ENDS][1]] * 10])
def test_no_push_leaves_memory_behind(ends):
    """Memory stays flat over ten pushes: every count reaches 0 and never falls below."""
    shared = Counted()
    exports = ipc.Exports(shared.reduce, shared.release)
    for end in ends:
        exports.let_go()
        assert {*shared.counts} <= {0}, "what was exported before is free"
        made = ipc.buckets(INFOS, iter(TENSORS.items()), torch.device("cpu"), "GPU-7", exports, 1024)
        for bucket in made:
            place = bucket.handles["GPU-7"]["ref_counter_offset"]
            assert shared.counts[place] == 1, "it must be kept while workers may read it"
        finish, left = ENDS[end]
        finish(shared)
        exports.settle()
        assert shared.counts[place:] == left
        # also freed after the push: only the test still refers to the buffer
        assert (exports._last is None) == (left == [0])
    exports.let_go()
    assert shared.counts == [0] * len(ends)


def test_the_transport_frees_memory_before_it_allocates(monkeypatch):
    """Torch's functions are called with the right arguments, and memory is freed before more is taken."""
    order, made, arguments = [], [], Shared().reduce(torch.zeros(8, dtype=torch.uint8))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: SimpleNamespace(uuid=f"GPU-{i}"))
    monkeypatch.setattr(torch.cuda, "ipc_collect", lambda: order.append("collect"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: order.append("empty"))
    monkeypatch.setattr(ipc, "meet", lambda device, group: order.append(group))
    monkeypatch.setattr("torch.multiprocessing.reductions.reduce_tensor", lambda buffer: arguments)
    monkeypatch.setattr(
        torch.UntypedStorage,
        "_release_ipc_counter",
        lambda *counter, device: order.append((*counter, device)),
    )

    def buckets(infos, tensors, device, uuid, reduce, group):
        made.append(torch.zeros(8, dtype=torch.uint8))
        assert (uuid, reduce(made[-1]), group) == ("GPU-3", arguments, "gloo")
        order.append("share")
        yield from ()

    monkeypatch.setattr(ipc, "buckets", buckets)
    transport = IpcTransport("gloo")
    for _ in range(2):
        assert not list(transport.parcels(INFOS, TENSORS.items()))
    pushed = ["collect", "share", "empty", "gloo"]
    assert order == [*pushed, (b"counter", 40, 3), *pushed]
    ipc.mark_let_go(made[-1])
    transport.settle()
    assert not list(transport.parcels(INFOS, TENSORS.items()))
    assert order[9:] == ["collect", *pushed]


def test_a_handle_survives_json():
    """Another process rebuilds what torch gave, except for the number of the GPU there."""
    _, arguments = Shared().reduce(torch.zeros(600, dtype=torch.uint8))
    described = json.loads(json.dumps(ipc.describe_buffer(arguments)))
    rebuilt = ipc.rebuild_arguments(described, 5)
    assert rebuilt[6] == 5
    theirs = list(arguments)
    theirs[1], theirs[2], theirs[6] = tuple(theirs[1]), tuple(theirs[2]), 5
    assert list(rebuilt) == theirs


def test_arguments_are_in_the_order_of_torch():
    """The names of `rebuild_cuda_tensor`'s parameters, in this torch."""
    import inspect

    from torch.multiprocessing.reductions import rebuild_cuda_tensor

    names = list(inspect.signature(rebuild_cuda_tensor).parameters)
    assert [names[i] for i in (6, 7, 8, 9, 10, 11, 12, 13, 14)] == [
        "storage_device",
        "storage_handle",
        "storage_size_bytes",
        "storage_offset_bytes",
        "requires_grad",
        "ref_counter_handle",
        "ref_counter_offset",
        "event_handle",
        "event_sync_required",
    ]


@pytest.mark.parametrize("change", [{"handle": "not base64!"}, {"size": None}, {"event_handle": 3}])
def test_an_invalid_handle_is_refused(change):
    _, arguments = Shared().reduce(torch.zeros(8, dtype=torch.uint8))
    with pytest.raises((KeyError, TypeError, ValueError)):
        ipc.rebuild_arguments(ipc.describe_buffer(arguments) | change, 0)


def test_every_bucket_is_a_separate_update(fake):
    """So the buffer may be refilled as soon as the server has answered."""
    got, unpacking = [], ipc.Unpacking()
    shared, made = fill(1024)

    def update(body):
        info = body["update_info"]
        assert set(info["handles"]) == {"GPU-7"}
        got.extend(unpacking.tensors(shared.exports[0], info))
        return 200, b"{}"

    fake.routes["/update_weights"] = update
    settings = SimpleNamespace(stall_timeout_s=5.0)
    line = IpcConnection(Posts(SimpleNamespace(url=fake.url, token="secret", settings=settings)))
    line.begin(INFOS)
    for bucket in made:
        line.send(bucket)
        line.settle(bucket)
    line.end()
    assert [name for name, _ in got] == list(TENSORS)
    assert all(torch.equal(tensor, TENSORS[name]) for name, tensor in got)
