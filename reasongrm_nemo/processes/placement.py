# SPDX-License-Identifier: Apache-2.0
"""Where trainer ranks and rollout servers run: on this machine, or on the nodes of a Slurm job.

The one place that knows. Stages ask it for command lines; everything else is the same on a laptop and on a
cluster. Standard library only.
"""

from __future__ import annotations

import os
import secrets
import shlex
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.stage_kinds import kind_of

TRAINER_SRUN, ROLLOUT_SRUN = "REASONGRM_TRAINER_SRUN", "REASONGRM_ROLLOUT_SRUN"
"""Further options of srun for ranks and servers, such as pyxis' --container-image (launch/common.sh)."""
TRAINER_PREFIX, ROLLOUT_PREFIX = "REASONGRM_TRAINER_PREFIX", "REASONGRM_ROLLOUT_PREFIX"
"""What stands before python in the task itself, such as `apptainer exec --nv IMAGE`."""
INTERFACE = "GLOO_SOCKET_IFNAME"
"""The network interface that ranks meet at and servers listen on; not set: the one towards the first node."""
RUN_KEY = "REASONGRM_RUN_KEY"
"""A secret of the ranks of one start, by which they know each other's objects (processes/meeting.py)."""

# What sbatch tells the batch script about its own task would become srun's defaults.
_NOT_FOR_SRUN = (
    "SLURM_NTASKS",
    "SLURM_NPROCS",
    "SLURM_TASKS_PER_NODE",
    "SLURM_NTASKS_PER_NODE",
    "SLURM_CPUS_PER_TASK",
    "SLURM_CPU_BIND",
    "SLURM_DISTRIBUTION",
    "SLURM_JOB_NUM_NODES",
    "SLURM_NNODES",
    "SLURM_GPUS_PER_TASK",
    "SLURM_MEM_PER_CPU",
    "SLURM_MEM_PER_NODE",
    "SLURM_THREADS_PER_CORE",
)
# Ports of a job: ten of them, by its id, below the range that kernels give out and above well-known services.
_FIRST_PORT, _PORT_BLOCKS, _PORTS = 21000, 1000, 10


@dataclass(frozen=True)
class Spot:
    """Where one rollout server runs.

    Attributes:
        node: its node; None: this machine.
        index: which server of its machine, from 0.
        count: servers on that machine.
        het_group: the part of a heterogeneous job that the node belongs to.
    """

    node: str | None = None
    index: int = 0
    count: int = 1
    het_group: int | None = None


@dataclass(frozen=True)
class Placement:
    """Where a recipe's ranks and servers run.

    Attributes:
        job: the Slurm job's id; None: everything runs on this machine.
        trainer_nodes: in the order of the ranks.
        spots: one a server.
        het: whether the job is heterogeneous (its first part has the ranks, its second the servers).
    """

    job: int | None
    trainer_nodes: tuple[str, ...]
    spots: tuple[Spot, ...]
    het: bool = False

    @property
    def slurm(self) -> bool:
        """Whether srun starts ranks and servers."""
        return self.job is not None

    def rank_command(self, python: str, ranks_per_node: int, arguments: Sequence[str]) -> list[str]:
        """The command line of `srun` that starts all trainer ranks, one task a rank."""
        nodes = self.trainer_nodes
        tasks = ["--nodes", str(len(nodes)), "--ntasks", str(len(nodes) * ranks_per_node)]
        tasks += ["--ntasks-per-node", str(ranks_per_node), "--distribution", "block"]
        # a rank without its peers hangs until its collective times out
        tasks += ["--kill-on-bad-exit=1", "--job-name", "ranks"]
        tasks += _where(nodes, 0 if self.het else None)
        return [*_SRUN, *tasks, *_words(TRAINER_SRUN), *_words(TRAINER_PREFIX), python, *arguments]

    def server_command(self, spot: Spot, python: str, arguments: Sequence[str]) -> list[str]:
        """The command line of `srun` that starts what runs beside one rollout server."""
        assert spot.node is not None
        tasks = [
            "--nodes=1",
            "--ntasks=1",
            "--job-name",
            "rollout-server",
            *_where([spot.node], spot.het_group),
        ]
        return [*_SRUN, *tasks, *_words(ROLLOUT_SRUN), *_words(ROLLOUT_PREFIX), python, *arguments]

    def node_command(
        self, nodes: Sequence[str], python: str, arguments: Sequence[str], trains: bool
    ) -> list[str]:
        """The command line of `srun` that starts one task on each of some nodes.

        Args:
            nodes: which.
            python: the interpreter there.
            arguments: its.
            trains: in the trainer's environment, or else in the rollout's.
        """
        tasks = ["--nodes", str(len(nodes)), "--ntasks", str(len(nodes)), "--ntasks-per-node=1"]
        group = next((spot.het_group for spot in self.spots if spot.node in nodes), 0)
        tasks += _where(nodes, (0 if trains else group) if self.het else None)
        options, prefix = (TRAINER_SRUN, TRAINER_PREFIX) if trains else (ROLLOUT_SRUN, ROLLOUT_PREFIX)
        return [*_SRUN, *tasks, *_words(options), *_words(prefix), python, *arguments]

    def rank_environment(self, ranks_per_node: int) -> dict[str, str]:
        """What ranks need to find each other; `processes.srun_rank` adds what differs between them."""
        assert self.job is not None
        address = own_address(self.trainer_nodes)
        return {
            "MASTER_ADDR": address,
            "MASTER_PORT": str(_free_port(address, self.job)),
            "WORLD_SIZE": str(len(self.trainer_nodes) * ranks_per_node),
            "LOCAL_WORLD_SIZE": str(ranks_per_node),
            RUN_KEY: secrets.token_hex(32),
        }


# ranks and servers share a node's cores and GPUs, and the second step must not wait for the first to end
_SRUN = ("srun", "--overlap", "--cpu-bind=none", "--export=ALL")


def find(cfg: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Placement:
    """Where a resolved recipe's ranks and servers run from here.

    Args:
        cfg: the recipe; `cluster.launcher`, `cluster.nodes`, `rollout.servers` and `rollout.nodes` say it.
        environ: os.environ.

    Raises:
        UserError: the recipe wants Slurm outside of a job, or more nodes than the job has.
    """
    environ = os.environ if environ is None else environ
    cluster, rollout = cfg["cluster"], cfg["rollout"]
    kind = kind_of(cfg)
    trains = kind.trains
    launcher, job = cluster["launcher"], environ.get("SLURM_JOB_ID")
    if launcher == "slurm" and not job:
        raise UserError(
            "cluster.launcher is slurm, but this is no Slurm job (SLURM_JOB_ID is not set): submit it by "
            "sbatch (see launch/), or set cluster.launcher=local"
        )
    groups = _groups(environ) if job else []
    several = sum(map(len, groups)) > 1
    if not job or launcher == "local" or (launcher == "auto" and not several):
        if trains and cluster["nodes"] > 1:
            raise UserError(
                f"cluster.nodes is {cluster['nodes']}, but this is one machine: submit a Slurm job of so "
                "many nodes (see launch/), or set cluster.nodes=1 and a layout that fits"
            )
        count = servers_per_node(cfg)
        return Placement(None, (), tuple(Spot(None, index, count) for index in range(count)))
    het = len(groups) > 1
    apart = rollout["nodes"] if kind.on_policy else 0
    wanted = cluster["nodes"] if trains else 1
    ranks, servers = groups[0][:wanted], groups[0]
    if kind.on_policy:
        servers = ranks
        if apart:
            servers = groups[1][:apart] if het else groups[0][wanted : wanted + apart]
    if len(ranks) < wanted or (apart and len(servers) < apart):
        have = " + ".join(str(len(group)) for group in groups)
        raise UserError(
            f"the job {job} has {have} nodes, but the recipe wants cluster.nodes {wanted}"
            + (f" + rollout.nodes {apart}" if apart else "")
            + ": submit it with as many (sbatch --nodes), or change the recipe"
        )
    # a recipe says how many servers its own number of nodes has; a sampling job may have others
    count = rollout["servers"] if trains else servers_per_node(cfg) * len(servers)
    spots = _spots(servers, count, 1 if apart and het else None, het)
    return Placement(int(job), tuple(ranks), tuple(spots), het)


def servers_per_node(cfg: Mapping[str, Any]) -> int:
    """How many rollout servers share a machine, at most, when a recipe runs on its own number of nodes."""
    nodes = cfg["rollout"]["nodes"] or cfg["cluster"]["nodes"]
    return -(-cfg["rollout"]["servers"] // nodes)


def _spots(nodes: Sequence[str], count: int, group: int | None, het: bool) -> list[Spot]:
    """Servers dealt out evenly over nodes, in blocks."""
    group = 0 if het and group is None else group
    homes = [index * len(nodes) // count for index in range(count)]
    return [
        Spot(nodes[home], homes[:index].count(home), homes.count(home), group)
        for index, home in enumerate(homes)
    ]


def _groups(environ: Mapping[str, str]) -> list[list[str]]:
    """The job's nodes; of a heterogeneous job, those of each part."""
    lists = [
        environ.get(f"SLURM_JOB_NODELIST_HET_GROUP_{i}") for i in range(int(environ.get("SLURM_HET_SIZE", 0)))
    ]
    if not lists:
        lists = [environ.get("SLURM_JOB_NODELIST")]
    return [hostnames(nodes) for nodes in lists if nodes]


def hostnames(nodes: str) -> list[str]:
    """Slurm's "node[1-3,7]" as names.

    Raises:
        UserError: scontrol is not there or does not understand it.
    """
    if "[" not in nodes:
        return nodes.split(",")
    try:
        answer = subprocess.run(
            ["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise UserError(
            f"scontrol show hostnames {nodes} failed: {error}; is Slurm's client installed here?"
        ) from None
    return answer.stdout.split()


def srun_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without what would change the meaning of our srun command lines."""
    return {name: value for name, value in environ.items() if name not in _NOT_FOR_SRUN}


def own_address(nodes: Sequence[str]) -> str:
    """The IPv4 address at which the job's other nodes reach this one.

    Raises:
        UserError: there is none.
    """
    name = os.environ.get(INTERFACE)
    if name:
        # NCCL and gloo take lists and prefixes; the first interface that exists counts here
        for _, interface in socket.if_nameindex():
            if any(interface.startswith(part.lstrip("=")) for part in name.split(",")):
                return interface_address(interface)
        have = ", ".join(interface for _, interface in socket.if_nameindex())
        raise UserError(
            f"{INTERFACE} is {name}, but {socket.gethostname()} has only {have}: correct it (launch/site.env)"
        )
    hostname = socket.gethostname().split(".")[0]
    others = [node for node in nodes if node.split(".")[0] != hostname]
    # its own name may stand for loopback in /etc/hosts (Debian writes 127.0.1.1); another's never does
    target = others[0] if others else socket.gethostname()
    try:
        return address_towards(target)
    except OSError as error:
        raise UserError(f"the node {target} cannot be reached from {hostname}: {error}") from None


def address_towards(host: str) -> str:
    """The address under which `host` reaches this machine: loopback for loopback.

    Raises:
        OSError: there is no way to it.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 9))  # sends nothing; the port is that of "discard"
        return str(probe.getsockname()[0])


def interface_address(name: str) -> str:
    """The IPv4 address of a network interface.

    Raises:
        UserError: it has none.
    """
    import fcntl
    import struct

    get_address = 0x8915  # SIOCGIFADDR
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            answer = fcntl.ioctl(probe, get_address, struct.pack("256s", name.encode()[:15]))
        except OSError:
            raise UserError(
                f"the network interface {name} of {socket.gethostname()} has no IPv4 address"
            ) from None
    return socket.inet_ntoa(answer[20:24])


def interface_of(address: str) -> str | None:
    """The interface that has an address, or None."""
    for _, name in socket.if_nameindex():
        try:
            if interface_address(name) == address:
                return name
        except UserError:
            continue
    return None


def job_ports(job: int) -> range:
    """The ports of a job, so that two jobs on one node do not meet."""
    first = _FIRST_PORT + job % _PORT_BLOCKS * _PORTS
    return range(first, first + _PORTS)


def _free_port(address: str, job: int, bind: Callable[[str, int], None] | None = None) -> int:
    bind = bind or _bind
    for port in job_ports(job):
        try:
            bind(address, port)
            return port
        except OSError:
            continue
    raise UserError(
        f"none of the ports {job_ports(job).start} to {job_ports(job).stop - 1} of the job {job} is free on "
        f"{address}: see with `ss -ltnp` who has them"
    )


def _bind(address: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((address, port))


def _where(nodes: Sequence[str], group: int | None) -> list[str]:
    chosen = ["--nodelist", ",".join(nodes)]
    return chosen if group is None else [f"--het-group={group}", *chosen]


def _words(variable: str) -> list[str]:
    return shlex.split(os.environ.get(variable, ""))
