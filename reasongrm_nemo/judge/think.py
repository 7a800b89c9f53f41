# SPDX-License-Identifier: Apache-2.0
"""The tags around a model's reasoning, and whether a text leaves its reasoning open.

Who writes the opening tag depends on the chat template: QwQ's and DeepSeek-R1's put `<think>` at the end of
the prompt, Qwen3 writes its own, and Qwen2.5 and Llama 3 use no tags.
"""

from __future__ import annotations

THINK_OPEN = "<think>"
THINK_CLOSE = "</think>"


def left_open(text: str) -> bool:
    """True if the text opens its reasoning and does not close it.

    Args:
        text: a response; or what a prompt puts before one (the template's opening of the assistant's turn,
            then `judge.response_prefix`).
    """
    return text.rfind(THINK_OPEN) > text.rfind(THINK_CLOSE)
