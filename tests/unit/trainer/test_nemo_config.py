# SPDX-License-Identifier: Apache-2.0
"""NeMo's configuration of the shipped GPU recipes."""

import json
from pathlib import Path

import pytest

from reasongrm_nemo.megatron.nemo_config import nemo_config
from reasongrm_nemo.megatron.platform import CPU, GPU
from reasongrm_nemo.models.architecture import Architecture
from reasongrm_nemo.plan.simulation.fake_rank import SIMULATED_GPU
from reasongrm_nemo.recipe.load import load_recipe, recipes_root

CONFIGS = Path(__file__).parents[3] / "reasongrm_nemo" / "assets" / "configs"


def configured(recipe, model, platform, *words):
    recipe = load_recipe(recipes_root() / recipe, words)
    file = CONFIGS / model / "config.json"
    architecture = Architecture.from_config(json.loads(file.read_text()), str(file), recipe.model.rope)
    return nemo_config(recipe, recipe[recipe.stage].optim, architecture, platform)


@pytest.fixture(scope="module")
def qwq():
    return configured("qwq_32b/1_grpo_zero.yaml", "qwq_32b", GPU)


def test_qwq_is_trained_in_bf16_from_fp32_weights(qwq):
    assert (qwq.trainer.precision, qwq.model.precision, qwq.model.megatron_amp_O2) == ("bf16", "bf16", True)
    assert qwq.model.optim.name == "mcore_distributed_optim"
    assert qwq.model.optim.grad_sync_dtype == "fp32"
    # either would leave weights incomplete when they are pushed to the rollout server
    assert not qwq.model.optim.overlap_param_sync and not qwq.model.optim.overlap_grad_sync
    assert not qwq.model.optim.check_for_nan_in_grad


def test_megatron_s_optimizer_clips_gradients_as_the_recipe_says(qwq):
    """NeMo passes on the trainer's value (modelPT.py, setup_megatron_optimization); null fails in a step."""
    assert qwq.trainer.gradient_clip_val == 1.0


def test_qwq_s_layout_and_memory(qwq):
    model = qwq.model
    assert (model.tensor_model_parallel_size, model.pipeline_model_parallel_size) == (8, 4)
    assert model.sequence_parallel and model.transformer_engine and not model.use_cpu_initialization
    assert (model.activations_checkpoint_granularity, model.activations_checkpoint_method) == (
        "full",
        "uniform",
    )
    assert model.activations_checkpoint_num_layers == 1 and model.encoder_seq_length == 65536
    assert model.offload_optimizer
    assert (qwq.trainer.num_nodes, qwq.trainer.devices) == (4, 8)


def test_qwq_s_yarn_is_in_the_softmax_scale(qwq):
    """(0.1 ln 4 + 1)² / sqrt(128): YaRN multiplies sines and cosines by 0.1 ln 4 + 1."""
    assert qwq.model.softmax_scale == pytest.approx((0.1 * 1.3862943611 + 1) ** 2 / 128**0.5)


def test_cpu_recipes_use_none_of_these():
    config = configured("tiny/4_sft.yaml", "qwen2_5_7b", CPU)
    assert set(config.model.optim) == {"name", "lr", "betas", "eps", "weight_decay"}
    assert not config.model.megatron_amp_O2 and not config.model.offload_optimizer
    assert config.model.activations_checkpoint_granularity is None


def test_the_simulation_has_the_gpu_s_keys_except_for_the_layers(qwq):
    """Keys, not Transformer Engine, decide which activations of SwiGLU and rope a GPU keeps."""
    simulated = configured("qwq_32b/1_grpo_zero.yaml", "qwq_32b", SIMULATED_GPU)
    differing = {key for key in qwq.model if qwq.model[key] != simulated.model[key]}
    assert differing == {"transformer_engine", "use_cpu_initialization"}
    assert {key for key in qwq.trainer if qwq.trainer[key] != simulated.trainer[key]} == {"accelerator"}
    assert qwq.model.bias_activation_fusion and qwq.model.apply_rope_fusion
