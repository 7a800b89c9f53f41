# SPDX-License-Identifier: Apache-2.0
"""The life cycle of an artefact: first partial, then complete, then stale.

runs_dir/.partial/<name>/   being written; stage.json holds its key; survives a kill
runs_dir/<name>/            complete, with manifest.json; put in place by a rename
runs_dir/.stale/<name>/     the artefact that the latest rerun replaced (only one is kept)
runs_dir/.stale/<name>.unfinished/  a partial artefact with training checkpoints of another key (one is kept)
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.lines import sync_directory
from reasongrm_nemo.files.writes import sync_tree, write_json
from reasongrm_nemo.run.manifest.hashes import HashCache
from reasongrm_nemo.run.manifest.key import what_changed
from reasongrm_nemo.run.manifest.record import NAME, digest_of, read_manifest, read_state
from reasongrm_nemo.run.manifest.unfinished import check_whole

# Folders in an artefact that trackers may still write to, and that no stage reads.
_UNHASHED = ("logs", "tensorboard", "wandb", "mlruns")


@dataclass
class Artefact:
    """One stage's result under `runs_dir`, in any state."""

    runs_dir: Path
    name: str
    started: float = field(default_factory=time.time)

    @property
    def path(self) -> Path:
        """Location of the complete artefact."""
        return self.runs_dir / self.name

    @property
    def work(self) -> Path:
        """Location of the partial artefact."""
        return self.runs_dir / ".partial" / self.name

    def manifest(self) -> dict[str, Any] | None:
        """The manifest of the complete artefact; None if there is no such artefact.

        Raises:
            UserError: a folder of this name exists without a manifest, or with a damaged one.
        """
        if not os.path.lexists(self.path):
            return None
        if not (self.path / NAME).is_file():
            raise UserError(
                f"{self.path} exists but has no manifest.json, so it will not be replaced; move it away"
            )
        return read_manifest(self.path / NAME)

    def damage(self, manifest: Mapping[str, Any], cache: HashCache) -> str | None:
        """What is wrong with the first file that differs from the manifest; None if all match."""
        hashed = []
        for name, entry in manifest["outputs"].items():
            path = self.path / name
            if not path.is_file() or path.stat().st_size != entry["size"]:
                return f"{name} is missing or cut short"
            if "sha256" in entry:
                hashed.append((name, entry["sha256"]))
        files = cache.files(self.path / name for name, _ in hashed)
        for (name, due), file in zip(hashed, files, strict=True):
            if file["sha256"] != due:
                return f"{name} has changed (its SHA-256 differs from the manifest)"
        return None

    def recover(self) -> None:
        """Finish the rename of an artefact that was already complete when its run was killed."""
        if (self.work / NAME).is_file():
            read_manifest(self.work / NAME)
            self._place()

    def begin(self, key: str, ident: Mapping[str, Any], inputs: Mapping[str, Any]) -> tuple[bool, str | None]:
        """Open the partial folder for `key`.

        A partial folder of another key is discarded. One with training checkpoints, which may have taken
        days, is set aside, and resumed when a run with its key comes again.

        Returns:
            (resumed, what happened to a partial folder of another key and why, or None).

        Raises:
            UserError: the partial folder to resume is damaged.
        """
        note, state = self.work / "stage.json", None
        gone = None
        if note.is_file():
            state = read_state(note)
            if state["key"] != key:
                gone, state = f"{self._make_room()}: {what_changed(state['identity'], ident)}", None
        aside = self._aside / "stage.json"
        if state is None and aside.is_file() and read_state(aside)["key"] == key:
            self._discard(self.work)
            os.rename(self._aside, self.work)
            state = read_state(note)
        if state is None:
            self._discard(self.work)
            self.work.mkdir(parents=True)
            state = {"key": key, "identity": dict(ident), "sessions": []}
        elif state["sessions"]:
            check_whole(self.work, state)
            # a killed session recorded no end; the newest file it wrote is the best estimate
            last = max((p.stat().st_mtime for p in self.work.rglob("*") if p.is_file()), default=0.0)
            state["sessions"][-1].setdefault("end", max(last, state["sessions"][-1]["start"]))
        resumed = bool(state["sessions"])
        state["inputs"] = dict(inputs)
        state["sessions"].append({"start": self.started})
        write_json(note, state)
        return resumed, gone

    def finish(self, manifest: dict[str, Any], cache: HashCache) -> dict[str, Any]:
        """Complete the manifest, sync all files, and rename the partial folder into place."""
        state = read_state(self.work / "stage.json")
        state["sessions"][-1]["end"] = time.time()
        seconds = sum(s["end"] - s["start"] for s in state["sessions"])
        manifest = manifest | {
            "key": state["key"],
            "identity": state["identity"],
            "inputs": state["inputs"],
            "timings": manifest.get("timings", {})
            | {"seconds": round(seconds, 2), "sessions": state["sessions"]},
            "outputs": self._outputs(cache),
        }
        # round-trip through JSON, so that the digest matches the manifest as it will be read
        manifest["digest"] = digest_of(json.loads(json.dumps(manifest)))
        sync_tree(self.work)
        write_json(self.work / NAME, manifest)
        (self.work / "stage.json").unlink()  # from here on the manifest suffices, see `recover`
        self._place()
        return manifest

    def _outputs(self, cache: HashCache) -> dict[str, Any]:
        """Every file of the artefact, by name."""
        paths = {str(path.relative_to(self.work)): path for path in sorted(self.work.rglob("*"))}
        paths = {
            name: path
            for name, path in paths.items()
            if path.is_file() and name.split("/")[0] not in ("stage.json", "stage.log")
        }
        hashed = [name for name in paths if name.split("/")[0] not in _UNHASHED]
        hashes = dict(zip(hashed, cache.files(paths[name] for name in hashed), strict=True))
        return {name: hashes.get(name) or {"size": path.stat().st_size} for name, path in paths.items()}

    @property
    def _aside(self) -> Path:
        return self.runs_dir / ".stale" / f"{self.name}.unfinished"

    def _make_room(self) -> str:
        if not any(self.work.glob("checkpoints/*")):
            self._discard(self.work)
            return "discarded"
        self._discard(self._aside)
        self._aside.parent.mkdir(exist_ok=True)
        os.rename(self.work, self._aside)
        return f"set aside in {self._aside}"

    def _place(self) -> None:
        if self.path.exists():
            stale = self.runs_dir / ".stale" / self.name
            self._discard(stale)
            stale.parent.mkdir(exist_ok=True)
            os.rename(self.path, stale)
        os.rename(self.work, self.path)
        sync_directory(self.runs_dir)

    @staticmethod
    def _discard(folder: Path) -> None:
        if folder.exists():
            # Remove these first, so that a kill here leaves nothing that looks complete or resumable.
            for name in ("stage.json", NAME):
                (folder / name).unlink(missing_ok=True)
            shutil.rmtree(folder)
