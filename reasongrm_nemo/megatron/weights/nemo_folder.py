# SPDX-License-Identifier: Apache-2.0
"""The folder form of a .nemo checkpoint, which NeMo-Aligner's ``load_from_nemo`` takes as it is."""

from __future__ import annotations

from pathlib import Path

import torch
from omegaconf import OmegaConf

from reasongrm_nemo.megatron.nemo_config import model_keys
from reasongrm_nemo.models.architecture import Architecture, Layout

WEIGHTS = "model_weights"
"""Where NeMo's save-restore connector looks for a torch_dist checkpoint."""
_PRECISIONS: dict[torch.dtype, int | str] = {torch.float32: 32, torch.bfloat16: "bf16", torch.float16: 16}


def weights_folder(folder: Path) -> Path:
    """The torch_dist checkpoint in a converted folder, or the folder itself where it is one."""
    inside = Path(folder) / WEIGHTS
    return inside if inside.is_dir() else Path(folder)


def write_model_config(
    folder: Path, home: Path, architecture: Architecture, layout: Layout, dtype: torch.dtype
) -> None:
    """``model_config.yaml``: the model's shape and layout in NeMo's keys.

    What depends on the machine (the optimizer, Transformer Engine) is the run's to say.

    Args:
        folder: where the file goes.
        home: where the folder will stand; NeMo wants the tokenizer's absolute path.
        architecture: the model's shape.
        layout: the parallelism it is made for.
        dtype: of the weights.
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
