# SPDX-License-Identifier: Apache-2.0
"""A Hugging Face checkpoint folder: reading its safetensors, writing a new one beside its files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from reasongrm_nemo.errors import UserError

# What a model folder needs beside its weights to be loaded by transformers and vLLM.
COMPANIONS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
)


class HFTensors:
    """Lazy access to the tensors of a Hugging Face folder.

    Raises:
        UserError: the folder holds no safetensors, or a shard is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        index = self.folder / "model.safetensors.index.json"
        try:
            if index.exists():
                files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
            else:
                files = ["model.safetensors"]
            self._open = {file: safe_open(self.folder / file, framework="pt") for file in files}
        except FileNotFoundError as error:
            raise UserError(f"No checkpoint at {folder}: {error}.") from None
        except (SafetensorError, ValueError, KeyError) as error:
            raise UserError(f"The checkpoint at {folder} is damaged: {error}.") from None
        self._where = {name: file for file, handle in self._open.items() for name in handle.keys()}  # noqa: SIM118

    def names(self) -> set[str]:
        """All tensor names."""
        return set(self._where)

    def get(self, name: str) -> Tensor:
        """One tensor in the dtype it is stored in."""
        return self._open[self._where[name]].get_tensor(name)


def write_hf_folder(
    folder: Path, tensors: Iterable[tuple[str, Tensor]], source: Path, dtype: torch.dtype
) -> None:
    """Write ``folder`` with ``tensors`` and the companions of ``source``.

    The weights appear last, under their final name only when complete.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in COMPANIONS:
        if (Path(source) / name).exists():
            shutil.copyfile(Path(source) / name, folder / name)
    _set_dtype(folder / "config.json", dtype)
    state = {name: tensor.to(dtype).contiguous() for name, tensor in tensors}
    partial = folder / "model.safetensors.partial"
    save_file(state, partial, metadata={"format": "pt"})
    # safetensors writes for the owner alone; a checkpoint is as readable as the files beside it
    partial.chmod((folder / "config.json").stat().st_mode & 0o777)
    partial.rename(folder / "model.safetensors")


def _set_dtype(config_path: Path, dtype: torch.dtype) -> None:
    config = json.loads(config_path.read_text())
    config["torch_dtype"] = str(dtype).removeprefix("torch.")
    config.pop("dtype", None)
    config_path.write_text(json.dumps(config, indent=2) + "\n")
