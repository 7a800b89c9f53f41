# SPDX-License-Identifier: Apache-2.0
"""Places trainer ranks and rollout servers on this machine or on the nodes of a Slurm job.

Only this module distinguishes the two: it builds the command lines that stages run, and everything else is
the same on a laptop and on a cluster. Standard library only.
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
"""Command put before python inside the task, such as `apptainer exec --nv IMAGE`."""
INTERFACE = "GLOO_SOCKET_IFNAME"
"""Network interface for the ranks' rendezvous and for servers; unset: the one towards the first node."""
RUN_KEY = "REASONGRM_RUN_KEY"
"""Secret shared by the ranks of one start, which signs their objects (processes/meeting.py)."""

# Variables that sbatch sets for the batch script and that srun would take as defaults.
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
# A job gets ten ports by its id, below the kernel's ephemeral range and above well-known services.
_FIRST_PORT, _PORT_BLOCKS, _PORTS = 21000, 1000, 10


@dataclass(frozen=True)
class Spot:
    """Place of one rollout server.

    Attributes:
        node: name of the node; None: this machine.
        index: index of the server on its machine, from 0.
        count: number of servers on the machine.
        het_group: component of a heterogeneous job that the node belongs to.
    """

    node: str | None = None
    index: int = 0
    count: int = 1
    het_group: int | None = None


@dataclass(frozen=True)
class Placement:
    """Places of a recipe's ranks and servers.

    Attributes:
        job: id of the Slurm job; None: everything runs on this machine.
        trainer_nodes: nodes of the ranks, in rank order.
        spots: one place per server.
        het: whether the job is heterogeneous (component 0 for ranks, 1 for servers).
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
        """The `srun` command line that starts all trainer ranks, one task per rank."""
        nodes = self.trainer_nodes
        tasks = ["--nodes", str(len(nodes)), "--ntasks", str(len(nodes) * ranks_per_node)]
        tasks += ["--ntasks-per-node", str(ranks_per_node), "--distribution", "block"]
        # if one rank dies, kill the others, which would hang until a collective times out
        tasks += ["--kill-on-bad-exit=1", "--job-name", "ranks"]
        tasks += _where(nodes, 0 if self.het else None)
        return [*_SRUN, *tasks, *_words(TRAINER_SRUN), *_words(TRAINER_PREFIX), python, *arguments]

    def server_command(self, spot: Spot, python: str, arguments: Sequence[str]) -> list[str]:
        """The `srun` command line that starts one rollout server's agent."""
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
        """The `srun` command line that starts one task on each of some nodes.

        Args:
            nodes: names of the nodes.
            python: the interpreter on the nodes.
            arguments: arguments of the interpreter.
            trains: run in the trainer's environment; False: in the rollout environment.
        """
        tasks = ["--nodes", str(len(nodes)), "--ntasks", str(len(nodes)), "--ntasks-per-node=1"]
        group = next((spot.het_group for spot in self.spots if spot.node in nodes), 0)
        tasks += _where(nodes, (0 if trains else group) if self.het else None)
        options, prefix = (TRAINER_SRUN, TRAINER_PREFIX) if trains else (ROLLOUT_SRUN, ROLLOUT_PREFIX)
        return [*_SRUN, *tasks, *_words(options), *_words(prefix), python, *arguments]

    def rank_environment(self, ranks_per_node: int) -> dict[str, str]:
        """Variables common to all ranks for their rendezvous; `processes.srun_rank` adds the others."""
        assert self.job is not None
        address = own_address(self.trainer_nodes)
        return {
            "MASTER_ADDR": address,
            "MASTER_PORT": str(_free_port(address, self.job)),
            "WORLD_SIZE": str(len(self.trainer_nodes) * ranks_per_node),
            "LOCAL_WORLD_SIZE": str(ranks_per_node),
            RUN_KEY: secrets.token_hex(32),
        }


# ranks and servers share a node's cores and GPUs; --overlap lets the second step start beside the first
_SRUN = ("srun", "--overlap", "--cpu-bind=none", "--export=ALL")


def find(cfg: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Placement:
    """Place a resolved recipe's ranks and servers.

    Args:
        cfg: the recipe; reads `cluster.launcher`, `cluster.nodes`, `rollout.servers` and `rollout.nodes`.
        environ: environment variables; None: os.environ.

    Raises:
        UserError: the recipe needs Slurm outside of a job, or more nodes than the job has.
    """
    environ = os.environ if environ is None else environ
    cluster, rollout = cfg["cluster"], cfg["rollout"]
    kind = kind_of(cfg)
    trains = kind.trains
    launcher, job = cluster["launcher"], environ.get("SLURM_JOB_ID")
    if launcher == "slurm" and not job:
        raise UserError(
            "cluster.launcher is slurm, but this is not a Slurm job (SLURM_JOB_ID is not set); submit the "
            "recipe with sbatch (see launch/), or set cluster.launcher=local"
        )
    groups = _groups(environ) if job else []
    several = sum(map(len, groups)) > 1
    if not job or launcher == "local" or (launcher == "auto" and not several):
        if trains and cluster["nodes"] > 1:
            raise UserError(
                f"cluster.nodes is {cluster['nodes']}, but this is one machine; submit a Slurm job with that "
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
            f"job {job} has {have} nodes, but the recipe needs cluster.nodes {wanted}"
            + (f" + rollout.nodes {apart}" if apart else "")
            + "; submit the job with that many (sbatch --nodes), or change the recipe"
        )
    # rollout.servers refers to the recipe's number of nodes; a sampling job may have a different number
    count = rollout["servers"] if trains else servers_per_node(cfg) * len(servers)
    spots = _spots(servers, count, 1 if apart and het else None, het)
    return Placement(int(job), tuple(ranks), tuple(spots), het)


def servers_per_node(cfg: Mapping[str, Any]) -> int:
    """Largest number of rollout servers per machine, if a recipe runs on its number of nodes."""
    nodes = cfg["rollout"]["nodes"] or cfg["cluster"]["nodes"]
    return -(-cfg["rollout"]["servers"] // nodes)


def _spots(nodes: Sequence[str], count: int, group: int | None, het: bool) -> list[Spot]:
    """Distribute servers evenly over nodes, in blocks."""
    group = 0 if het and group is None else group
    homes = [index * len(nodes) // count for index in range(count)]
    return [
        Spot(nodes[home], homes[:index].count(home), homes.count(home), group)
        for index, home in enumerate(homes)
    ]


def _groups(environ: Mapping[str, str]) -> list[list[str]]:
    """The job's nodes; for a heterogeneous job, one list per component."""
    lists = [
        environ.get(f"SLURM_JOB_NODELIST_HET_GROUP_{i}") for i in range(int(environ.get("SLURM_HET_SIZE", 0)))
    ]
    if not lists:
        lists = [environ.get("SLURM_JOB_NODELIST")]
    return [hostnames(nodes) for nodes in lists if nodes]


def hostnames(nodes: str) -> list[str]:
    """Expand Slurm's "node[1-3,7]" to names.

    Raises:
        UserError: scontrol is missing or fails.
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
    """The environment without variables that would change the meaning of srun command lines."""
    return {name: value for name, value in environ.items() if name not in _NOT_FOR_SRUN}


def own_address(nodes: Sequence[str]) -> str:
    """The IPv4 address at which the job's other nodes reach this one.

    Raises:
        UserError: there is no such address.
    """
    name = os.environ.get(INTERFACE)
    if name:
        # NCCL and gloo accept lists and prefixes; use the first interface that exists
        for _, interface in socket.if_nameindex():
            if any(interface.startswith(part.lstrip("=")) for part in name.split(",")):
                return interface_address(interface)
        have = ", ".join(interface for _, interface in socket.if_nameindex())
        raise UserError(
            f"{INTERFACE} is {name}, but {socket.gethostname()} has only {have}; correct {INTERFACE} "
            "(launch/site.env)"
        )
    hostname = socket.gethostname().split(".")[0]
    others = [node for node in nodes if node.split(".")[0] != hostname]
    # this node's name may map to loopback in /etc/hosts (127.0.1.1 on Debian); other nodes' names do not
    target = others[0] if others else socket.gethostname()
    try:
        return address_towards(target)
    except OSError as error:
        raise UserError(f"the node {target} cannot be reached from {hostname}: {error}") from None


def address_towards(host: str) -> str:
    """The address at which `host` reaches this machine; loopback for loopback.

    Raises:
        OSError: there is no route to the host.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 9))  # sends nothing; 9 is the port of "discard"
        return str(probe.getsockname()[0])


def interface_address(name: str) -> str:
    """The IPv4 address of a network interface.

    Raises:
        UserError: the interface has no IPv4 address.
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
    """The network interface with the given address, or None."""
    for _, name in socket.if_nameindex():
        try:
            if interface_address(name) == address:
                return name
        except UserError:
            continue
    return None


def job_ports(job: int) -> range:
    """The ports of a job; differ between jobs on the same node."""
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
        f"none of the ports {job_ports(job).start} to {job_ports(job).stop - 1} of job {job} is free on "
        f"{address}; run `ss -ltnp` to see which processes use them"
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
