# SPDX-License-Identifier: Apache-2.0
"""What an artefact was made of, and its life: a partial folder, then whole under its name, then stale.

runs_dir/.partial/<name>/   being written; stage.json says for which key; survives a kill
runs_dir/<name>/            whole: appears by a rename, with manifest.json
runs_dir/.stale/<name>/     what the newest re-run replaced; one is kept
runs_dir/.stale/<name>.unfinished/  a partial with training checkpoints that was for another key; one is kept
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from reasongrm_nemo import __version__
from reasongrm_nemo.checks import templates
from reasongrm_nemo.config import is_model_input
from reasongrm_nemo.data.jsonl import sync_directory
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files import read_json, sync_tree, write_json
from reasongrm_nemo.judge import built_in_templates, load_template
from reasongrm_nemo.judge.functions import source_digest
from reasongrm_nemo.rewards import OUTCOME
from reasongrm_nemo.tokenization import asks_for_date

# The blocks of a recipe that a stage's result depends on; `seed` and `stage` always count.
RELEVANT = {
    "prepare": ("model", "judge", "prepare"),
    "grpo": ("model", "judge", "rollout", "cluster", "grpo"),
    "generate": ("model", "judge", "rollout", "cluster", "generate"),
    "filter": ("judge", "filter"),
    "sft": ("model", "judge", "cluster", "sft"),
    "mine": ("model", "judge", "rollout", "cluster", "mine"),
    "evaluate": ("model", "judge", "rollout", "cluster", "evaluate"),
}
# Keys that say where and how fast, not what. Paths of inputs are here because their contents are hashed.
_VOLATILE = (
    "model.hf_path",
    "model.recompute",
    "model.log_prob_chunk",
    "prepare.source",
    "prepare.decontaminate",
    "generate.scorer.hf_path",
    "generate.shards",
    "mine.shards",
    "evaluate.models",
    "evaluate.logs",
    "evaluate.shards",
    "rollout.port",
    "rollout.threads",
    "rollout.servers",
    "rollout.nodes",
    "rollout.tensor_parallel",
    "rollout.gpus",
    "rollout.gpu_memory_utilization",
    "rollout.sleep",
    "rollout.enforce_eager",
    "rollout.extra_env",
    "rollout.straggler_timeout_s",
    "rollout.concurrency",
    "rollout.max_num_seqs",
    "rollout.kv_cache_gib",
    "rollout.stall_timeout_s",
    "rollout.start_timeout_s",
    # the gradient does not depend on how the work is cut, so a run may go on at another layout
    "cluster.launcher",
    "cluster.nodes",
    "cluster.devices_per_node",
    "cluster.tensor_parallel",
    "cluster.pipeline_parallel",
    "cluster.layers_in_first_stage",
    "cluster.layers_in_last_stage",
    "cluster.sequence_parallel",
    "cluster.weight_transfer",
    "cluster.offload_optimizer",
    "cluster.threads_per_rank",
    "cluster.trainer_python",
    "cluster.rollout_python",
    "grpo.max_tokens_per_micro_batch",
    "sft.max_tokens_per_micro_batch",
    "grpo.log_prob_gap",  # a run that was stopped by it may go on past it
    "grpo.save_every",
    "grpo.keep_checkpoints",
    "sft.save_every",
    "sft.keep_checkpoints",
)
# Inside an artefact: not an input of any stage, possibly huge.
_UNHASHED = ("checkpoints", "logs", "rollouts", "tensorboard", "wandb", "mlruns")
PACKAGES: tuple[str, ...] = (
    "torch",
    "numpy",
    "transformers",
    "tokenizers",
    "nemo-toolkit",
    "nemo-aligner",
    "megatron-core",
    "lightning",
    "omegaconf",
    "safetensors",
)


# -- hashes ----------------------------------------------------------------------------------------------


class HashCache:
    """Content hashes by path, trusted while a file keeps its size and modification time."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, int, str]] = {}

    @classmethod
    def of_runs(cls, *folders: Path) -> HashCache:
        """Filled from every manifest of runs folders, finished or partial."""
        cache = cls()
        names = "*/manifest.json", ".partial/*/stage.json"
        for path in chain.from_iterable(folder.glob(name) for folder in folders for name in names):
            try:
                data = read_json(path)
            except UserError:
                continue  # a torn partial: its stage will say so
            for item in data.get("inputs", {}).values():
                cache._add(Path(item["path"]), item["files"])
            cache._add(path.parent, data.get("outputs", {}))
        return cache

    def _add(self, root: Path, files: Mapping[str, Any]) -> None:
        for name, entry in files.items():
            if "sha256" in entry:
                path = root / name if name != "." else root
                self._known[str(path.absolute())] = (entry["size"], entry["mtime_ns"], entry["sha256"])

    def file(self, path: Path) -> dict[str, Any]:
        """`{size, mtime_ns, sha256}` of one file, read only where the cache has nothing."""
        stat = path.stat()
        size, mtime, name = stat.st_size, stat.st_mtime_ns, str(path.absolute())
        known = self._known.get(name)
        if known is None or known[:2] != (size, mtime):
            digest = hashlib.sha256()
            with path.open("rb") as handle:
                while block := handle.read(1 << 20):
                    digest.update(block)
            known = (size, mtime, digest.hexdigest())
            self._known[name] = known
        return {"size": size, "mtime_ns": mtime, "sha256": known[2]}

    def tree(self, path: Path) -> dict[str, dict[str, Any]]:
        """Relative name -> `file`, of a folder; a single file has the name "."."""
        if path.is_file():
            return {".": self.file(path)}
        return {str(p.relative_to(path)): self.file(p) for p in sorted(path.rglob("*")) if p.is_file()}


def content_hash(files: Mapping[str, Mapping[str, Any]]) -> str:
    """One hash of a tree's names and contents; modification times do not count."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0{files[name]['sha256']}\n".encode())
    return digest.hexdigest()


# -- the stage key ---------------------------------------------------------------------------------------


def identity(cfg: DictConfig, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What the stage key is a hash of: dotted recipe keys that matter, and the inputs' content hashes.

    Args:
        cfg: the resolved recipe.
        inputs: name -> `{sha256, path, ...}`.

    Raises:
        UserError: the template is a file that cannot be read any more.
    """
    whole: Any = OmegaConf.to_container(cfg)
    kept = {block: whole[block] for block in RELEVANT[cfg.stage]}
    flat = {"stage": cfg.stage, "seed": cfg.seed} | flatten(kept)
    flat = {
        key: value
        for key, value in flat.items()
        if not any(key == v or key.startswith(v + ".") for v in _VOLATILE)
    }
    if cfg.stage == "prepare" and "source" not in inputs:
        flat["prepare.source"] = cfg.prepare.source
    if cfg.stage == "evaluate":  # the order of rows, and the first model is what the others are compared with
        flat |= {f"evaluate.{key}": list(cfg.evaluate[key]) for key in ("models", "logs")}
        for name, entry in whole["evaluate"]["models"].items():
            flat |= {f"evaluate.models.{name}.{key}": entry[key] for key in entry if key != "hf_path"}
    if not _asks_for_date(inputs):
        flat.pop("judge.date", None)
    # A built-in template changes with the package alone, which counts towards no key.
    for key, template in templates(cfg).items():
        if template not in built_in_templates():
            flat[f"input {key}"] = load_template(template).digest
    if cfg.stage == "grpo" and cfg.grpo.reward != OUTCOME:
        flat["input grpo.reward"] = source_digest(cfg.grpo.reward, "grpo.reward")
    return flat | {f"input {name}": item["sha256"] for name, item in inputs.items()}


def _asks_for_date(inputs: Mapping[str, Any]) -> bool:
    """Whether the chat template of a model among the inputs does."""
    return any(
        is_model_input(name) and "path" in item and asks_for_date(Path(item["path"]))
        for name, item in inputs.items()
    )


def stage_key(ident: Mapping[str, Any]) -> str:
    """A hash of `identity`'s answer."""
    lines = "\n".join(f"{key}={ident[key]!r}" for key in sorted(ident))
    return hashlib.sha256(lines.encode()).hexdigest()


def what_changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """A short reason for a re-run: the first few keys or inputs that differ."""
    changed = []
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            is_input = key.startswith("input ")
            changed.append(f"{key} changed" if is_input else f"{key} {old.get(key)} → {new.get(key)}")
    return ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one of dotted keys; lists and empty mappings are values."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


# -- the artefact's life ---------------------------------------------------------------------------------


@dataclass
class Artefact:
    """One stage's result under `runs_dir`, in whatever state it is."""

    runs_dir: Path
    name: str
    started: float = field(default_factory=time.time)

    @property
    def path(self) -> Path:
        """Where it is when whole."""
        return self.runs_dir / self.name

    @property
    def work(self) -> Path:
        """Where it is while being written."""
        return self.runs_dir / ".partial" / self.name

    def manifest(self) -> dict[str, Any] | None:
        """The finished artefact's manifest; None where there is none.

        Raises:
            UserError: a folder of that name stands there without a manifest.
        """
        if not self.path.exists():
            return None
        if not (self.path / "manifest.json").is_file():
            raise UserError(
                f"{self.path} exists but has no manifest.json, so it is not ours to replace; move it away"
            )
        return read_json(self.path / "manifest.json")  # type: ignore[no-any-return]

    def missing_output(self, manifest: Mapping[str, Any]) -> str | None:
        """The first file that the manifest lists and that is gone or of another size."""
        for name, entry in manifest["outputs"].items():
            path = self.path / name
            if not path.is_file() or path.stat().st_size != entry["size"]:
                return name
        return None

    def recover(self) -> None:
        """Put a partial that was already whole when its run was killed in its place."""
        if (self.work / "manifest.json").is_file():
            self._place()

    def begin(self, key: str, ident: Mapping[str, Any], inputs: Mapping[str, Any]) -> tuple[bool, str | None]:
        """Open the partial folder for `key`.

        A partial of another key makes room; one with training checkpoints, which took days perhaps, is set
        aside, and taken up again when its own key comes back.

        Returns:
            (resumed, what became of a partial of another key and why, or None).
        """
        note, state = self.work / "stage.json", None
        gone = None
        if note.is_file():
            state = read_json(note)
            if state["key"] != key:
                gone, state = f"{self._make_room()}: {what_changed(state['identity'], ident)}", None
        aside = self._aside / "stage.json"
        if state is None and aside.is_file() and read_json(aside)["key"] == key:
            self._discard(self.work)
            os.rename(self._aside, self.work)
            state = read_json(note)
        if state is None:
            self._discard(self.work)
            self.work.mkdir(parents=True)
            state = {"key": key, "identity": dict(ident), "sessions": []}
        elif state["sessions"]:
            # A killed session left no end; the newest file it wrote is the best witness.
            last = max((p.stat().st_mtime for p in self.work.rglob("*") if p.is_file()), default=0.0)
            state["sessions"][-1].setdefault("end", max(last, state["sessions"][-1]["start"]))
        resumed = bool(state["sessions"])
        state["inputs"] = dict(inputs)
        state["sessions"].append({"start": self.started})
        write_json(note, state)
        return resumed, gone

    def finish(self, manifest: dict[str, Any], cache: HashCache) -> dict[str, Any]:
        """Complete the manifest, sync everything, and rename the partial into place."""
        state = read_json(self.work / "stage.json")
        state["sessions"][-1]["end"] = time.time()
        seconds = sum(s["end"] - s["start"] for s in state["sessions"])
        outputs: dict[str, Any] = {}
        for path in sorted(self.work.rglob("*")):
            name = path.relative_to(self.work)
            if path.is_file() and name.parts[0] not in ("stage.json", "stage.log"):
                outputs[str(name)] = (
                    {"size": path.stat().st_size} if name.parts[0] in _UNHASHED else cache.file(path)
                )
        manifest = manifest | {
            "key": state["key"],
            "identity": state["identity"],
            "inputs": state["inputs"],
            "timings": manifest.get("timings", {})
            | {"seconds": round(seconds, 2), "sessions": state["sessions"]},
            "outputs": outputs,
        }
        sync_tree(self.work)
        write_json(self.work / "manifest.json", manifest)
        (self.work / "stage.json").unlink()  # from here on the manifest says it all, see `recover`
        self._place()
        return manifest

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
            # First what makes it look resumable, so that a kill here leaves nothing that looks whole.
            for name in ("stage.json", "manifest.json"):
                (folder / name).unlink(missing_ok=True)
            shutil.rmtree(folder)


def code_version() -> dict[str, Any]:
    """The package's version, and the commit where it runs from a git checkout."""
    root = Path(__file__).resolve().parent.parent
    version: dict[str, Any] = {"version": __version__}
    if (root / ".git").exists():
        try:
            command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
            answer = subprocess.run(command, capture_output=True, text=True, timeout=10)
            if answer.returncode == 0:
                version["commit"] = answer.stdout.strip()
        except (OSError, subprocess.TimeoutExpired):
            version["commit"] = None  # git is not installed or does not answer; the version must do
    return version


def package_versions() -> dict[str, str]:
    """Versions of the packages that figures may depend on, those that are installed here."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
