# SPDX-License-Identifier: Apache-2.0
"""Judgements: prompts, verdict parsing, and the split of a response into reasoning and answer."""

from reasongrm_nemo.judge.open_answers import EQUIVALENCES, OpenAnswer, load_equivalence, read_answer
from reasongrm_nemo.judge.parse import POLICIES, Parsed, parse_verdict
from reasongrm_nemo.judge.sanitize import CHAT_SPECIAL_TOKENS, forgeries, sanitize
from reasongrm_nemo.judge.settings import JudgeSampling, JudgeSettings, published_sampling, read_settings
from reasongrm_nemo.judge.split import answer_start
from reasongrm_nemo.judge.template import Template, build_messages, built_in_templates, load_template
from reasongrm_nemo.judge.think import THINK_CLOSE, THINK_OPEN, begun_by, left_open

__all__ = [
    "CHAT_SPECIAL_TOKENS",
    "EQUIVALENCES",
    "POLICIES",
    "THINK_CLOSE",
    "THINK_OPEN",
    "JudgeSampling",
    "JudgeSettings",
    "OpenAnswer",
    "Parsed",
    "Template",
    "answer_start",
    "begun_by",
    "build_messages",
    "built_in_templates",
    "forgeries",
    "left_open",
    "load_equivalence",
    "load_template",
    "parse_verdict",
    "published_sampling",
    "read_answer",
    "read_settings",
    "sanitize",
]
