# SPDX-License-Identifier: Apache-2.0
"""Whether a converted folder still is what its source says: a note in it names the weights it was made of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.documents import read_json
from reasongrm_nemo.run.manifest import HashCache, content_hash

NOTE = "conversion.json"


def made_of(source: Path, cache: HashCache) -> dict[str, str]:
    """The note of what is converted from `source`.

    Args:
        source: a Hugging Face folder; of a training run the one that it exported.
        cache: what was read already.
    """
    files = cache.tree(source)
    weights = {name: file for name, file in files.items() if name.endswith(".safetensors")}
    return {"source": content_hash(files), "weights": content_hash(weights)}


def stands(target: Path, source: Path, cache: HashCache) -> bool:
    """Whether `target` is there and was made of `source` as it is now; `cache` as for `made_of`."""
    try:
        noted = read_json(target / NOTE)
        noted["source"]
    except (UserError, OSError, KeyError, TypeError):
        return False
    return source.is_dir() and bool(noted["source"] == made_of(source, cache)["source"])


def check_same_weights(
    megatron: Path, hf: Path, rope: Mapping[str, Any] | None, cache: HashCache | None = None
) -> None:
    """Refuse a Megatron checkpoint that does not hold the weights of a Hugging Face folder.

    The note that a conversion leaves tells it at once. Without one, or where it names other files, every
    tensor is read and compared, whoever wrote the checkpoint.

    Args:
        megatron: the recipe's ``model.megatron_path``.
        hf: its ``model.hf_path``.
        rope: its ``model.rope``.
        cache: of the runs folder, as for `made_of`.

    Raises:
        UserError: they differ; the sentence says in what.
    """
    try:
        if read_json(megatron / NOTE)["weights"] == made_of(hf, cache or HashCache())["weights"]:
            return
    except (UserError, OSError, KeyError, TypeError):
        pass  # none, or of before the weights stood in it by themselves
    from reasongrm_nemo.megatron.weights.convert import verify

    try:
        verify(hf, megatron, rope)
    except UserError as error:
        raise UserError(
            f"model.megatron_path: {megatron} was not converted from model.hf_path {hf}, whose weights the "
            f"rollouts begin with ({str(error).rstrip('.')}); convert that one, or leave the key null"
        ) from None
