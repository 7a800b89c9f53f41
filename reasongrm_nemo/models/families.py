# SPDX-License-Identifier: Apache-2.0
"""The model families that can be trained and converted, by model_type; register new ones here."""

from reasongrm_nemo.models.llama import LLAMA
from reasongrm_nemo.models.mistral import MISTRAL
from reasongrm_nemo.models.phi3 import PHI3
from reasongrm_nemo.models.qwen2 import QWEN2
from reasongrm_nemo.models.qwen3 import QWEN3

FAMILIES = {family.model_type: family for family in (QWEN2, QWEN3, LLAMA, MISTRAL, PHI3)}
