# SPDX-License-Identifier: Apache-2.0
"""Keeps benchmark prompts out of the training data, by shared n-grams of words (not in the paper)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from reasongrm_nemo.data.forms import prompt_of
from reasongrm_nemo.data.records import PreferencePair, QuestionAnswer
from reasongrm_nemo.data.rows import find_files, read_rows
from reasongrm_nemo.data.sameness import same_key
from reasongrm_nemo.errors import UserError

# Chinese and Japanese are written without spaces: each character is a word.
_IDEOGRAPH = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_IDEOGRAPH}]|[^\W{_IDEOGRAPH}]+")


class Decontaminator:
    """Finds prompts that share an n-gram of words with a benchmark prompt.

    Words are runs of letters and digits, compared without case and in one Unicode form. A turn of fewer than
    `n` words matches only a turn with exactly the same words; a turn without words (`?!`) only the same text.
    Only user turns are compared, never answers.

    Args:
        n: words per n-gram, at least 1.
    """

    def __init__(self, n: int) -> None:
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        self.n = n
        self.prompts = 0
        self._places: dict[str, str] = {}

    def add(self, where: str, texts: Iterable[str]) -> None:
        """Add the user turns of one benchmark prompt."""
        self.prompts += 1
        for text in texts:
            for run in self._runs(text):
                self._places.setdefault(run, where)

    def add_file(self, path: str | Path) -> None:
        """Add all prompts of a benchmark's file or folder, in any form that `forms` knows.

        Raises:
            UserError: a file cannot be read, or there is no prompt.
        """
        before = self.prompts
        for file in find_files(path):
            for where, row in read_rows(file):
                if texts := prompt_of(row):
                    self.add(where, texts)
        if self.prompts == before:
            raise UserError(
                f"{path}: no row has a prompt (under prompt, question, messages, chosen or similar); "
                "give the benchmark's own files to prepare.decontaminate"
            )

    def match(self, texts: Iterable[str]) -> tuple[str, str] | None:
        """Place of a matching benchmark prompt and the shared words, or None."""
        for text in texts:
            for run in self._runs(text):
                if run in self._places:
                    return self._places[run], run
        return None

    def _runs(self, text: str) -> Iterator[str]:
        words: Sequence[str] = _WORD.findall(unicodedata.normalize("NFC", text).lower())
        if len(words) < self.n:
            # words contain no line feed, which thus marks a whole short turn apart from an n-gram
            if words or (text := same_key(text)):
                yield "\n" + (" ".join(words) or text)
            return
        for start in range(len(words) - self.n + 1):
            yield " ".join(words[start : start + self.n])


def user_turns(pair: PreferencePair | QuestionAnswer) -> list[str]:
    """The texts of the user turns of a pair or a question."""
    return [turn["content"] for turn in pair.prompt if turn["role"] == "user"]
