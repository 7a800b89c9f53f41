# SPDX-License-Identifier: Apache-2.0
"""A rollout server's settings, taken from a recipe."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.documents import read_json
from reasongrm_nemo.models.architecture import served_config
from reasongrm_nemo.processes.cpu_memory import KEEPS_FREED
from reasongrm_nemo.processes.placement import INTERFACE, Spot, interface_of
from reasongrm_nemo.processes.secret_values import hide_all, reveal
from reasongrm_nemo.stage_kinds import kind_of

PYTHON_VARIABLE = "REASONGRM_ROLLOUT_PYTHON"
HOST = "127.0.0.1"
DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
"""A recipe's dtype -> the name in transformers and vLLM."""


@dataclass(frozen=True)
class RolloutSettings:
    """The server's part of a recipe; the fields are the keys of `rollout`, `cluster` and `model`.

    Args:
        python: interpreter of the rollout environment (`cluster.rollout_python`).
        platform: `cpu` or `gpu`.
        weight_transfer: `gloo`, `nccl` or `ipc`.
        dtype: `fp32` or `bf16`.
        max_model_len: longest prompt plus continuation, in tokens.
        trust_remote_code: run code that comes with a checkpoint.
        max_num_seqs: maximum number of sequences run at once.
        kv_cache_gib: size of the KV cache on CPU, GiB.
        enforce_eager: disable graph capture and compilation.
        tensor_parallel: number of workers that share each layer of the served model.
        threads: CPU threads of all the server's workers; None: this server's share of the cores minus one,
            which its front end needs.
        port: a fixed port; None: any free one.
        concurrency: requests the client keeps in flight.
        stall_timeout_s: time without progress after which the server counts as lost.
        start_timeout_s: longest start.
        extra_env: further environment variables of the server.
        rope: `model.rope`: scaling of the served model's positions.
        log_probs: `raw`: under the model's distribution at temperature 1; `processed`: under the
            distribution sampled from.
        servers: number of the run's servers on this machine.
        gpus: GPUs of this server's workers; None: the first visible ones.
        gpu_memory_utilization: largest share of a GPU's memory that the server may use.
        sleep: whether the server can be put to sleep.
    """

    python: str
    platform: str
    weight_transfer: str
    dtype: str
    max_model_len: int
    trust_remote_code: bool
    max_num_seqs: int
    kv_cache_gib: float
    enforce_eager: bool
    tensor_parallel: int
    threads: int | None
    port: int | None
    concurrency: int
    stall_timeout_s: float
    start_timeout_s: float
    extra_env: dict[str, str] = field(default_factory=dict)
    rope: dict[str, Any] = field(default_factory=dict)
    log_probs: str = "raw"
    servers: int = 1
    gpus: tuple[int, ...] | None = None
    gpu_memory_utilization: float = 0.9
    sleep: bool = False

    @classmethod
    def from_config(cls, cfg: Mapping[str, Any], index: int = 0, spot: Spot | None = None) -> RolloutSettings:
        """Settings of one server of a resolved recipe.

        Args:
            cfg: the recipe.
            index: index of the server among `rollout.servers`, from 0; servers differ in port and GPUs.
            spot: where the server runs; None: all servers are on this machine.

        Raises:
            UserError: no interpreter is configured, it does not exist, or a secret is unknown here.
        """
        rollout, cluster, model = cfg["rollout"], cfg["cluster"], cfg["model"]
        spot = spot or Spot(None, index, rollout["servers"])
        python = cluster["rollout_python"] or os.environ.get(PYTHON_VARIABLE)
        if not python:
            raise UserError(
                "The rollout environment is not configured; set the key cluster.rollout_python or the "
                f"environment variable {PYTHON_VARIABLE} to its python."
            )
        if spot.node is None and not Path(python).is_file():
            raise UserError(
                f"The rollout environment's python {python} does not exist; correct cluster.rollout_python "
                f"or the environment variable {PYTHON_VARIABLE}."
            )
        return cls(
            python=str(python),
            platform=cluster["platform"],
            weight_transfer=cluster["weight_transfer"],
            dtype=rollout["dtype"],
            rope=dict(model["rope"]),
            log_probs=_log_probs(cfg),
            max_model_len=model["max_model_len"],
            trust_remote_code=model["trust_remote_code"],
            max_num_seqs=rollout["max_num_seqs"],
            kv_cache_gib=rollout["kv_cache_gib"],
            enforce_eager=rollout["enforce_eager"],
            tensor_parallel=rollout["tensor_parallel"],
            threads=rollout["threads"],
            port=rollout["port"] and rollout["port"] + spot.index,
            concurrency=rollout["concurrency"],
            stall_timeout_s=rollout["stall_timeout_s"],
            start_timeout_s=rollout["start_timeout_s"],
            extra_env={
                str(name): reveal(str(value), f"rollout.extra_env.{name}")
                for name, value in rollout["extra_env"].items()
            },
            servers=spot.count,
            gpus=_gpus(rollout, spot) if cluster["platform"] == "gpu" else None,
            gpu_memory_utilization=rollout["gpu_memory_utilization"],
            sleep=rollout["sleep"],
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for the server's spec file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RolloutSettings:
        """The inverse of `to_dict`."""
        hide_all(data.get("extra_env", {}))  # makes this process, too, strike these values from its output
        gpus = data.get("gpus")  # JSON has no tuples
        return cls(**(dict(data) | {"gpus": None if gpus is None else tuple(gpus)}))

    def arguments(self, model_dir: Path, port: int, address: str = HOST) -> list[str]:
        """Command-line arguments of vLLM's API server, listening on `address`."""
        out = ["--model", str(model_dir), "--served-model-name", SERVED_NAME]
        out += ["--host", address, "--port", str(port)]
        out += ["--dtype", DTYPES[self.dtype]]
        out += ["--max-model-len", str(self.max_model_len), "--max-num-seqs", str(self.max_num_seqs)]
        out += ["--tensor-parallel-size", str(self.tensor_parallel)]
        # Ignore the checkpoint's generation_config.json, which could silently narrow the distribution (QwQ's
        # sets top_k 40).
        out += ["--generation-config", "vllm", "--logprobs-mode", f"{self.log_probs}_logprobs"]
        out += ["--weight-transfer-config", json.dumps({"backend": ENGINES[self.weight_transfer]})]
        out += ["--enable-prefix-caching"]  # the samples of a prompt share its prefill
        out += ["--middleware", "reasongrm_nemo.rollout.server.vllm_plugin.RequireToken"]
        out += ["--disable-uvicorn-access-log"]
        file = model_dir / "config.json"
        if file.is_file() and (changes := served_config(read_json(file), str(file), self.rope)):
            out += ["--hf-overrides", json.dumps(changes)]
        if self.trust_remote_code:
            out += ["--trust-remote-code"]
        if self.enforce_eager:
            out += ["--enforce-eager"]
        if self.platform == "cpu":
            out += ["--kv-cache-memory-bytes", str(int(self.kv_cache_gib * 2**30))]
            # vLLM 0.32 on CPU crashes if a seeded request's prompt is prefilled in two chunks ("CPU
            # Generator does not use offset"), so prefill every prompt in one chunk.
            out += ["--no-enable-chunked-prefill"]
            out += ["--max-num-batched-tokens", str(max(8192, self.max_model_len))]
        else:
            out += ["--gpu-memory-utilization", str(self.gpu_memory_utilization)]
            if self.sleep:
                out += ["--enable-sleep-mode"]
        return out

    def environment(self, token: str, address: str = HOST) -> dict[str, str]:
        """The server's complete environment, without variables of torchrun, Slurm or the trainer's Python."""
        keep = {"PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "CUDA_HOME"}
        # where compiled code is kept: in a Slurm job on the node (launch/common.sh)
        keep |= {"REASONGRM_CACHE", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "VLLM_CACHE_ROOT"}
        prefixes = ("LC_", "XDG_", "NVIDIA_", "CUDA_VISIBLE", "NCCL_", "GLOO_", "UCX_")
        env = {k: v for k, v in os.environ.items() if k in keep or k.startswith(prefixes)}
        env |= {
            "VLLM_API_KEY": token,  # not an argument, which any user of the machine can read
            "VLLM_SERVER_DEV_MODE": "1",  # the weight routes
            "VLLM_PLUGINS": "reasongrm",
            "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # for vllm_main
            "VLLM_NO_USAGE_STATS": "1",
            "PYTHONSAFEPATH": "1",  # do not import from the current folder, which others may write to
            "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1",  # do not run code from pickled model files
            "DO_NOT_TRACK": "1",
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        # address for the server's workers to meet, and for the weight channel
        env |= {"VLLM_HOST_IP": address, **_fabric(address)}
        if self.enforce_eager:
            env["TORCH_COMPILE_DISABLE"] = "1"
        if self.platform == "cpu":
            # Do not bind threads to cores, where a trainer's threads may run as well.
            threads = self.threads or max(1, len(os.sched_getaffinity(0)) // self.servers - 1)
            env["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
            env["OMP_NUM_THREADS"] = str(max(1, threads // self.tensor_parallel))
            env |= KEEPS_FREED  # a reload allocates the model several times over
            if self.tensor_parallel == 1:
                # Run the worker in the engine core's process: starts a third faster, with a fifth less CPU
                # per token.  vLLM separates them on CPU only to bind threads.
                env["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        elif self.gpus is not None:
            env["CUDA_VISIBLE_DEVICES"] = ",".join(_visible(gpu) for gpu in self.gpus)
        return env | self.extra_env


def _fabric(address: str) -> dict[str, str]:
    """Gloo's and NCCL's network interface: loopback, or on a node the site's or that of the address."""
    if address == HOST:
        return {INTERFACE: "lo", "NCCL_SOCKET_IFNAME": "lo"}
    interface = os.environ.get(INTERFACE) or interface_of(address)
    return {INTERFACE: interface} if interface else {}


def _log_probs(cfg: Mapping[str, Any]) -> str:
    """Choose log-probs: GRPO needs those of the distribution sampled from, R* those at temperature 1.

    At temperature 1 both are the same (GRPO refuses top-p and the like), which lets stages share servers.
    """
    return "processed" if kind_of(cfg).on_policy and cfg["rollout"]["temperature"] != 1 else "raw"


def _gpus(rollout: Mapping[str, Any], spot: Spot) -> tuple[int, ...] | None:
    """The server's slice of `rollout.gpus` or of all GPUs; None for a single server on all GPUs."""
    width = rollout["tensor_parallel"]
    if not rollout["gpus"] and spot.count == 1:
        return None
    all_gpus = rollout["gpus"] or range(spot.count * width)
    return tuple(all_gpus[spot.index * width : (spot.index + 1) * width])


def _visible(gpu: int) -> str:
    """CUDA's name of a GPU if this process sees only some of the GPUs (as in a Slurm job)."""
    names = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return names[gpu] if gpu < len(names) else str(gpu)


ENGINES = {"gloo": "gloo", "nccl": "reasongrm_nccl", "ipc": "reasongrm_ipc"}
"""`cluster.weight_transfer` -> name of the weight-transfer engine that `vllm_plugin` registers; vLLM's
built-in `nccl` and `ipc` use other protocols."""

SERVED_NAME = "policy"
