# SPDX-License-Identifier: Apache-2.0
"""Every external file that a command reads, and the faults that each command must refuse."""

from pathlib import Path

import faults

from reasongrm_nemo.judge import published_sampling, read_settings
from reasongrm_nemo.judge.template import load_template
from reasongrm_nemo.models.architecture import Architecture
from reasongrm_nemo.models.tokenization import load_tokenizer

GRPO = str(Path(__file__).resolve().parents[1] / "recipes" / "tiny" / "1_grpo_zero.yaml")

# command line -> the files that it reads whole, and the kinds of fault that it must refuse in each
JSON = faults.PATHS | faults.SYNTAX | faults.SHAPES
LINES = faults.PATHS | {
    k: faults.SYNTAX[k] for k in ("nuls", "words", "half", "utf16", "binary", "deep_lists")
}
TEXT = faults.PATHS | {
    k: faults.SYNTAX[k] for k in ("nuls", "utf16", "latin", "binary", "deep_lists", "gigabyte")
}
TABLE = [
    ("run demo/1_first.yaml", "demo/1_first.yaml", TEXT),
    ("run demo/1_first.yaml", "runs/first/manifest.json", JSON),
    ("run demo/1_first.yaml", "p.jsonl", {k: faults.PATHS[k] for k in ("dangling_link", "looping_link")}),
    ("run demo/1_first.yaml filter.strategy=shortest", "runs/first/manifest.json", JSON),
    ("run demo/2_second.yaml", "runs/first/manifest.json", faults.SYNTAX | faults.SHAPES),
    ("run third.yaml", "runs/.partial/third/stage.json", faults.SYNTAX | faults.SHAPES),
    ("run third.yaml filter.strategy=shortest", "runs/.partial/third/stage.json", faults.SHAPES),
    ("pipeline demo", "demo/2_second.yaml", TEXT),
    ("pipeline demo", "runs/first/manifest.json", JSON),
    ("chain demo", "demo/1_first.yaml", TEXT),
    ("chain demo", "runs/first/manifest.json", JSON),
    ("plan demo/1_first.yaml", "demo/1_first.yaml", TEXT),
    ("plan demo", "demo/2_second.yaml", TEXT),
    ("preflight --dry-run demo/1_first.yaml", "demo/1_first.yaml", TEXT),
    ("show runs/first", "runs/first/manifest.json", JSON),
    ("show --verify runs/first", "runs/first/manifest.json", JSON),
    ("show --json runs/first", "runs/first/manifest.json", faults.SHAPES),
    ("score rewardbench log.jsonl", "log.jsonl", LINES | faults.SHAPES),
    ("score rewardbench --from rewardbench log.jsonl", "log.jsonl", LINES),
    ("plan GRPO --rollouts --lengths log.jsonl", "log.jsonl", LINES | faults.SHAPES),
    ("serve GRPO model.hf_path=hf runs_dir=runs", "hf/config.json", JSON),
    ("status runs", "runs/.launch/7.job", faults.PATHS | {"words": faults.SYNTAX["words"]}),
]
# the same for readers that stages share
READERS = {
    "architecture": (Architecture.from_folder, ["config.json"]),
    "tokenizer": (load_tokenizer, ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]),
    "settings": (read_settings, ["judge.json"]),
    "sampling": (published_sampling, ["generation_config.json"]),
    "template": (lambda folder: load_template(str(folder / "t.yaml")), ["t.yaml"]),
}
