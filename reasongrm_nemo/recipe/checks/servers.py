# SPDX-License-Identifier: Apache-2.0
"""Checks of the rollout servers: number, GPUs, and trainer ranks beside them."""

from __future__ import annotations

from collections.abc import Iterable

from omegaconf import DictConfig

from reasongrm_nemo.processes.placement import servers_per_node
from reasongrm_nemo.recipe.checks.refusal import Refuse
from reasongrm_nemo.stage_kinds import kind_of


def check_servers(cfg: DictConfig, refuse: Refuse) -> None:
    """Check the number of servers, their GPUs and nodes, and the weight transfer."""
    rollout, cluster, kind = cfg.rollout, cfg.cluster, kind_of(cfg)
    if rollout.sleep and cluster.platform == "cpu":
        refuse("rollout.sleep", "is true on cluster.platform cpu; vLLM's sleep mode exists on GPUs alone")
    on_a_node = servers_per_node(cfg)
    if rollout.port is not None and rollout.port + on_a_node - 1 > 65535:
        refuse("rollout.port", f"is {rollout.port}; a node's {on_a_node} servers need ports up to 65535")
    for gpu in rollout.gpus:
        if type(gpu) is not int or gpu < 0:
            refuse("rollout.gpus", f"names {gpu!r}; a node's GPUs are counted from 0, in whole numbers")
    wanted = on_a_node * rollout.tensor_parallel
    if rollout.gpus and len(set(rollout.gpus)) != wanted:
        nodes = rollout.nodes or cluster.nodes
        on = f", on {nodes} nodes {on_a_node} each," if nodes > 1 else ""
        refuse(
            "rollout.gpus",
            f"names {len(set(rollout.gpus))} different GPUs; rollout.servers {rollout.servers}{on} × "
            f"rollout.tensor_parallel {rollout.tensor_parallel} needs {wanted}",
        )
    if kind.samples and cluster.platform == "gpu" and not rollout.gpus and wanted > cluster.devices_per_node:
        has = f"GPUs, it has cluster.devices_per_node {cluster.devices_per_node}"
        if rollout.tensor_parallel > cluster.devices_per_node:
            why = f"is {rollout.tensor_parallel}: a server needs as many of a node's {has}"
            refuse("rollout.tensor_parallel", why)
        refuse(
            "rollout.servers",
            f"is {rollout.servers}: with rollout.tensor_parallel {rollout.tensor_parallel} those of a node "
            f"need {wanted} {has}",
        )
    if rollout.nodes and cluster.launcher == "local":
        refuse(
            "rollout.nodes",
            f"is {rollout.nodes} with cluster.launcher local; only a Slurm job has other nodes",
        )
    if rollout.nodes and rollout.servers < rollout.nodes:
        refuse(
            "rollout.nodes",
            f"is {rollout.nodes}, more than the rollout.servers {rollout.servers}: some would idle",
        )
    if rollout.nodes and cluster.weight_transfer == "ipc":
        refuse(
            "rollout.nodes",
            f"is {rollout.nodes}, and cluster.weight_transfer ipc needs trainer and server on one GPU; "
            "take nccl",
        )
    beside_ranks = kind.on_policy and cluster.platform == "gpu" and not rollout.nodes
    if beside_ranks and cluster.weight_transfer != "gloo":
        _check_gpus(cluster, set(rollout.gpus or range(wanted)), refuse)


def _check_gpus(cluster: DictConfig, served: set[int], refuse: Refuse) -> None:
    """NCCL needs servers and ranks on different GPUs of a node, CUDA IPC on the same."""
    trained = set(range(cluster.devices_per_node))  # the GPUs of the trainer's ranks
    if cluster.weight_transfer == "nccl" and served & trained:
        refuse(
            "cluster.weight_transfer",
            f"is nccl, and GPUs {_listed(served & trained)} would hold a trainer's rank and a server's "
            "worker, which NCCL refuses; give the servers others by rollout.gpus, or take ipc",
        )
    if cluster.weight_transfer == "ipc" and served - trained:
        refuse(
            "cluster.weight_transfer",
            f"is ipc, and GPUs {_listed(served - trained)} of the servers have no trainer's rank "
            f"(cluster.devices_per_node {cluster.devices_per_node}); take nccl, or others by rollout.gpus",
        )


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(numbers)))
