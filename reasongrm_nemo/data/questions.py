# SPDX-License-Identifier: Apache-2.0
r"""Reads questions with a reference answer, from the same kinds of files as pairs; drops are counted.

A row has its question in `question`, `problem` or `prompt` (text), or in `prompt` or `messages` (turns that
end with the user's), and the reference in `reference`, `answer` or `solution`: the final answer itself, or a
text that states it like a response (`\boxed{...}`, `#### ...`), so the rows of GSM8K and MATH are read as
published. A row's `system`, `id` and `source` are used too; other fields are ignored.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from reasongrm_nemo.data.columns import QUESTION_FIELDS, REFERENCE_FIELDS, Columns
from reasongrm_nemo.data.pairs import (
    MAX_CHARS,
    check_texts,
    content_id,
    keyed,
    name_of,
    no_nul,
    prompt_turns,
    row_as_object,
    with_system,
)
from reasongrm_nemo.data.problems import RowProblem
from reasongrm_nemo.data.records import AnswerTask, QuestionAnswer
from reasongrm_nemo.data.sameness import same_key
from reasongrm_nemo.data.sources import Loaded, gather, none_left, with_own_ids
from reasongrm_nemo.judge import CHAT_SPECIAL_TOKENS, read_answer, sanitize
from reasongrm_nemo.judge.think import THINK_CLOSE


@dataclass
class LoadedQuestions(Loaded):
    """Questions and drops: `read` = `len(questions)` + all `drops`."""

    questions: list[QuestionAnswer] = field(default_factory=list)


def read_questions(
    paths: str | Path | Sequence[str | Path],
    max_chars: int = MAX_CHARS,
    columns: Mapping[str, Any] | None = None,
) -> LoadedQuestions:
    """All valid, distinct questions of files or folders, in file order.

    Args:
        paths: as for `read_pairs`.
        max_chars: limit on the total characters of a row's texts.
        columns: `prepare.columns`.

    Raises:
        UserError: a file is missing, empty or unreadable, a field of `columns` is in no row, or no valid
            question is left.
    """
    loaded, mapped = LoadedQuestions(), Columns.of(columns)
    placed = gather(
        paths,
        loaded,
        lambda _: lambda row: (mapped.apply(row),),
        lambda row, source: question_from_row(row, source, max_chars),
        _without_nul,
    )
    if placed:
        mapped.check_met(str(paths))
    _keep_distinct(placed, loaded)
    if not loaded.questions:
        raise none_left(paths, loaded, "a question with a reference")
    return loaded


def _without_nul(question: QuestionAnswer) -> QuestionAnswer:
    prompt = [turn | {"content": no_nul(turn["content"])} for turn in question.prompt]
    return replace(question, prompt=prompt, reference=no_nul(question.reference))


def question_from_row(
    row: Any, default_source: str = "unknown", max_chars: int = MAX_CHARS
) -> QuestionAnswer:
    """Turns one row into a question; without an id, its content is hashed.

    Raises:
        RowProblem: the row is refused.
    """
    row = row_as_object(row)
    asked = next((row[name] for name in QUESTION_FIELDS if name in row), None)
    given = next((row[name] for name in REFERENCE_FIELDS if name in row), None)
    if type(given) is float and not math.isfinite(given):  # JSON's NaN and Infinity, and 1e999
        raise RowProblem("no_reference")
    given = str(given) if type(given) in (int, float) else given
    if not isinstance(given, str):
        raise RowProblem("wrong_type", f"the reference ({', '.join(REFERENCE_FIELDS)}) is not text")
    turns = prompt_turns(asked)
    if turns is None:
        raise RowProblem("wrong_type", f"there is no question ({', '.join(QUESTION_FIELDS)})")
    prompt = with_system(row, turns)
    check_texts((given, *(turn["content"] for turn in prompt)), max_chars)
    if not prompt or prompt[-1]["role"] != "user" or not prompt[-1]["content"].strip():
        raise RowProblem("empty_prompt")
    reference = read_answer(THINK_CLOSE + given).answer
    if reference is None:
        raise RowProblem("no_reference")
    return QuestionAnswer(
        id=name_of(row.get("id")) or content_id(prompt, reference),
        source=name_of(row.get("source")) or default_source,
        prompt=prompt,
        reference=reference,
    )


def make_answer_tasks(
    questions: Iterable[QuestionAnswer],
    instruction: str,
    special_tokens: Iterable[str] = CHAT_SPECIAL_TOKENS,
) -> Iterator[AnswerTask]:
    """The tasks for the questions, in the same order.

    Args:
        questions: the questions.
        instruction: appended to the last turn after a blank line; tells how to give the answer.
        special_tokens: the answering model's special tokens, neutralized in the data.
    """
    tokens = tuple(special_tokens)
    for question in questions:
        messages = [turn | {"content": sanitize(turn["content"], tokens)} for turn in question.prompt]
        messages[-1]["content"] += f"\n\n{instruction}" if instruction else ""
        yield AnswerTask(question.id, question.source, messages, question.reference)


def _keep_distinct(placed: Sequence[tuple[str, QuestionAnswer]], loaded: LoadedQuestions) -> None:
    """Move questions into `loaded`, without duplicates and questions with several references."""
    asked = [content_id(keyed(question.prompt)) for _, question in placed]
    references: dict[str, set[str]] = {}
    for key, (_, question) in zip(asked, placed, strict=True):
        references.setdefault(key, set()).add(same_key(question.reference))
    seen: set[str] = set()
    for key, (where, question) in zip(asked, placed, strict=True):
        if len(references[key]) > 1:
            loaded.drop("other_reference", where, question.id)
        elif key in seen:
            loaded.drop("duplicate", where, question.id)
        else:
            seen.add(key)
            loaded.questions.append(question)
    loaded.questions = with_own_ids(
        loaded.questions, lambda question: content_id(question.prompt, question.reference)
    )
