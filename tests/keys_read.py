# SPDX-License-Identifier: Apache-2.0
"""Records which keys of a recipe some code reads."""

from contextlib import contextmanager
from unittest.mock import patch

from omegaconf import DictConfig, OmegaConf

from reasongrm_nemo.run.manifest import flatten
from reasongrm_nemo.stage_kinds import kind_of


@contextmanager
def keys_read(into):
    """Add every dotted key read from a recipe, or from a part of one, to `into`."""
    plain = DictConfig._get_impl

    def noted(self, key, *args, **kwargs):
        into.add(self._get_full_key(key))
        return plain(self, key, *args, **kwargs)

    with patch.object(DictConfig, "_get_impl", noted):
        yield


def unread(recipe, read):
    """Keys in the blocks that a stage depends on that are not in ``read``, alone or as a whole block."""
    blocks = (*kind_of(recipe).blocks, *(("checkpoints", "tracking") if kind_of(recipe).trains else ()))
    whole = read - {key.rsplit(".", 1)[0] for key in read if "." in key}

    def taken(key):
        parts = key.split(".")
        return key in read or any(".".join(parts[:depth]) in whole for depth in range(2, len(parts)))

    keys = [key for key in flatten(OmegaConf.to_container(recipe)) if key.split(".")[0] in blocks]
    # trust_remote_code is read before a stage is run, by `recipe.load` and the command line
    return {key for key in keys if not taken(key)} - {"model.trust_remote_code"}
