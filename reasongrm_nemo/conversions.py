# SPDX-License-Identifier: Apache-2.0
"""Whether a converted folder still is what its source says: a note in it names the weights it was made of."""

from __future__ import annotations

from pathlib import Path

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files import read_json
from reasongrm_nemo.manifest import HashCache, content_hash

NOTE = "conversion.json"


def made_of(source: Path, cache: HashCache) -> dict[str, str]:
    """The note of what is converted from `source`.

    Args:
        source: a Hugging Face folder; of a training run the one that it exported.
        cache: of the runs folder, so that what its manifests know is not read again.
    """
    return {"source": content_hash(cache.tree(source))}


def stands(target: Path, source: Path, cache: HashCache) -> bool:
    """Whether `target` is there and was made of `source` as it is now; `cache` as for `made_of`."""
    try:
        noted = read_json(target / NOTE)
    except (UserError, OSError):
        return False
    return source.is_dir() and bool(noted == made_of(source, cache))
