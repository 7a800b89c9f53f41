# SPDX-License-Identifier: Apache-2.0
"""Measure the package's structure: its parts, the imports between them, and names defined in several modules.

    python scripts/house.py [ROOT]

A part is a module or a folder at the top of the package.  Its layer is the length of the longest chain of
imports below it, including imports inside functions, but not those for type checkers.
``test_house_layers.py`` checks the figures against their limits.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "reasongrm_nemo"
MOST_LINES, MOST_FUNCTION_LINES = 350, 60
FOLDERS = (PACKAGE, "tests", "conversion", "scripts", "benchmarks")
# One instance of each kind of change, and a pattern for its names: adding another may touch the same files.
KINDS = {
    "a benchmark (rm_bench)": r"\brm_bench\b|RM-Bench|rm-bench",
    "a model family (llama)": r"(?i)llama",
    "a stage that samples (mine)": r"[\"']mine[\"']|\bcfg\.mine\b|\brecipe\.mine\b",
    "a stage that does not (filter)": r"[\"']filter[\"']|\bcfg\.filter\b|\brecipe\.filter\b",
}
_ASKS_STAGE = re.compile(
    r"\bstage\b.{0,12}(?:==|!=|\bin\b)|\bstage_kinds\b|(?:SAMPLES|TRAINS|SERVED|TRAINED)\b"
)


def modules(root: Path) -> list[Path]:
    """The package's files."""
    return sorted((root / PACKAGE).rglob("*.py"))


def part_of(path: Path, root: Path) -> str:
    """The folder or module at the top of the package that a file belongs to."""
    relative = path.relative_to(root / PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def _nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes, including those in functions, but not those for type checkers."""
    for node in ast.iter_child_nodes(tree):
        if not _is_type_checking(node):
            yield node
            yield from _nodes(node)


def imports(path: Path, root: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of every import in a file."""
    package = [PACKAGE, *path.relative_to(root / PACKAGE).with_suffix("").parts]
    for node in _nodes(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level] if node.level else []
            base += node.module.split(".") if node.module else []
            if base == [PACKAGE]:
                for alias in node.names:
                    yield node.lineno, f"{PACKAGE}.{alias.name}"
            else:
                yield node.lineno, ".".join(base)


def arrows(root: Path) -> Iterator[tuple[str, str, str]]:
    """(from, to, "file:line") of each import between two parts."""
    parts = {part_of(path, root) for path in modules(root)}
    for path in modules(root):
        source = part_of(path, root)
        for line, name in imports(path, root):
            target = name.split(".")
            if target[0] == PACKAGE and len(target) > 1 and target[1] in parts - {source}:
                yield source, target[1], f"{path.relative_to(root)}:{line}"


def layers(root: Path) -> list[set[str]]:
    """The parts by layer, from the lowest up.

    Raises:
        ValueError: some parts import each other in a circle.
    """
    below: dict[str, set[str]] = {part_of(path, root): set() for path in modules(root)}
    for source, target, _ in arrows(root):
        if source != "__init__":
            below[source].add(target)
    below.pop("__init__", None)
    rows: list[set[str]] = []
    placed: set[str] = set()
    while placed != set(below):
        row = {part for part, targets in below.items() if part not in placed and targets <= placed}
        if not row:
            raise ValueError(f"parts import each other in a circle, among {sorted(set(below) - placed)}")
        rows.append(row)
        placed |= row
    return rows


def long_files(root: Path, folders: tuple[str, ...] = FOLDERS) -> list[tuple[int, str]]:
    """Files longer than MOST_LINES, the longest first."""
    paths = [path for folder in folders for path in sorted((root / folder).rglob("*.py"))]
    counts = [
        (len(path.read_text(encoding="utf-8").splitlines()), str(path.relative_to(root))) for path in paths
    ]
    return sorted((entry for entry in counts if entry[0] > MOST_LINES), reverse=True)


def long_functions(root: Path, folders: tuple[str, ...] = FOLDERS) -> list[tuple[int, str]]:
    """Functions longer than MOST_FUNCTION_LINES, the longest first."""
    long = []
    for path in [path for folder in folders for path in sorted((root / folder).rglob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                count = (node.end_lineno or node.lineno) - node.lineno + 1
                if count > MOST_FUNCTION_LINES:
                    long.append((count, f"{path.relative_to(root)}:{node.lineno} {node.name}"))
    return sorted(long, reverse=True)


def public_names(root: Path) -> dict[str, list[str]]:
    """Places of public functions and classes defined in several modules, except ``main`` and the like."""
    places = defaultdict(list)
    for path in modules(root):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                places[node.name].append(f"{path.relative_to(root)}:{node.lineno}")
    return {
        name: where
        for name, where in sorted(places.items())
        if len(where) > 1 and name not in ("main", "run", "check", "read", "write")
    }


def stage_facts(root: Path) -> list[str]:
    """Lines that ask which stage this is."""
    return [
        f"{path.relative_to(root)}:{number}"
        for path in modules(root)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if _ASKS_STAGE.search(line) and re.search(r"grpo|sft|generate|mine|evaluate|prepare|filter", line)
    ]


def files_named(root: Path, pattern: str) -> list[str]:
    """The package's files that contain a name."""
    return [
        str(path.relative_to(root))
        for path in modules(root)
        if re.search(pattern, path.read_text(encoding="utf-8"))
    ]


def main() -> int:
    """Print the figures."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parents[1])
    rows, edges = layers(root), set(arrows(root))
    lines: dict[str, int] = defaultdict(int)
    for path in modules(root):
        lines[part_of(path, root)] += len(path.read_text(encoding="utf-8").splitlines())
    print(f"{len(modules(root))} files, {sum(lines.values()):,} lines")
    print(f"{sum(map(len, rows))} names at the top, {len(rows)} layers, ", end="")
    print(
        f"{len({(source, target) for source, target, _ in edges})} arrows between them ({len(edges)} imports)"
    )
    for number, row in enumerate(rows, 1):
        print(f"  {number:2}  " + ", ".join(f"{part} ({lines[part]:,})" for part in sorted(row)))
    facts = stage_facts(root)
    print(
        f"{len(facts)} lines in {len({fact.split(':')[0] for fact in facts})} files ask which stage this is"
    )
    for kind, pattern in KINDS.items():
        print(f"{len(files_named(root, pattern))} files name {kind}")
    shared = public_names(root)
    print(f"{len(shared)} public names are defined in several modules: {', '.join(shared)}")
    print(f"{len(long_files(root))} files over {MOST_LINES} lines: {long_files(root)}")
    print(f"{len(long_functions(root))} functions over {MOST_FUNCTION_LINES} lines")
    for count, where in long_functions(root):
        print(f"  {count}  {where}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
