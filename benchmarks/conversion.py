# SPDX-License-Identifier: Apache-2.0
"""How fast and in how much memory checkpoints are converted, beside a plain copy of the same bytes.

    python benchmarks/conversion.py [--folder /scratch] [--layers 2] [--tensor-parallel 8] [--peer-python P]

Writes a Hugging Face folder with QwQ-32B's real width and a few layers (2: about 5 GB in bf16, random), then
copies it, converts it and converts it back, each in a process of its own with a cold page cache, one after
the other on the same disk. Every writer syncs. Needs three times the bytes on the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from reasongrm_nemo.architecture import Architecture
from reasongrm_nemo.megatron.weights.hf_folder import (
    shards,
    write_index,
    write_safetensors,
)
from reasongrm_nemo.megatron.weights.names import parameters
from reasongrm_nemo.tensors import TensorInfo

ROOT = Path(__file__).resolve().parents[1]
QWQ_32B = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 5120,
    "intermediate_size": 27648,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "num_hidden_layers": 64,
    "vocab_size": 152064,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "max_position_embeddings": 40960,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
QWQ_BYTES = 32_763_876_352 * 2


def write_qwq(folder: Path, layers: int) -> int:
    """A folder of QwQ-32B's width; returns the bytes of its tensors."""
    folder.mkdir(parents=True)
    config = QWQ_32B | {"num_hidden_layers": layers}
    (folder / "config.json").write_text(json.dumps(config))
    infos = [
        TensorInfo(name, torch.bfloat16, shape)
        for p in parameters(Architecture.from_config(config, "QwQ-32B"))
        for name, shape in zip(p.hf, p.mapping.shapes, strict=True)
    ]
    files = shards(infos, 2 * 10**9)
    generator = torch.Generator().manual_seed(0)
    for name, group in files.items():
        values = ([torch.randn(i.shape, generator=generator, dtype=torch.bfloat16)] for i in group)
        write_safetensors(folder / name, group, values)
    write_index(folder, files)
    return sum(i.nbytes for i in infos)


def forget(folder: Path) -> None:
    """Drop a folder's pages from the page cache, so that nobody reads from memory what was just written."""
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(command: list[str], source: Path) -> tuple[float, float]:
    """Seconds and peak RSS in GiB of a command that reads ``source``."""
    forget(source)
    code = "import os,resource,subprocess,sys; r=subprocess.call(sys.argv[1:]); "
    code += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(r)"
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True)
    seconds = time.monotonic() - started
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr}")
    return seconds, int(done.stdout.split()[-1]) / 2**20


def copy_command(source: Path, target: Path) -> list[str]:
    """A copy that syncs, as the conversions do."""
    code = "import os,shutil,sys; shutil.copytree(sys.argv[1], sys.argv[2]); "
    code += "[os.fsync(os.open(e.path, os.O_RDONLY)) for e in os.scandir(sys.argv[2])]"
    return [sys.executable, "-c", code, str(source), str(target)]


def run(work: Path, layers: int, tensor_parallel: int, threads: int | None, peer: str | None) -> list[dict]:
    """Rows of figures, the copy's first."""
    source, target = work / "hf", work / "out"
    nbytes = write_qwq(source, layers)
    more = ["--threads", str(threads)] if threads else []
    convert = [sys.executable, str(ROOT / "conversion" / "hf_to_megatron.py"), str(source)]
    back = [sys.executable, str(ROOT / "conversion" / "megatron_to_hf.py"), str(work / "megatron")]
    rows = []

    def row(name: str, command: list[str], reads: Path, keep: bool = False) -> None:
        seconds, gib = measure(command, reads)
        rows.append({"what": name, "seconds": round(seconds, 2), "peak_rss_gib": round(gib, 2)})
        if not keep:
            shutil.rmtree(target, ignore_errors=True)

    row("copy", copy_command(source, target), source)
    words = [str(work / "megatron"), "-t", str(tensor_parallel), *more]
    row("Hugging Face → Megatron", [*convert, *words], source, keep=True)
    row("Megatron → Hugging Face", [*back, str(target), *more], work / "megatron")
    shutil.rmtree(work / "megatron")
    row("copy again", copy_command(source, target), source)
    if peer:
        words = [peer, str(ROOT / "benchmarks" / "peer_mbridge.py"), str(source), str(target)]
        row("mbridge, import and save", words, source)
        row("mbridge, import and export", [*words, "--export"], source)
    base = sum(r["seconds"] for r in rows if r["what"].startswith("copy")) / 2
    for r in rows:
        r["times_a_copy"] = round(r["seconds"] / base, 2)
        r["mb_per_second"] = round(nbytes / r["seconds"] / 1e6)
    return rows


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()), help="on the disk to measure"
    )
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--tensor-parallel", type=int, default=8)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--peer-python", help="a python that has mbridge, to stand beside (peer_mbridge.py)")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as work:
        rows = run(Path(work), args.layers, args.tensor_parallel, args.threads, args.peer_python)
    load = os.getloadavg()[0]
    if args.json:
        print(json.dumps({"date": str(date.today()), "load": load, "rows": rows}))
        return
    title = f"QwQ-32B's width, {args.layers} layers, bf16, TP{args.tensor_parallel}; {platform.machine()}, "
    title += f"{os.cpu_count()} cores, load {load:.1f}, {date.today()}"
    table = Table("", "s", "× a copy", "MB/s", "peak RSS, GiB", "all 64 layers, min", title=title)
    for r in rows:
        whole = QWQ_BYTES / (r["mb_per_second"] * 1e6) / 60
        cells = (r["seconds"], r["times_a_copy"], r["mb_per_second"], r["peak_rss_gib"], f"{whole:.1f}")
        table.add_row(r["what"], *map(str, cells))
    Console().print(table)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
