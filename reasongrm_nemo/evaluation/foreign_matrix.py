# SPDX-License-Identifier: Apache-2.0
"""RM-Bench's items in other projects' result files: finds which of the nine pairs a judgement belongs to.

The items of `run_rm.py` and `run_dpo.py` (73c52d7b) have three `score_chosen` and three `score_rejected`.
RM-R1's three files have three `result` and `output` per item, each file rotating the answers by one more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.evaluation.foreign_row import FIELDS, SCORES, Row, conversation_fields

MATRIX = range(3)
_ROTATION = re.compile(r"total_dataset_([123])(_|\.|$)")


def matrix_cells(row: Row, file: Path, where: str) -> Iterator[tuple[int, int, Row]]:
    """The two styles of each of an item's pairs, and the row for its judgement."""
    lists = {name: value for name in FIELDS if isinstance(value := row.get(name), list)}
    for name, value in lists.items():
        if len(value) != len(MATRIX):
            raise UserError(f"{where}: has {len(value)} values in '{name}'; an item has three, one per style")
    if lists.keys() & {name for pair in SCORES for name in pair}:
        chosen, rejected = next((pair for pair in SCORES if pair[0] in lists), SCORES[1])
        if chosen not in lists or rejected not in lists:
            raise UserError(f"{where}: has one of '{chosen}' and '{rejected}' as a list; give both")
        for i in MATRIX:
            for j in MATRIX:
                scores = {chosen: lists[chosen][i], rejected: lists[rejected][j]}
                yield i, j, scores | {"rejected_style": j}
        return
    rotation = _ROTATION.match(file.name)
    if rotation is None:
        raise UserError(
            f"{where}: holds three judgements of an item, and only the file's name tells which of the nine "
            "pairs they belong to; name it as RM-R1 does, total_dataset_1_*.json to total_dataset_3_*.json"
        )
    for i in MATRIX:
        fields = {name: value[i] for name, value in lists.items()}
        yield i, (i + int(rotation[1]) - 1) % 3, fields | {"rejected_style": i}


def styled(row: Row, i: int, cell_row: Row) -> Row:
    """`conversation_fields` for one of an item's pairs in RM-Bench."""
    texts = [row.get("chosen"), row.get("rejected")]
    if not isinstance(row.get("prompt"), str) or not all(isinstance(text, list) for text in texts):
        return {}
    prompt = [{"role": "user", "content": row["prompt"]}]
    rejected = _answer(texts[1], cell_row["rejected_style"])
    return conversation_fields(
        {"text_chosen": [*prompt, _answer(texts[0], i)], "text_rejected": [*prompt, rejected]}
    )


def _answer(texts: Any, style: int) -> dict[str, Any]:
    return {"role": "assistant", "content": texts[style] if style < len(texts) else None}
