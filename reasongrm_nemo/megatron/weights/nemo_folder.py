# SPDX-License-Identifier: Apache-2.0
"""The unpacked form of a .nemo checkpoint, which NeMo-Aligner's ``load_from_nemo`` reads directly."""

from __future__ import annotations

from pathlib import Path

import torch
from omegaconf import OmegaConf

from reasongrm_nemo.megatron.nemo_config import model_keys
from reasongrm_nemo.models.architecture import Architecture, Layout

WEIGHTS = "model_weights"
"""Folder in which NeMo's save-restore connector looks for a torch_dist checkpoint."""
_PRECISIONS: dict[torch.dtype, int | str] = {torch.float32: 32, torch.bfloat16: "bf16", torch.float16: 16}


def weights_folder(folder: Path) -> Path:
    """The torch_dist checkpoint inside a converted folder, or the folder itself if it is one."""
    inside = Path(folder) / WEIGHTS
    return inside if inside.is_dir() else Path(folder)


def write_model_config(
    folder: Path, home: Path, architecture: Architecture, layout: Layout, dtype: torch.dtype
) -> None:
    """Write ``model_config.yaml``: the model's shape and layout in NeMo's keys.

    Settings that depend on the machine (optimizer, Transformer Engine) are left to the training run.

    Args:
        folder: folder to write the file to.
        home: final path of the folder; NeMo needs the tokenizer's absolute path.
        architecture: the model's shape.
        layout: parallelism to write.
        dtype: dtype of the weights.
    """
    config = {
        "mcore_gpt": True,
        "precision": _PRECISIONS[dtype],
        "tensor_model_parallel_size": layout.tensor,
        "pipeline_model_parallel_size": layout.pipeline,
        "encoder_seq_length": architecture.rope.max_positions,
        "max_position_embeddings": architecture.rope.max_positions,
        "tokenizer": {"library": "huggingface", "type": str(home.absolute()), "use_fast": True},
        **model_keys(architecture, layout),
    }
    OmegaConf.save(OmegaConf.create(config), folder / "model_config.yaml")
