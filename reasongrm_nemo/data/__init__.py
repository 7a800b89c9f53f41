# SPDX-License-Identifier: Apache-2.0
"""Records, their files, seeds, and the sources preference pairs are read from."""

from reasongrm_nemo.data.jsonl import (
    JsonlAppender,
    PlacedJsonl,
    read_jsonl,
    read_tasks,
    task_from_dict,
    write_jsonl,
)
from reasongrm_nemo.data.records import (
    HardTask,
    JudgeTask,
    Message,
    PreferencePair,
    ReasoningPath,
    SftExample,
    Verdict,
)
from reasongrm_nemo.data.seeds import derive_seed
from reasongrm_nemo.data.sources import LoadedPairs, read_pairs
from reasongrm_nemo.data.tasks import make_tasks, split_pairs

__all__ = [
    "HardTask",
    "JsonlAppender",
    "JudgeTask",
    "LoadedPairs",
    "Message",
    "PlacedJsonl",
    "PreferencePair",
    "ReasoningPath",
    "SftExample",
    "Verdict",
    "derive_seed",
    "make_tasks",
    "read_jsonl",
    "read_pairs",
    "read_tasks",
    "split_pairs",
    "task_from_dict",
    "write_jsonl",
]
