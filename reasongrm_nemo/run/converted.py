# SPDX-License-Identifier: Apache-2.0
"""Whether a converted folder still is what its source says: a note in it names the weights it was made of.

The note lists the folder's files too, which are held against it wherever they are read (`manifest.verify`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.documents import read_json
from reasongrm_nemo.run.manifest import HashCache, check_path, content_hash
from reasongrm_nemo.run.manifest.record import CONVERSION

NOTE = CONVERSION


def made_of(source: Path, cache: HashCache) -> dict[str, str]:
    """The note of what is converted from `source`.

    Args:
        source: a Hugging Face folder; of a training run the one that it exported.
        cache: what was read already.
    """
    files = cache.tree(source)
    weights = {name: file for name, file in files.items() if name.endswith(".safetensors")}
    return {"source": content_hash(files), "weights": content_hash(weights)}


def note_of(source: Path, cache: HashCache) -> Callable[[Path], dict[str, Any]]:
    """What writes the note: given the converted folder, it adds the size and SHA-256 of each file there."""
    made = made_of(source, cache)

    def note(folder: Path) -> dict[str, Any]:
        files = cache.tree(folder)
        return made | {"files": {n: {"size": f["size"], "sha256": f["sha256"]} for n, f in files.items()}}

    return note


def stands(target: Path, source: Path, cache: HashCache) -> bool:
    """Whether `target` is there as it was made, and of `source` as it is now; `cache` as for `made_of`."""
    try:
        noted = read_json(target / NOTE)
        noted["source"]
        check_path(target, str(target), cache)
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
