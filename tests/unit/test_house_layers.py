# SPDX-License-Identifier: Apache-2.0
"""The rules of the house on who may import whom, enforced on the source itself."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "reasongrm_nemo"

# Arrows point down: a package imports from rows below its own, or from its own row without a circle.
ROWS = [
    {"errors", "documents"},  # what is wrong with a file is said alike everywhere
    {"judge", "data", "rstar", "rewards", "evaluation"},
    {"allocator", "files", "mkl", "rope", "secret_values", "tensors"},
    {"limits", "placement"},
    {"architecture", "tokenization", "smollm2"},
    {"rollout", "megatron"},
    {"checks", "config", "recipe_yaml", "manifest", "conversions", "work_order"},
    {"training", "plan", "rank"},
    {"grpo", "sft", "report"},
    {"stages", "simulation", "preflight"},
    {"pipeline", "dry_start"},
    {"planning", "chain"},
    {"cli"},
    {"__main__"},
]
ROW_OF = {name: number for number, names in enumerate(ROWS) for name in names}
PURE = ROWS[1]
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


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    """The package, or top-level module, that a file belongs to."""
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes that run, those in functions included, those for type checkers not."""
    for node in ast.iter_child_nodes(tree):
        if is_type_checking(node):
            continue
        yield node
        yield from nodes(node)


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of everything a file imports."""
    own = ["reasongrm_nemo", *path.relative_to(PACKAGE).with_suffix("").parts]
    for node in nodes(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = own[: len(own) - node.level] if node.level else []
            base += node.module.split(".") if node.module else []
            if base == ["reasongrm_nemo"]:
                for alias in node.names:
                    yield node.lineno, f"reasongrm_nemo.{alias.name}"
            else:
                yield node.lineno, ".".join(base)


def arrows() -> Iterator[tuple[str, str, str]]:
    """(from, to, where) between the parts of this package."""
    for path in modules():
        source = part_of(path)
        for line, name in imports(path):
            target = name.split(".")
            if (
                target[0] == "reasongrm_nemo"
                and len(target) > 1
                and target[1] in ROW_OF
                and target[1] != source
            ):
                yield source, target[1], f"{path.relative_to(ROOT)}:{line}"


def test_every_part_has_a_row():
    parts = {part_of(path) for path in modules()} - {"__init__"}
    assert not parts - set(ROW_OF), "give it a row in ROWS, and say there why it stands where it stands"


def test_arrows_point_down():
    upward = [
        f"{where}: {source} imports {target}"
        for source, target, where in arrows()
        if source != "__init__" and ROW_OF[target] > ROW_OF[source]
    ]
    assert not upward


def test_no_circle_within_a_row():
    graph: dict[str, set[str]] = {}
    for source, target, _ in arrows():
        if ROW_OF.get(source) == ROW_OF[target]:
            graph.setdefault(source, set()).add(target)

    def reach(start: str) -> set[str]:
        found: set[str] = set()
        waiting = [start]
        while waiting:
            for target in graph.get(waiting.pop(), ()):
                if target not in found:
                    found.add(target)
                    waiting.append(target)
        return found

    assert not [name for name in graph if name in reach(name)]


def forbidden(parts: set[str], names: set[str]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in modules()
        if part_of(path) in parts
        for line, name in imports(path)
        if name.split(".")[0] in names
    ]


def test_the_pure_row_imports_nothing_heavy():
    assert not forbidden(PURE | ROWS[0], HEAVY)


def test_only_the_rollout_package_imports_vllm():
    assert not forbidden(set(ROW_OF) - {"rollout"}, {"vllm"})


def test_the_rollout_package_imports_nothing_of_the_trainer():
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
    [sorted(PURE), ["errors", "files", "config", "checks", "plan", "report", "pipeline", "planning", "cli"]],
    ids=["pure", "command"],
)
def test_imports_with_torch_nemo_and_vllm_absent(parts):
    command = [sys.executable, "-c", BLOCKED_IMPORT, *(f"reasongrm_nemo.{part}" for part in parts)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
