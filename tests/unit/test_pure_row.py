# SPDX-License-Identifier: Apache-2.0
"""The bottom layer imports nothing heavy, so it can be run and tested anywhere."""

import subprocess
import sys

import pytest

HEAVY = "torch nemo nemo_aligner megatron lightning vllm transformers hydra omegaconf"
MODULES = [
    "reasongrm_nemo.data",
    "reasongrm_nemo.evaluation",
    "reasongrm_nemo.grpo",
    "reasongrm_nemo.judge",
    "reasongrm_nemo.rewards",
    "reasongrm_nemo.rstar",
]


@pytest.mark.parametrize("module", MODULES)
def test_importing_the_pure_row_is_light(module):
    code = f"import sys, {module}; print(*(set('{HEAVY}'.split()) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
