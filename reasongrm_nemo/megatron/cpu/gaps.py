# SPDX-License-Identifier: Apache-2.0
"""What NeMo 2.3, NeMo-Aligner 0.7.0 and megatron-core 0.12 assume beyond ``torch.cuda`` and Apex."""

from __future__ import annotations

import inspect
import os
import sys
from types import ModuleType
from typing import Any

import torch

from reasongrm_nemo.megatron import elementwise


def before_nemo() -> None:
    """Install the stand-ins that NeMo and NeMo-Aligner need at import."""
    # megatron_base_model.py:404 matches this variable against a pattern without checking that it is set
    os.environ.setdefault("NVIDIA_PYTORCH_VERSION", "cpu")
    _model_parallel_rng()
    elementwise.install()
    _checkpoint_writer()
    _no_tensorrt_llm()


def after_nemo() -> None:
    """Replace names inside NeMo's modules."""
    import nemo.collections.nlp.models.nlp_model as nlp_model
    import nemo.collections.nlp.modules.common.megatron.megatron_init as megatron_init
    import nemo.collections.nlp.parts.nlp_overrides as nlp_overrides
    from megatron.core import tensor_parallel
    from nemo.collections.nlp.models.language_modeling.megatron_base_model import MegatronBaseModel
    from nemo.core.classes.modelPT import ModelPT
    from nemo.core.config.optimizers import AdamWParams
    from nemo.core.optim import McoreDistributedOptimizer
    from nemo.core.optim.optimizers import register_optimizer

    from reasongrm_nemo.megatron.cpu.adam import FusedAdam

    # NeMo registers "fused_adam" only if CUDA is available (core/optim/optimizers.py:197)
    register_optimizer("cpu_fused_adam", FusedAdam, AdamWParams())
    # nlp_model.py:78 lists BERT models with a function that needs Transformer Engine (bert_spec.py:36)
    nlp_model.get_megatron_pretrained_bert_models = list
    # nlp_overrides.py:219 refuses to start without this flag; :341-346 use these two in isinstance() checks
    nlp_overrides.HAVE_APEX = True
    nlp_overrides.McoreDistributedOptimizer = McoreDistributedOptimizer
    nlp_overrides.MegatronDistributedFusedAdam = type("MegatronDistributedFusedAdam", (), {})
    # megatron_base_model.py:276 creates a CUDA stream for Transformer Engine's context parallelism
    MegatronBaseModel.setup_transformer_engine_cp_groups = lambda self: None
    # modelPT.py:2100 moves the model to torch.device("cuda", ...)
    ModelPT.cuda = lambda self, device=None: self

    seed_all = megatron_init._set_random_seed

    # megatron_init.py:238 seeds the model-parallel RNG only if there are CUDA devices
    def set_random_seed(seed: int) -> None:
        seed_all(seed)
        tensor_parallel.model_parallel_cuda_manual_seed(seed)

    megatron_init._set_random_seed = set_random_seed


def _model_parallel_rng() -> None:
    """Use the CPU generator where tensor_parallel/random.py accesses CUDA generators directly."""
    import megatron.core.tensor_parallel.random as random

    random._get_cuda_rng_state = lambda *_, **__: torch.get_rng_state()
    random._set_cuda_rng_state = lambda state, *_, **__: torch.set_rng_state(state)


def _checkpoint_writer() -> None:
    """Pass the argument that torch >= 2.7 added to the private writer that filesystem_async.py:318 calls."""
    import megatron.core.dist_checkpointing.strategies.filesystem_async as filesystem_async
    from torch.distributed.checkpoint import filesystem

    if "serialization_format" not in inspect.signature(filesystem._write_item).parameters:
        return

    def write_item(*args: Any) -> Any:
        return filesystem._write_item(*args, filesystem.SerializationFormat.TORCH_SAVE)

    filesystem_async._write_item = write_item


def _no_tensorrt_llm() -> None:
    """Replace nemo_aligner/utils/trt_llm.py, which imports tensorrt_llm; rollouts use vLLM."""

    class GPTGenerateTRTLLM:
        def __init__(self, *_: Any, **__: Any) -> None:
            raise NotImplementedError(
                "TensorRT-LLM generation is not part of this package; rollouts use vLLM."
            )

    module = ModuleType("nemo_aligner.utils.trt_llm")
    module.__dict__["GPTGenerateTRTLLM"] = GPTGenerateTRTLLM
    sys.modules[module.__name__] = module
