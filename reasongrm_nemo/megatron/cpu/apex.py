# SPDX-License-Identifier: Apache-2.0
"""The names NeMo imports from Apex, built from plain PyTorch and megatron-core.

Apex needs CUDA. NeMo 2.3 uses Apex for gradient clipping, Adam and a dozen names that megatron-core has
as well; without Apex, several NeMo modules fail later with undefined names.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch


def install_apex() -> None:
    """Put ``apex`` and ``amp_C`` into ``sys.modules``; megatron-core must already be imported."""
    from megatron.core.enums import ModelType
    from megatron.core.tensor_parallel import layers as tensor_parallel_layers
    from megatron.core.transformer.enums import AttnMaskType, AttnType

    from reasongrm_nemo.megatron.cpu.adam import FusedAdam

    _module("amp_C", multi_tensor_l2norm=_l2norm, multi_tensor_scale=_scale)
    _module("apex")
    _module("apex.multi_tensor_apply", multi_tensor_applier=_apply)
    _module("apex.optimizers", FusedAdam=FusedAdam, FusedLAMB=_absent("FusedLAMB"), FusedSGD=torch.optim.SGD)
    # used only in isinstance() checks that exempt norms from weight decay
    _module("apex.normalization", MixedFusedRMSNorm=torch.nn.RMSNorm)
    _module(
        "apex.normalization.fused_layer_norm",
        FusedLayerNorm=torch.nn.LayerNorm,
        MixedFusedLayerNorm=torch.nn.LayerNorm,
        MixedFusedRMSNorm=torch.nn.RMSNorm,
    )
    _module("apex.transformer")
    _module("apex.transformer.enums", AttnMaskType=AttnMaskType, AttnType=AttnType, ModelType=ModelType)
    _module("apex.transformer.log_util", set_logging_level=lambda *_: None)
    _module("apex.transformer.layers")
    _module(
        "apex.transformer.layers.layer_norm",
        FastLayerNorm=torch.nn.LayerNorm,
        MixedFusedLayerNorm=torch.nn.LayerNorm,
    )
    _module("apex.transformer.pipeline_parallel")
    _module("apex.transformer.pipeline_parallel.schedules")
    _module("apex.transformer.pipeline_parallel.schedules.common", listify_model=_listify)
    _module("apex.transformer.tensor_parallel")
    _module(
        "apex.transformer.tensor_parallel.layers",
        set_defaults_if_not_set_tensor_model_parallel_attributes=(
            tensor_parallel_layers.set_defaults_if_not_set_tensor_model_parallel_attributes
        ),
        set_tensor_model_parallel_attributes=tensor_parallel_layers.set_tensor_model_parallel_attributes,
    )


def _module(name: str, **names: Any) -> None:
    module = ModuleType(name, "A CPU stand-in of reasongrm_nemo.megatron.cpu.apex.")
    module.__dict__.update(names)
    # transformers asks importlib for the spec of every optional package
    module.__spec__ = ModuleSpec(name, None, is_package=True)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)


def _absent(name: str) -> type:
    def refuse(self: Any, *_: Any, **__: Any) -> None:
        raise NotImplementedError(f"apex {name} needs a GPU")

    return type(name, (), {"__init__": refuse})


def _apply(kernel: Any, _overflow: Any, tensors: list[list[torch.Tensor]], *arguments: Any) -> Any:
    return kernel(tensors, *arguments)


def _l2norm(tensors: list[list[torch.Tensor]], _per_tensor: bool) -> tuple[torch.Tensor, None]:
    norms = torch.stack([torch.linalg.vector_norm(t.float()) for t in tensors[0]])
    return torch.linalg.vector_norm(norms), None


def _scale(tensors: list[list[torch.Tensor]], factor: torch.Tensor | float) -> None:
    for source, target in zip(*tensors, strict=True):
        target.copy_(source * factor)


def _listify(model: Any) -> list[Any]:
    return model if isinstance(model, list) else [model]
