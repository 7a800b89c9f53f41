# SPDX-License-Identifier: Apache-2.0
"""The date of a run, given to chat templates that ask for today's: the day the first stage began.

The date is kept in runs_dir/.date, so that resumed stages, shards and later stages render the same prompts.
"""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import date
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.documents import read_json, read_text
from reasongrm_nemo.files.shapes import object_at
from reasongrm_nemo.files.writes import write_text
from reasongrm_nemo.recipe.load import artefacts_elsewhere

_NOTE = ".date"
_LIMIT = 1 << 10


def dated(cfg: DictConfig, keep: bool = False) -> DictConfig:
    """The recipe with `judge.date` filled in if null.

    Args:
        cfg: the resolved recipe.
        keep: write a new date to runs_dir/.date.

    Raises:
        UserError: runs_dir/.date holds no date.
    """
    if cfg.judge.date is not None:
        return cfg
    runs_dir = Path(cfg.runs_dir)
    day = _kept(runs_dir) or _of_artefacts(cfg) or date.today().isoformat()
    if keep:
        day = _keep(runs_dir, day)
    filled = OmegaConf.merge(cfg, {"judge": {"date": day}})
    assert isinstance(filled, DictConfig)
    return filled


def _kept(runs_dir: Path) -> str | None:
    note = runs_dir / _NOTE
    if not os.path.lexists(note):
        return None
    text = read_text(note, _LIMIT)
    try:
        return date.fromisoformat(text.strip()).isoformat()
    except ValueError:
        raise UserError(f"{note} holds no date; write the run's date into it, such as 2026-11-29") from None


def _of_artefacts(cfg: DictConfig) -> str | None:
    """The earliest date in the manifests of this runs folder, or of artefacts read from other folders."""
    days = []
    for path in [*Path(cfg.runs_dir).glob("*/manifest.json"), *_manifests_elsewhere(cfg)]:
        with suppress(UserError):  # a stray folder; real inputs are checked when they are read
            day = object_at(read_json(path), "recipe", "judge").get("date")
            days.append(day if isinstance(day, str) else None)
    return min(filter(None, days), default=None)


def _manifests_elsewhere(cfg: DictConfig) -> list[Path]:
    paths = (folder / "manifest.json" for folder in sorted(artefacts_elsewhere(cfg)))
    return [path for path in paths if path.is_file()]


def _keep(runs_dir: Path, day: str) -> str:
    """The date in the file, written by this process or by another that was faster."""
    note, aside = runs_dir / _NOTE, runs_dir / f"{_NOTE}.{os.getpid()}"
    if not note.exists():
        runs_dir.mkdir(parents=True, exist_ok=True)
        write_text(aside, f"{day}\n")
        try:
            os.link(aside, note)
        except FileExistsError:
            pass
        finally:
            aside.unlink()
    return _kept(runs_dir) or day
