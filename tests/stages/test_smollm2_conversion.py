# SPDX-License-Identifier: Apache-2.0
"""Real weights survive the conversion to Megatron and back bitwise."""

import pytest
import success
import torch
from safetensors.torch import load_file

from reasongrm_nemo.megatron.weights import convert
from reasongrm_nemo.models.architecture import Layout


@pytest.mark.runs("conversion/smollm2_from_package.py")
@pytest.mark.parametrize(
    "layout", [Layout(), Layout(3, 4, first=7, last=7)], ids=["tp1-pp1", "tp3-pp4-uneven"]
)
def test_round_trip(layout, smollm2, tmp_path):
    done = convert.hf_to_megatron(smollm2, tmp_path / "m", layout)
    assert (done.parameters, done.tensors) == (134_515_008, 272)
    assert convert.verify(smollm2, tmp_path / "m") == done.tensors
    convert.megatron_to_hf(tmp_path / "m", tmp_path / "h")
    before, after = (load_file(f / "model.safetensors") for f in (smollm2, tmp_path / "h"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    success.note("conversion/smollm2_from_package.py")  # by the fixture
