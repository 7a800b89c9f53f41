# SPDX-License-Identifier: Apache-2.0
"""Reasons for refusing a row, by name and in words, and the exception for them."""

from __future__ import annotations

ROLES = ("system", "user", "assistant", "tool")

DROP_REASONS = {
    "broken_line": "the row cannot be read: no JSON, no UTF-8, or not as many cells as the header",
    "unknown_form": "the fields are of no known form",
    "wrong_type": "not an object, a field is missing, or one is of the wrong type",
    "unknown_role": f"a turn's role is none of {', '.join(ROLES)}",
    "not_text": "a part is no text (an image, a sound), which the judge cannot be shown",
    "tool_call": "a tool call cannot be shown: it is no object, or has no name",
    "bad_text": "a text holds half a surrogate pair, which is no Unicode",
    "huge_text": "the texts are longer than prepare.max_chars",
    "empty_prompt": "the shared turns hold no user turn with text",
    "no_assistant_turn": "an answer is not the assistant's",
    "no_shared_prompt": "chosen and rejected do not begin with the same turns",
    "other_prompt": "the prompt beside the conversations is not what they begin with",
    "early_fork": "the conversations part before their last question",
    "empty_answer": "an answer has no text",
    "identical_answers": "both answers are the same",
    "tie": "the label says that neither answer is better",
    "no_label": "the label names neither answer",
    "duplicate": "the pair or question was there before",
    "contradiction": "the pair is there with both preferences; all its copies are left out",
    "no_reference": "the reference holds no single final answer",
    "other_reference": "the question is there with another reference; all its copies are left out",
}
"""Reason -> words for every reason to drop a row. Manifests and drops.json have the words as keys."""


class RowProblem(Exception):
    """A row is refused; `reason` is a key of `DROP_REASONS`, `detail` tells more."""

    def __init__(self, reason: str, detail: str | None = None) -> None:
        super().__init__(DROP_REASONS[reason])
        self.reason = reason
        self.detail = detail
