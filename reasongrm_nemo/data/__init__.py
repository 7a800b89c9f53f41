# SPDX-License-Identifier: Apache-2.0
"""Records, their files, seeds, and the sources preference pairs are read from."""

from reasongrm_nemo.data.jsonl import JsonlAppender, read_jsonl, read_tasks, write_jsonl
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

__all__ = [
    "HardTask",
    "JsonlAppender",
    "JudgeTask",
    "Message",
    "PreferencePair",
    "ReasoningPath",
    "SftExample",
    "Verdict",
    "derive_seed",
    "read_jsonl",
    "read_tasks",
    "write_jsonl",
]
