# SPDX-License-Identifier: Apache-2.0
"""Detects stale conversions by the hash of their source weights, kept in a note in the converted folder.

The note also lists the folder's files, which are compared with it whenever they are read (`manifest.verify`).
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
    """The hashes of a conversion's source: of all its files, and of its weights.

    Args:
        source: a Hugging Face folder; for a training run, the one it exported.
        cache: hashes of files read before.
    """
    files = cache.tree(source)
    weights = {name: file for name, file in files.items() if name.endswith(".safetensors")}
    return {"source": content_hash(files), "weights": content_hash(weights)}


def note_of(source: Path, cache: HashCache) -> Callable[[Path], dict[str, Any]]:
    """Returns the function that makes the note of a converted folder, with each file's size and SHA-256."""
    made = made_of(source, cache)

    def note(folder: Path) -> dict[str, Any]:
        files = cache.tree(folder)
        return made | {"files": {n: {"size": f["size"], "sha256": f["sha256"]} for n, f in files.items()}}

    return note


def stands(target: Path, source: Path, cache: HashCache) -> bool:
    """Whether `target` is unchanged since its conversion, and its source is `source` as it is now."""
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
    """Refuse a Megatron checkpoint whose weights differ from those of a Hugging Face folder.

    If the checkpoint has a conversion note with the same hash, that suffices. Otherwise every tensor is read
    and compared.

    Args:
        megatron: the recipe's ``model.megatron_path``.
        hf: the recipe's ``model.hf_path``.
        rope: the recipe's ``model.rope``.
        cache: hashes of files read before.

    Raises:
        UserError: the weights differ; the message says where.
    """
    try:
        if read_json(megatron / NOTE)["weights"] == made_of(hf, cache or HashCache())["weights"]:
            return
    except (UserError, OSError, KeyError, TypeError):
        pass  # no note, or an older one without the weights' hash
    from reasongrm_nemo.megatron.weights.convert import verify

    try:
        verify(hf, megatron, rope)
    except UserError as error:
        raise UserError(
            f"model.megatron_path: {megatron} was not converted from model.hf_path {hf}, whose weights the "
            f"rollouts start from ({str(error).rstrip('.')}); convert that model, or leave the key null"
        ) from None
