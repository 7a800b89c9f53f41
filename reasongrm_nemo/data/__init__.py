# SPDX-License-Identifier: Apache-2.0
"""Records, their files, seeds, and the sources of preference pairs."""

from reasongrm_nemo.data.jsonl import (
    JsonlAppender,
    PlacedJsonl,
    any_task_from_dict,
    read_jsonl,
    read_tasks,
    task_from_dict,
    write_jsonl,
)
from reasongrm_nemo.data.records import (
    AnswerTask,
    HardTask,
    JudgeTask,
    Message,
    PreferencePair,
    QuestionAnswer,
    ReasoningPath,
    SampledPath,
    SftExample,
    Verdict,
)
from reasongrm_nemo.data.seeds import derive_seed
from reasongrm_nemo.data.sources import LoadedPairs, read_pairs
from reasongrm_nemo.data.tasks import make_tasks, split_pairs

__all__ = [
    "AnswerTask",
    "HardTask",
    "JsonlAppender",
    "JudgeTask",
    "LoadedPairs",
    "Message",
    "PlacedJsonl",
    "PreferencePair",
    "QuestionAnswer",
    "ReasoningPath",
    "SampledPath",
    "SftExample",
    "Verdict",
    "any_task_from_dict",
    "derive_seed",
    "make_tasks",
    "read_jsonl",
    "read_pairs",
    "read_tasks",
    "split_pairs",
    "task_from_dict",
    "write_jsonl",
]
