# SPDX-License-Identifier: Apache-2.0
"""Time of a weight sync compared with copying the same bytes.

    python benchmarks/refit.py --model smollm2|tiny

A sync is what a GRPO step does: the Megatron weights are exported as Hugging Face tensors, one at a time, and
pushed to a running vLLM server, which loads them, drops its prefix cache and continues. In turn with the
sync, the same tensors are copied in memory, and sent through a loopback socket to another process.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from statistics import median
from typing import Any

from harness import HERE, Contender, answer, arguments, await_turn, grpo_recipe, listed, prepared, report

_CHUNK = 1 << 20


def sync_worker(order_path: str) -> None:
    """Run a trainer rank that pushes, exports, copies or sends its weights at each turn, as requested."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    from reasongrm_nemo.megatron.platform import load_platform
    from reasongrm_nemo.processes.work_order import WorkOrder

    order = WorkOrder.read(order_path)
    recipe = order.recipe
    platform = load_platform(recipe.cluster.platform)
    from reasongrm_nemo.grpo.actor import GRPOActor
    from reasongrm_nemo.grpo.source import RolloutSource
    from reasongrm_nemo.megatron import session as sessions
    from reasongrm_nemo.rollout import Rollouts

    sessions.quiet_libraries()
    session = sessions.start(platform, GRPOActor, recipe, recipe.grpo.optim, 1, order.model)
    rollouts = Rollouts.from_specs(order.servers)
    source = RolloutSource(
        rollouts, session.transfer, order.work / "rollouts", recipe.cluster.weight_transfer
    )
    tensors = [tensor.clone() for _, tensor in session.transfer.export()]
    target = [tensor.clone() for tensor in tensors]
    nbytes = sum(tensor.nbytes for tensor in tensors)
    far = Far()

    def export() -> None:
        for _ in session.transfer.export():
            pass

    def copy() -> None:
        for tensor, to in zip(tensors, target, strict=True):
            to.copy_(tensor)

    jobs = {"sync": source.push, "export": export, "copy": copy, "loopback": lambda: far.send(tensors)}
    answer(bytes=nbytes, tensors=len(tensors))
    while True:
        job = jobs[await_turn()]
        began = time.monotonic()
        job()
        answer(seconds=time.monotonic() - began)


class Far:
    """A process at the other end of a loopback socket, which reads everything into one buffer."""

    def __init__(self) -> None:
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            listening.listen()
            if os.fork() == 0:
                self._receive(listening.getsockname())
            self._socket, _ = listening.accept()

    def _receive(self, address: Any) -> None:
        try:
            with socket.create_connection(address) as near:
                buffer = bytearray(_CHUNK)
                while size := int.from_bytes(near.recv(8, socket.MSG_WAITALL), "big"):
                    while size:
                        size -= near.recv_into(buffer, min(size, _CHUNK))
                    near.sendall(b".")
        finally:
            os._exit(0)

    def send(self, tensors: list[Any]) -> None:
        """Send all tensors' bytes; returns when they have arrived."""
        self._socket.sendall(sum(tensor.nbytes for tensor in tensors).to_bytes(8, "big"))
        for tensor in tensors:
            self._socket.sendall(memoryview(tensor.view(-1).numpy()).cast("B"))
        self._socket.recv(1)


def main() -> None:
    """Measure and print the table, or run the trainer rank."""
    if sys.argv[1:2] == ["--worker"]:
        return sync_worker(sys.argv[2])
    args = arguments(__doc__.splitlines()[0]).parse_args()
    from reasongrm_nemo.processes.work_order import WorkOrder
    from reasongrm_nemo.rollout import RolloutServer, RolloutSettings

    model_dir, tasks = prepared(args.model, args.work)
    recipe = grpo_recipe(args.model, args.work, [f"cluster.threads_per_rank={args.threads}"])
    work = args.work.resolve() / f"refit_{args.model}"
    work.mkdir(parents=True, exist_ok=True)
    server = RolloutServer(RolloutSettings.from_config(recipe), model_dir, work / "rollout-server.log")
    order = WorkOrder(recipe, work, model_dir, {"tasks": tasks}, [server.spec()]).write()
    command = [sys.executable, HERE / "refit.py", "--worker", order]
    names = ("sync", "export", "copy", "loopback")
    figures: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    with server, Contender("refit", command, work, {"OMP_NUM_THREADS": str(args.threads)}) as trainer:
        size = trainer.answer()
        for name in names:
            trainer.turn(name)  # a warm-up: the first sync also opens the channel
        for _ in range(args.rounds):
            for name in names:
                figures[name].append(trainer.turn(name))
    labels = {
        "sync": "weight sync",
        "export": "of which export",
        "copy": "copy in memory",
        "loopback": "loopback socket",
    }
    table = [["", "s (each round)", "MB/s (median)", "sync / this (median of the rounds)"]]
    for name, label in labels.items():
        rounds = figures[name]
        rate = size["bytes"] / median(r["seconds"] for r in rounds) / 1e6
        ratio = median(s["seconds"] / r["seconds"] for s, r in zip(figures["sync"], rounds, strict=True))
        shown = "" if name == "sync" else f"{ratio:.2f}"
        table.append([label, listed(rounds, "seconds", ".4f"), f"{rate:.0f}", shown])
    setting = f"{args.model}, {size['tensors']} tensors, {size['bytes'] / 1e6:.1f} MB in fp32"
    report("refit", args, setting, table, figures)


if __name__ == "__main__":
    main()
