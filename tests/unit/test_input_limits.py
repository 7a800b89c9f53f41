# SPDX-License-Identifier: Apache-2.0
"""Input that unpacks, expands or claims to be endless is refused in one sentence, and never read into memory.

All bombs are set off in one separate process (this file, run as a script), whose peak memory is measured.
"""

import gzip
import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

MIB = 1 << 20
REPOSITORY = Path(__file__).resolve().parents[2]


def packed(path: Path, start: bytes, block: bytes, count: int) -> Path:
    """A gzip file: the start, then `count` members of 1 MiB made of the block."""
    member = gzip.compress(block * (MIB // len(block)), 9)
    with path.open("wb") as file:
        file.write(gzip.compress(start))
        for _ in range(count):
            file.write(member)
    return path


def zstd(path: Path, start: bytes, mib: int) -> Path:
    import pyarrow as pa

    with pa.output_stream(str(path), compression="zstd") as file:
        file.write(start)
        for _ in range(mib):
            file.write(b"a" * MIB)
    return path


def sparse(path: Path, size: int = 1 << 30) -> Path:
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)
    return path


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    return path


def aliases(levels: int, merge: bool = False) -> str:
    lines = ["defaults: [base/filter]", "a0: &a0 {x: 1}"]
    for n in range(1, levels):
        below = ", ".join([f"*a{n - 1}"] * 9)
        lines.append(f"a{n}: &a{n} " + (f"{{<<: [{below}]}}" if merge else f"[{below}]"))
    return "\n".join(lines)


def dictionary_bomb(path: Path) -> Path:
    """A cell of 4 MiB that a thousand rows repeat, in a few kilobytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    cell = pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int32()), pa.array(["a" * (4 * MIB)]))
    pq.write_table(pa.table({"prompt": cell.cast(pa.dictionary(pa.int32(), pa.string()))}), path)
    return path


def consume(rows) -> None:
    for _ in rows:
        pass


def lines_without_end(at: Path):
    """Records, tables and logs that unpack into an endless line, item or cell."""
    from reasongrm_nemo.data import rows
    from reasongrm_nemo.evaluation.benchmarks import score_log
    from reasongrm_nemo.files.lines import read_dicts

    line = packed(at / "line.jsonl.gz", b'{"prompt": "', b"a", 4096)
    assert line.stat().st_size < 5 * MIB
    too_long = r"line.jsonl.gz:1: the line is longer than 16 MiB"
    yield "records", too_long, lambda: consume(read_dicts(line))
    yield "source", too_long, lambda: consume(rows.read_rows(line))
    yield "score", too_long, lambda: score_log("rewardbench", [line])
    yield "score --from", too_long, lambda: score_log("rewardbench", [line], project="rewardbench")
    other = zstd(at / "line.jsonl.zst", b'{"prompt": "', 600)
    yield "zst", "line.jsonl.zst:1: the line is longer", lambda: consume(read_dicts(other))
    blank = packed(at / "blank.jsonl.gz", b"", b" ", 64)
    yield "blank", "blank.jsonl.gz:1: the line is longer", lambda: consume(read_dicts(blank))
    item = packed(at / "item.json.gz", b'[{"prompt": "', b"a", 512)
    yield (
        "item",
        r"item.json.gz: .* after 0 rows \(an item is longer than 16 MiB",
        lambda: consume(rows.read_rows(item)),
    )
    cell = packed(at / "cell.csv.gz", b"prompt,chosen\n", b"a", 512)
    yield "cell", "cell.csv.gz:2: the line is longer than 16 MiB", lambda: consume(rows.read_rows(cell))
    quoted = packed(at / "quoted.csv.gz", b'prompt,chosen\n"', b"a\n", 128)
    yield (
        "quoted cell",
        r"quoted.csv.gz: .*field larger than field limit",
        lambda: consume(rows.read_rows(quoted)),
    )


def files_without_end(at: Path):
    """An endless file, nesting in a cell, columns that repeat a large value."""
    from reasongrm_nemo.data import rows
    from reasongrm_nemo.data.jsonl import PlacedJsonl, task_from_dict
    from reasongrm_nemo.files import figures
    from reasongrm_nemo.plan.rollouts.lengths import read_paths

    turns = text(at / "turns.csv", "prompt,chosen\n" + "[" * (2 * MIB) + ",b\n")
    yield "turns", None, lambda: consume(rows.read_rows(turns))
    plain = sparse(at / "endless.jsonl")
    yield "placed", "endless.jsonl:1: the line is", lambda: consume(PlacedJsonl(plain, task_from_dict).scan())
    yield "lengths", "endless.jsonl:1: the line is longer", lambda: read_paths(plain)
    yield "metrics", "endless.jsonl:1: the line is longer", lambda: consume(figures.read_figures(plain))
    table = dictionary_bomb(at / "cells.parquet")
    rows.MAX_BATCH = 16 * MIB
    yield "repeated cell", None, lambda: consume(rows.read_rows(table))
    yield (
        "column",
        r"cells.parquet: column prompt of row group 0 has 4 MiB uncompressed; the limit is 1 MiB",
        lambda: (setattr(rows, "MAX_COLUMN", MIB), consume(rows.read_rows(table))),
    )


def yaml_without_end(at: Path):
    """Recipes, templates and overrides that expand or nest without end, or hold huge numbers."""
    from reasongrm_nemo.judge import load_template
    from reasongrm_nemo.recipe.load import load_recipe

    for name, content, says in (
        (
            "aliases",
            aliases(14),
            r"not valid YAML: its aliases expand to \S+ values, at most 100,000",
        ),
        ("merges", aliases(12, merge=True), "its aliases expand to"),
        ("lists", "defaults: " + "[" * 50_000, "nested too deeply"),
        ("mappings", "".join(f"{' ' * n}a:\n" for n in range(600)), "nested too deeply"),
        ("digits", f"defaults: [base/filter]\nseed: {'9' * 100_000}", ":2: .*number of more than 64 bits"),
        ("hex", f"defaults: [base/filter]\nseed: 0x{'f' * 100_000}", ":2: .*number of more than 64 bits"),
        ("past 64", "defaults: [base/filter]\nseed: 9223372036854775808", "number of more than 64 bits"),
        ("tail", "a: 1\n" * 60_000, "is longer than the 256 KiB"),
        ("itself", "defaults: &a [*a]\n", "nested too deeply|inherits|defaults is a list"),
    ):
        recipe = text(at / f"{name}.yaml".replace(" ", ""), content)
        yield f"recipe of {name}", says, lambda recipe=recipe: load_recipe(recipe)
        yield (
            f"template of {name}",
            "^Template .*",
            (lambda recipe=recipe: load_template(str(recipe))),
        )
    word = "grpo.steps=" + "9" * 50_000
    yield (
        "word",
        r"^command line: .*is not a YAML value",
        lambda: load_recipe(REPOSITORY / "recipes/tiny/1_grpo_zero.yaml", [word]),
    )
    bomb = "{" + ", ".join(aliases(9).split("\n")[1:]) + "}"
    yield (
        "word of aliases",
        r"^command line: .*is not a YAML value",
        lambda: load_recipe(REPOSITORY / "recipes/tiny/1_grpo_zero.yaml", [f"rollout.extra_env={bomb}"]),
    )


def model_files_without_end(at: Path):
    """Files of models and artefacts that are huge, deeply nested, or one long number."""
    from reasongrm_nemo.judge import read_settings
    from reasongrm_nemo.models.architecture import Architecture
    from reasongrm_nemo.models.tokenization.folder import read_folder
    from reasongrm_nemo.run.manifest import read_manifest

    models = {
        "config.json": lambda folder: Architecture.from_folder(folder),
        "tokenizer.json": read_folder,
        "judge.json": read_settings,
        "manifest.json": lambda folder: read_manifest(folder / "manifest.json"),
    }
    for name, read in models.items():
        folder = sparse(at / f"huge {name}" / name).parent
        yield f"huge {name}", rf"{name} is longer than the \d+ MiB", lambda f=folder, r=read: r(f)
        if name == "tokenizer.json":
            continue
        for what, content in (("deep", "[" * 10**6), ("digits", '{"hidden_size": ' + "9" * 10**6 + "}")):
            folder = text(at / f"{what} {name}" / name, content).parent
            yield f"{what} {name}", rf"{name}.*(too deeply|digits)", lambda f=folder, r=read: r(f)


def bombs(at: Path):
    """Name, pattern of the refusal (None: no refusal), and the call that reads the bomb."""
    for kind in (lines_without_end, files_without_end, yaml_without_end, model_files_without_end):
        yield from kind(at)


def watched(at: Path) -> None:
    """Set off every bomb; print a JSON line for each, which ends in the growth of peak memory (MiB)."""
    from reasongrm_nemo.errors import UserError

    def memory(field: str) -> float:
        status = Path("/proc/self/status").read_text()
        return int(re.search(rf"{field}:\s+(\d+)", status)[1]) / 1024

    import pyarrow.parquet  # noqa: F401 - so that the import is not part of a peak

    for name, says, call in bombs(at):
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
        before, said, kind = memory("VmRSS"), "", ""
        try:
            call()
        except BaseException as error:
            said, kind = str(error), type(error).__name__
            good = isinstance(error, UserError) and says and re.search(says, said)
        else:
            good = says is None
        peak = memory("VmHWM") - before
        print(json.dumps([name, bool(good), kind, said[:300], round(peak)]), flush=True)


def test_bombs_are_refused_while_they_are_read(tmp_path):
    env = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, __file__, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) >= 45
    assert not [row for row in rows if not row[1]]
    assert not [row for row in rows if row[3].count("\n")]
    assert not [row for row in rows if row[4] > 200]


def test_weights_whose_header_claims_a_huge_size_are_refused(tmp_path):
    import pytest

    from reasongrm_nemo.errors import UserError
    from reasongrm_nemo.megatron.weights.hf_folder import HFTensors

    file = tmp_path / "model.safetensors"
    for size in (1 << 60, 2**64 - 1, 200 << 20, 0):
        file.write_bytes(struct.pack("<Q", size) + b"{}" * 50)
        with pytest.raises(UserError, match=r"damaged: model\.safetensors: "):
            HFTensors(tmp_path)
    sparse(tmp_path / "model.safetensors.index.json")
    with pytest.raises(UserError, match=r"index\.json is longer than the 16 MiB"):
        HFTensors(tmp_path)


if __name__ == "__main__":
    watched(Path(sys.argv[1]))
