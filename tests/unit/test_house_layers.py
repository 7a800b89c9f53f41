# SPDX-License-Identifier: Apache-2.0
"""The rules on which part of the package may import which, enforced on the source itself."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOUSE = runpy.run_path(str(ROOT / "scripts" / "house.py"))

# Lowest layer first: a part imports from rows above it in this list, or from its own row without a circle.
ROWS = [
    {"errors", "stage_kinds"},
    {"files"},  # so that errors about files read the same everywhere
    {"judge", "processes"},
    {"data", "models"},
    {"rstar", "evaluation", "demo", "recipe", "rollout", "megatron"},
    {"rewards", "sft"},
    {"grpo", "run"},
    {"report"},
    {"stages", "plan"},
    {"slurm"},
    {"cli"},
    {"__main__"},
]
ROW_OF = {name: number for number, names in enumerate(ROWS) for name in names}
PURE = {"errors", "stage_kinds", "files", "judge", "data", "rstar", "rewards", "evaluation"}
MOST_LAYERS, MOST_NAMES = 12, 25
# The planner predicts what other code does, so any line may be a second copy of a fact: the planner must not
# outgrow the trainers again (4,054 lines beside their 1,800).
MOST_PLAN_LINES = 3000
HEAVY = {
    "torch",
    "nemo",
    "nemo_aligner",
    "vllm",
    "megatron",
    "lightning",
    "pytorch_lightning",
    "transformers",
}
TRAINER_ONLY = {"nemo", "nemo_aligner", "megatron", "lightning", "pytorch_lightning"}


def test_every_part_has_a_row():
    parts = {HOUSE["part_of"](path, ROOT) for path in HOUSE["modules"](ROOT)} - {"__init__"}
    assert not parts - set(ROW_OF), "give it a row in ROWS, and say there why it stands where it stands"


def test_the_house_stays_small():
    assert len(ROWS) <= MOST_LAYERS
    assert len(set(ROW_OF) - {"__main__"}) <= MOST_NAMES


def test_the_planner_stays_small():
    files = [path for path in HOUSE["modules"](ROOT) if HOUSE["part_of"](path, ROOT) == "plan"]
    assert 0 < sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files) <= MOST_PLAN_LINES


def test_files_and_functions_stay_short():
    """In the package, its tests and its scripts; gpu_platform_worker.py is still to be split."""
    assert not HOUSE["long_files"](ROOT)
    long = [where for _, where in HOUSE["long_functions"](ROOT)]
    assert not [where for where in long if "gpu_platform_worker.py" not in where]


def test_no_import_points_upward():
    upward = [
        f"{where}: {source} imports {target}"
        for source, target, where in HOUSE["arrows"](ROOT)
        if source != "__init__" and ROW_OF[target] > ROW_OF[source]
    ]
    assert not upward


def test_the_layers_are_the_rows():
    """Fails if a part could be in a lower row, or if parts import each other in a circle."""
    assert HOUSE["layers"](ROOT) == ROWS


def forbidden(parts: set[str], names: set[str]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in HOUSE["modules"](ROOT)
        if HOUSE["part_of"](path, ROOT) in parts
        for line, name in HOUSE["imports"](path, ROOT)
        if name.split(".")[0] in names
    ]


def test_the_pure_row_imports_nothing_heavy():
    assert not forbidden(PURE, HEAVY)


def test_only_the_rollout_package_imports_vllm():
    assert not forbidden(set(ROW_OF) - {"rollout"}, {"vllm"})


def test_the_rollout_package_imports_nothing_from_the_trainer():
    assert not forbidden({"rollout"}, TRAINER_ONLY)


BLOCKED_IMPORT = f"""
import importlib, pkgutil, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {sorted(HEAVY)!r}:
            raise ImportError(f"{{name}} was imported")

sys.meta_path.insert(0, Blocker())
for name in sys.argv[1:]:
    module = importlib.import_module(name)
    for info in pkgutil.walk_packages(getattr(module, "__path__", []), name + "."):
        importlib.import_module(info.name)
"""


@pytest.mark.parametrize(
    "parts",
    [sorted(PURE), ["recipe", "report", "plan.command", "run.pipeline", "slurm.jobs", "slurm.status", "cli"]],
    ids=["pure", "command"],
)
def test_imports_with_torch_nemo_and_vllm_absent(parts):
    command = [sys.executable, "-c", BLOCKED_IMPORT, *(f"reasongrm_nemo.{part}" for part in parts)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr


@pytest.mark.runs("scripts/house.py")
def test_the_house_is_measured():
    command = [sys.executable, str(ROOT / "scripts" / "house.py")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert f"{len(ROW_OF)} names at the top, {len(ROWS)} layers" in result.stdout
