# SPDX-License-Identifier: Apache-2.0
"""Imports of trainer ranks, for the process that they are forked from (see forked.py)."""

import importlib

from reasongrm_nemo.megatron.platform import load_platform

load_platform("cpu")  # before importing NeMo
for _name in (
    "transformers",
    "reasongrm_nemo.grpo.actor",
    "reasongrm_nemo.grpo.trainer",
    "reasongrm_nemo.grpo.validation",
    "reasongrm_nemo.megatron.checkpoints",
    "reasongrm_nemo.megatron.session",
    "reasongrm_nemo.megatron.training_run",
    "reasongrm_nemo.megatron.weights.transfer",
    "reasongrm_nemo.recipe.load",
    "reasongrm_nemo.sft.main",
    "reasongrm_nemo.sft.model",
):
    importlib.import_module(_name)
