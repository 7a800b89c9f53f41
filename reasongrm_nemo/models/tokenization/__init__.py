# SPDX-License-Identifier: Apache-2.0
"""Tokenizes prompts and responses, the same in every stage and as transformers does.

Needs only `tokenizers` and `jinja2`, which lets the command line and light stages start without torch.
"""

from reasongrm_nemo.models.tokenization.chat_template import MessagesRefused, asks_for_date
from reasongrm_nemo.models.tokenization.responses import Response, Reteller, Unfit
from reasongrm_nemo.models.tokenization.tokenizer import (
    JudgeTokenizer,
    load_tokenizer,
    opens_think,
    prompt_ids,
    response_ids,
    stop_token_ids,
)

__all__ = [
    "JudgeTokenizer",
    "MessagesRefused",
    "Response",
    "Reteller",
    "Unfit",
    "asks_for_date",
    "load_tokenizer",
    "opens_think",
    "prompt_ids",
    "response_ids",
    "stop_token_ids",
]
