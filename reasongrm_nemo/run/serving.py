# SPDX-License-Identifier: Apache-2.0
"""Serves a recipe's model by rollout servers, for requests from outside a run."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from omegaconf import DictConfig

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.locks import RunsLock
from reasongrm_nemo.recipe.load import artefacts_elsewhere, artefacts_read, require_path
from reasongrm_nemo.rollout import RolloutServer
from reasongrm_nemo.rollout.server.settings import SERVED_NAME
from reasongrm_nemo.run.console import Console
from reasongrm_nemo.run.manifest import check_path
from reasongrm_nemo.run.rollout_pool import RolloutPool
from reasongrm_nemo.run.stage import check_checkpoint

_LOOK_S = 1.0


@contextmanager
def served(cfg: DictConfig, recipe: str, console: Console) -> Iterator[list[RolloutServer]]:
    """Serve the recipe's model while the block runs, by as many servers as `rollout.servers` says.

    Each process has a separate log folder, so that several can serve from one runs folder.

    Args:
        cfg: from `recipe.load.load_recipe`.
        recipe: the recipe's file, for messages.
        console: prints the start.

    Raises:
        UserError: there is no model to serve, the model does not fit the recipe, or a server did not start.
    """
    if not cfg.model.hf_path:
        raise UserError(
            f"{recipe}: model.hf_path is null, so there is nothing to serve; give model.hf_path=FOLDER"
        )
    runs_dir = Path(cfg.runs_dir)
    model = require_path(cfg.model.hf_path, runs_dir, "model.hf_path")
    check_checkpoint(cfg, model, "model.hf_path")
    check_path(model, "model.hf_path")
    name = f"serve-{os.getpid()}"
    with (
        # the served artefact must not be replaced meanwhile
        RunsLock(runs_dir, name, artefacts_read(cfg), artefacts_elsewhere(cfg)),
        RolloutPool(runs_dir / ".logs" / name, console) as pool,
    ):
        yield pool.get(cfg, model).servers


def described(servers: Sequence[RolloutServer]) -> dict[str, object]:
    """The data a client needs: the first server's url and token, the model's name and folder, all servers."""
    entries = [{"url": server.url, "token": server.token} for server in servers]
    return entries[0] | {"model": SERVED_NAME, "folder": str(servers[0].model_dir), "servers": entries}


def servers_as_text(servers: Sequence[RolloutServer]) -> str:
    """The same as text, one line per server."""
    return "\n".join(
        f'{server.url}  (Authorization: Bearer {server.token}; model "{SERVED_NAME}")' for server in servers
    )


def watch(servers: Sequence[RolloutServer]) -> None:
    """Wait until Ctrl-C raises KeyboardInterrupt.

    Raises:
        RolloutServerLost: a server's process ended; servers are not restarted, as clients know their address.
    """
    while True:
        for server in servers:
            if not server.is_alive():
                server.check()
        time.sleep(_LOOK_S)
