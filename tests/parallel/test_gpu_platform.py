# SPDX-License-Identifier: Apache-2.0
"""The GPU platform's precision and optimizer, on CPU: bf16 weights, fp32 main weights, distributed states.

Same as on a GPU: NeMo's O2, megatron-core's DistributedDataParallel and distributed optimizer, checkpoints,
offload up to the copy itself. Different: Transformer Engine's layers and kernels, NCCL.
"""

import functools
import json
from pathlib import Path

import pytest
from small_models import write_model

WORKER = str(Path(__file__).parent / "gpu_platform_worker.py")
# platform, ranks, tensor parallel (with sequence parallel above 1), pipeline parallel
CASES = {
    "fp32": ("cpu", 1, 1, 1),
    "one rank": ("gpu", 1, 1, 1),
    "dp2": ("gpu", 2, 1, 1),
    "tp2": ("gpu", 2, 2, 1),
    "pp2": ("gpu", 2, 1, 2),
}
GPU = [case for case in CASES if case != "fp32"]


@pytest.fixture(scope="module")
def ran(launch, tmp_path_factory):
    @functools.cache
    def run(case):
        platform, world, tensor, pipeline = CASES[case]
        folder = tmp_path_factory.mktemp("gpu")
        model, out = write_model("qwen2_untied", folder / "hf"), folder / "figures.json"
        launch(WORKER, world, model, platform, tensor, pipeline, out)
        return json.loads(out.read_text())

    return run


@pytest.mark.parametrize("case", GPU)
def test_a_step_equals_that_in_fp32_up_to_bf16(case, ran):
    """Loss 1e-6 (each ratio is 1); the first gradient's norm 1 % (seen 0.2 %: bf16 has 8 bits)."""
    figures, control = ran(case), ran("fp32")
    assert figures["dtypes"] == ["torch.bfloat16"] and figures["states"] == ["torch.float32"]
    assert figures["losses"][0] == pytest.approx(control["losses"][0], rel=1e-6)
    assert figures["norms"][0] == pytest.approx(control["norms"][0], rel=1e-2)
    # one sample: the second of two data-parallel ranks has none and still takes part in the reduction
    assert figures["single"] == pytest.approx(control["single"], rel=1e-6)


@pytest.mark.parametrize("case", GPU)
def test_training_starts_from_the_checkpoint_s_weights(case, ran):
    """Adam moves no weight by more than the learning rate (a third of 1e-3, plus bf16's rounding)."""
    assert 0 < ran(case)["first_move"] <= 1e-3


@pytest.mark.parametrize("case", GPU)
def test_a_checkpoint_restores_everything(case, ran):
    figures = ran(case)
    assert figures["restored"] == figures["norm_again"] == figures["step_again"] == 0.0


@pytest.mark.parametrize("case", GPU)
def test_optimizer_states_are_sharded_and_offloaded_completely(case, ran):
    """Three fp32 numbers a parameter over the data-parallel ranks, 12 bytes, as the simulation counts."""
    figures = ran(case)
    assert figures["states_a_parameter"] == pytest.approx(3.0, rel=1e-3)
    assert figures["offloaded"] and figures["onloaded"]
