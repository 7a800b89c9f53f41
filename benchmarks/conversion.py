# SPDX-License-Identifier: Apache-2.0
"""Speed and memory of converting checkpoints, compared with a plain copy of the same bytes.

    python benchmarks/conversion.py [--folder /scratch] [--layers 2] [--rounds 3] [--peer-python P]

Writes a Hugging Face folder with random weights, of QwQ-32B's width and a few layers (2: about 5 GB in bf16),
then alternately copies it, converts it and converts it back on the same disk, each time in a new process with
a cold page cache. All of them sync what they write. Needs three times the folder's size on the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from statistics import median

import torch

from reasongrm_nemo.megatron.weights.hf_folder import (
    shards,
    write_index,
    write_safetensors,
)
from reasongrm_nemo.megatron.weights.names import parameters, tensor_infos
from reasongrm_nemo.models.architecture import Architecture

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
    """Write a folder of QwQ-32B's width; returns the size of its tensors in bytes."""
    folder.mkdir(parents=True)
    config = QWQ_32B | {"num_hidden_layers": layers}
    (folder / "config.json").write_text(json.dumps(config))
    infos = tensor_infos(parameters(Architecture.from_config(config, "QwQ-32B")), torch.bfloat16)
    files = shards(infos, 2 * 10**9)
    generator = torch.Generator().manual_seed(0)
    for name, group in files.items():
        values = ([torch.randn(i.shape, generator=generator, dtype=torch.bfloat16)] for i in group)
        write_safetensors(folder / name, group, values)
    write_index(folder, files)
    return sum(i.nbytes for i in infos)


def forget(folder: Path) -> None:
    """Drop a folder from the page cache, so that the next reader reads from the disk."""
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
    """Command for a copy that syncs, as the conversions do."""
    code = "import os,shutil,sys; shutil.copytree(sys.argv[1], sys.argv[2]); "
    code += "[os.fsync(os.open(e.path, os.O_RDONLY)) for e in os.scandir(sys.argv[2])]"
    return [sys.executable, "-c", code, str(source), str(target)]


def run(args: argparse.Namespace, work: Path) -> dict[str, list[tuple[float, float]]]:
    """(seconds, peak GiB) of each round, by contender; contenders take turns, so rounds are comparable."""
    source, megatron, target = work / "hf", work / "megatron", work / "out"
    threads = ["--threads", str(args.threads)] if args.threads else []
    there = [sys.executable, str(ROOT / "conversion" / "hf_to_megatron.py"), str(source), str(megatron)]
    back = [sys.executable, str(ROOT / "conversion" / "megatron_to_hf.py"), str(megatron), str(target)]
    done: dict[str, list[tuple[float, float]]] = {}

    def take(name: str, command: list[str], reads: Path, made: Path) -> None:
        shutil.rmtree(made, ignore_errors=True)
        done.setdefault(name, []).append(measure(command, reads))

    for _ in range(args.rounds):
        take("copy", copy_command(source, target), source, target)
        take("Hugging Face → Megatron", [*there, "-t", str(args.tensor_parallel), *threads], source, megatron)
        take("Megatron → Hugging Face", [*back, *threads], megatron, target)
    if args.peer_python:
        words = [args.peer_python, str(ROOT / "benchmarks" / "peer_mbridge.py"), str(source), str(target)]
        take("mbridge, import and save", words, source, target)
        take("mbridge, import and export", [*words, "--export"], source, target)
    return done


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    temporary = Path(tempfile.gettempdir())
    parser.add_argument("--folder", type=Path, default=temporary, help="folder on the disk to measure")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--tensor-parallel", type=int, default=8)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--peer-python", help="also measure mbridge, with this Python that has it (peer_mbridge.py)"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as work:
        nbytes = write_qwq(Path(work) / "hf", args.layers)
        done = run(args, Path(work))
    print(
        f"QwQ-32B's width, {args.layers} layers, {nbytes / 1e9:.2f} GB in bf16, TP{args.tensor_parallel}; "
        f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {date.today()}\n\n"
        "| | s (each round) | × a copy (median) | MB/s | peak RSS, GiB | all 64 layers, min |\n"
        "|---|---|---|---|---|---|"
    )
    copies = median(seconds for seconds, _ in done["copy"])
    for name, rounds in done.items():
        middle = median(seconds for seconds, _ in rounds)
        seconds_of_rounds = ", ".join(f"{seconds:.1f}" for seconds, _ in rounds)
        rate, whole = nbytes / middle / 1e6, QWQ_BYTES / nbytes * middle / 60
        peak = max(gib for _, gib in rounds)
        print(
            f"| {name} | {seconds_of_rounds} | {middle / copies:.2f} | {rate:.0f} | {peak:.2f} "
            f"| {whole:.1f} |"
        )


if __name__ == "__main__":
    main()
