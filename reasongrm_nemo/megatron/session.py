# SPDX-License-Identifier: Apache-2.0
"""Sets up a trainer rank: model with weights, optimizer and scheduler."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from reasongrm_nemo.megatron.platform import Platform
from reasongrm_nemo.models.architecture import Architecture
from reasongrm_nemo.processes.meeting import init_ranks


@dataclass
class Session:
    """The objects that a training loop uses on one rank.

    Attributes:
        model: the NeMo-Aligner model.
        optimizer: NeMo's optimizer.
        scheduler: learning-rate scheduler, stepped once per optimizer step.
        transfer: loads and exports weights (``megatron.weights.transfer.WeightTransfer``).
        hf_path: the Hugging Face folder of the initial model.
        architecture: shape of the model.
        rope: the recipe's ``model.rope``.
        platform: see ``megatron.platform``.
    """

    model: Any
    optimizer: Any
    scheduler: Any
    transfer: Any
    hf_path: Path
    architecture: Architecture
    rope: DictConfig
    platform: Platform


def start(
    platform: Platform,
    model_class: type,
    recipe: DictConfig,
    optim: DictConfig,
    total_steps: int,
    hf_path: Path,
    megatron_path: Path | None = None,
) -> Session:
    """Build the model over all ranks and load its weights from a checkpoint; collective.

    Lightning reads the environment set by torchrun or Slurm (RANK, WORLD_SIZE, MASTER_ADDR, ...).

    Args:
        platform: from ``load_platform``, which must be called before any import of NeMo.
        model_class: a NeMo-Aligner model with ``JudgeModelMixin``.
        recipe: resolved recipe.
        optim: the stage's ``optim`` block.
        total_steps: optimizer steps of the whole run, for the schedule.
        hf_path: Hugging Face folder with the model's config, and its weights if ``megatron_path`` is None.
        megatron_path: torch_dist checkpoint with the initial weights.
    """
    import torch
    from nemo_aligner.utils.train_script_utils import (
        extract_optimizer_scheduler_from_ptl_model,
        init_distributed,
        init_using_ptl,
    )

    from reasongrm_nemo.megatron import rope
    from reasongrm_nemo.megatron.schedule import make_scheduler
    from reasongrm_nemo.megatron.weights.transfer import WeightTransfer

    torch.set_num_threads(recipe.cluster.threads_per_rank)
    architecture = Architecture.from_folder(hf_path, recipe.model.rope)
    model, trainer = build(platform, model_class, recipe, optim, architecture)
    _form_group(trainer.strategy)
    init_distributed(trainer, model, platform.transformer_engine)
    # NeMo needs a dataloader to count steps; the trainers do not use it
    placeholder = torch.utils.data.DataLoader([0], batch_size=1)
    init_using_ptl(trainer, model, placeholder, placeholder.dataset)
    optimizer, _ = extract_optimizer_scheduler_from_ptl_model(model)
    transfer = WeightTransfer(model.core_module(), architecture, platform.transformer_engine)
    rope.apply_rope(model.core_module(), architecture.rope, architecture.head_dim)
    if megatron_path is None:
        transfer.load(hf_path)
    else:
        transfer.load_megatron(megatron_path, model.sharded_state_dict())
    if platform.distributed_optimizer:
        # the optimizer copied its fp32 weights before the checkpoint was loaded
        optimizer.reload_model_params()
    scheduler = make_scheduler(optimizer, total_steps, optim)
    return Session(
        model, optimizer, scheduler, transfer, Path(hf_path), architecture, recipe.model.rope, platform
    )


def build(
    platform: Platform, model_class: type, recipe: DictConfig, optim: DictConfig, architecture: Architecture
) -> tuple[Any, Any]:
    """This rank's part of the model, without the checkpoint's weights, and its Lightning trainer."""
    from nemo_aligner.utils.train_script_utils import resolve_and_create_trainer

    from reasongrm_nemo.megatron.nemo_config import nemo_config

    config = nemo_config(recipe, optim, architecture, platform)
    trainer = resolve_and_create_trainer(config, "aligner")
    return model_class(config.model, trainer), trainer


def _form_group(strategy: Any) -> None:
    """Create torch's default process group, which Lightning then reuses.

    The store that Lightning creates would listen on every interface (see ``rollout.meeting``).
    """
    import torch

    if torch.distributed.is_initialized():
        return
    backend = strategy._get_process_group_backend()
    if backend == "nccl":
        torch.cuda.set_device(strategy.root_device)
    init_ranks(backend, strategy._timeout.total_seconds())


def quiet_libraries() -> None:
    """Keep notices of NeMo and Lightning out of the rank's log, but not errors."""
    import logging
    import warnings

    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    warnings.filterwarnings("ignore")
    from nemo.utils import logging as nemo_logging

    # most of NeMo's warnings are one line for each megatron-core field missing in the config
    nemo_logging.setLevel(nemo_logging.ERROR)
    for name in (
        "lightning",
        "lightning.pytorch",
        "lightning.fabric",
        "pytorch_lightning",
        "DotProductAttention",
    ):
        logging.getLogger(name).setLevel(logging.WARNING)


def export_hf(session: Session, folder: Path, dtype: str) -> None:
    """Write the weights as a Hugging Face folder in ``dtype`` (fp32 or bf16); collective.

    The first rank holds one tensor at a time.
    """
    import dataclasses

    import torch.distributed as dist
    from megatron.core import parallel_state

    from reasongrm_nemo.megatron.weights.hf_folder import RECIPE_DTYPES, write_hf_folder

    if parallel_state.get_data_parallel_rank() == 0:
        stored = RECIPE_DTYPES[dtype]
        tensors = ((name, tensor.to(stored)) for name, tensor in session.transfer.export())
        if dist.get_rank() == 0:
            infos = [dataclasses.replace(info, dtype=stored) for info in session.transfer.infos()]
            write_hf_folder(folder, infos, tensors, session.hf_path, session.rope)
        for _ in tensors:
            pass
    dist.barrier()
