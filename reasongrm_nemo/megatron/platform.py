# SPDX-License-Identifier: Apache-2.0
"""The differences between the CPU and GPU platforms; load one before the first import of NeMo."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass

from reasongrm_nemo.errors import UserError


@dataclass(frozen=True)
class Platform:
    """Trainer settings that follow from a recipe's ``cluster.platform``.

    Attributes:
        name: ``cpu`` or ``gpu``.
        accelerator: Lightning's name for the platform.
        transformer_engine: whether layers come from Transformer Engine or from ``megatron.layers``.
        optimizer: name under which NeMo registers the Adam optimizer.
        amp_o2: NeMo's O2 recipe, bf16 weights with fp32 main weights.
    """

    name: str
    accelerator: str
    transformer_engine: bool
    optimizer: str
    amp_o2: bool

    @property
    def distributed_optimizer(self) -> bool:
        """Whether megatron-core shards optimizer states over the data-parallel ranks."""
        return self.optimizer == "mcore_distributed_optim"


CPU = Platform("cpu", "cpu", transformer_engine=False, optimizer="cpu_fused_adam", amp_o2=False)
GPU = Platform("gpu", "gpu", transformer_engine=True, optimizer="mcore_distributed_optim", amp_o2=True)

_GPU_PACKAGES = {"transformer_engine": "Transformer Engine", "apex": "Apex"}


def load_platform(name: str) -> Platform:
    """Prepare this process for platform ``name``; call before anything imports NeMo.

    Raises:
        UserError: the platform is unknown, or the machine lacks a requirement of the platform.
    """
    if name == "cpu":
        _load_cpu()
        return CPU
    if name == "gpu":
        _check_gpu()
        from reasongrm_nemo.megatron import elementwise

        elementwise.install()
        return GPU
    raise UserError(f"cluster.platform is {name!r}; it must be 'cpu' or 'gpu'.")


def _load_cpu() -> None:
    # hide any GPU: half of NeMo asks torch.cuda, not the recipe
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    from reasongrm_nemo.megatron.cpu import install

    install()


def _check_gpu() -> None:
    import torch

    from reasongrm_nemo.megatron import cpu

    if cpu.installed():
        raise UserError("cluster.platform is 'gpu' but this process already runs on the CPU stand-ins.")
    if not torch.cuda.is_available():
        raise UserError(
            "cluster.platform is 'gpu' but PyTorch sees no CUDA device; "
            "run on a GPU node or use recipes/cluster/cpu.yaml."
        )
    missing = [label for package, label in _GPU_PACKAGES.items() if importlib.util.find_spec(package) is None]
    if missing:
        raise UserError(
            f"cluster.platform is 'gpu' but {' and '.join(missing)} cannot be imported; "
            "use NeMo's container (25.04 line) or install them into the trainer environment."
        )
