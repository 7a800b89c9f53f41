# SPDX-License-Identifier: Apache-2.0
"""Recipes that a user writes beside the shipped ones."""

import pytest

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.recipe.load import (
    load_recipe,
)

GRPO = """
defaults: [base/grpo, model/tiny, cluster/cpu]
inputs: {tasks: "@0_prepare/tasks.jsonl"}
grpo: {max_tokens_per_micro_batch: 4096}
"""


EVALUATE = """
defaults: [base/evaluate, model/tiny, cluster/cpu]
inputs: {tasks: "@0_prepare/validation.jsonl"}
evaluate:
  models: {base: "${model.hf_path}", zero: "@1_grpo_zero/hf"}
"""


def writer(folder):
    """``write(text, name)``: writes a user's recipe below a folder and returns the file."""

    def write(text, name="1_stage.yaml"):
        path = folder / "mine" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write


def refusal(path, *overrides):
    with pytest.raises(UserError) as caught:
        load_recipe(path, overrides)
    return str(caught.value)
