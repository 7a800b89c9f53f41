# SPDX-License-Identifier: Apache-2.0
"""Builds NeMo's configuration of a training run from a recipe and its model's shape."""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf

from reasongrm_nemo.megatron.platform import Platform
from reasongrm_nemo.megatron.rope import softmax_scale
from reasongrm_nemo.models.architecture import Architecture, Layout
from reasongrm_nemo.stage_kinds import kind_of

# NeMo's keys for megatron-core's DistributedDataParallel (megatron_gpt_model.py, its setup_mcore_...).
_DISTRIBUTED_OPTIMIZER = {
    # sum gradients over micro-batches and ranks in fp32, whatever the weights' dtype
    "grad_sync_dtype": "fp32",
    # One reduction per step, after minutes of compute, is not worth overlapping. With overlap, a rank without
    # samples would hang the others, and weights would be gathered in the next forward pass, after the refit.
    "overlap_grad_sync": False,
    "overlap_param_sync": False,
    # scale before the sum instead of in the collective: the same mean, and gloo supports it
    "average_in_collective": False,
    # this check would end the run; the trainer skips the step instead
    "check_for_nan_in_grad": False,
}


def nemo_config(
    recipe: DictConfig, optim: DictConfig, architecture: Architecture, platform: Platform
) -> DictConfig:
    """Build the ``{trainer, exp_manager, model}`` config that NeMo-Aligner's scripts expect.

    Batch sizes in the config only satisfy NeMo; the trainers split batches by token budget
    (``megatron.micro_batches``).

    Args:
        recipe: a resolved recipe.
        optim: the stage's ``optim`` block.
        architecture: shape of the model.
        platform: see ``megatron.platform``.
    """
    cluster = recipe.cluster
    world = cluster.nodes * cluster.devices_per_node
    data_parallel = world // (cluster.tensor_parallel * cluster.pipeline_parallel)
    precision = {"fp32": 32, "bf16": "bf16"}[recipe.model.dtype]
    model = {
        **_model_in_this_run(recipe, platform),
        "precision": precision,
        "global_batch_size": data_parallel,
        **model_keys(architecture, Layout.of_cluster(cluster)),
        **_recompute_keys(recipe.model.recompute),
        "optim": _optimizer(optim, platform),
    }
    trainer = {
        "accelerator": platform.accelerator,
        "devices": cluster.devices_per_node,
        "num_nodes": cluster.nodes,
        "precision": precision,
        "logger": False,
        "enable_checkpointing": False,
        "use_distributed_sampler": False,
        "max_epochs": -1,
        "max_steps": -1,
        # used by megatron-core's optimizer, which clips in its step; the CPU optimizer gets it as an argument
        "gradient_clip_val": optim.clip_grad,
        "aligner": {},
    }
    return OmegaConf.create({"trainer": trainer, "exp_manager": {}, "model": model})


def _model_in_this_run(recipe: DictConfig, platform: Platform) -> dict[str, object]:
    """Keys of NeMo's ``model`` block that depend on the run or the machine, not on the model's shape."""
    cluster = recipe.cluster
    return {
        "seed": recipe.seed % 2**31 + 1,
        "megatron_amp_O2": platform.amp_o2,
        "mcore_gpt": True,
        "transformer_engine": platform.transformer_engine,
        "use_cpu_initialization": not platform.transformer_engine,
        "sequence_parallel": cluster.sequence_parallel,
        "micro_batch_size": 1,
        "encoder_seq_length": recipe.model.max_model_len,
        "max_position_embeddings": recipe.model.max_model_len,
        # pipeline stages announce each micro-batch's shape; megatron-core allows this for a dense model only
        # if this mixture-of-experts dispatcher is named
        "variable_seq_lengths": True,
        "moe_token_dispatcher_type": "alltoall",
        "log_prob_chunk": recipe.model.log_prob_chunk,
        # GRPO trains the distribution it samples from, and compares that one with the reference
        "temperature": recipe.rollout.temperature if kind_of(recipe).on_policy else 1.0,
        # Some fusions need Apex's CUDA kernels, others compile for one fixed shape. Two are ours, on every
        # device, so that a GPU holds what the plan says (megatron.elementwise).
        "masked_softmax_fusion": False,
        "bias_dropout_add_fusion": False,
        "bias_activation_fusion": True,
        "gradient_accumulation_fusion": False,
        "apply_rope_fusion": True,
        "cross_entropy_loss_fusion": False,
        "persist_layer_norm": False,
        "gradient_as_bucket_view": True,
        "dist_ckpt_format": "torch_dist",
        "offload_optimizer": cluster.offload_optimizer,
        "data": {},
        # read by NeMo-Aligner's base actor; generation uses vLLM
        "reinforce": {
            "forward_micro_batch_size": 1,
            "offload_adam_states": False,
            "length_params": {},
            "sampling_params": {},
        },
    }


def _optimizer(optim: DictConfig, platform: Platform) -> dict[str, object]:
    return {
        "name": platform.optimizer,
        "lr": optim.lr,
        "betas": list(optim.betas),
        "eps": optim.eps,
        "weight_decay": optim.weight_decay,
        **(_DISTRIBUTED_OPTIMIZER if platform.distributed_optimizer else {}),
    }


def model_keys(architecture: Architecture, layout: Layout) -> dict[str, object]:
    """The model's shape and layout in NeMo's keys, without keys that depend on the run or the machine."""
    # NeMo divides the remaining layers by the number of stages that are neither first nor last: not by 0
    last = None if layout.pipeline == 2 and layout.first is not None else layout.last
    return {
        "tensor_model_parallel_size": layout.tensor,
        "pipeline_model_parallel_size": layout.pipeline,
        "num_layers_in_first_pipeline_stage": layout.first,
        "num_layers_in_last_pipeline_stage": last,
        "num_layers": architecture.layers,
        "hidden_size": architecture.hidden,
        "ffn_hidden_size": architecture.ffn,
        "num_attention_heads": architecture.heads,
        "num_query_groups": architecture.kv_heads,
        "kv_channels": architecture.head_dim,
        "vocab_size": architecture.vocab,
        "override_vocab_size": layout.padded_vocab(architecture.vocab),
        "share_embeddings_and_output_weights": architecture.tied,
        "normalization": "rmsnorm",
        "layernorm_epsilon": architecture.norm_eps,
        "activation": "fast-swiglu",
        "bias": False,
        "qkv_bias": False,
        "qk_layernorm": False,
        "position_embedding_type": "rope",
        "rotary_percentage": 1.0,
        "rotary_base": architecture.rope.theta,
        "softmax_scale": softmax_scale(architecture.rope, architecture.head_dim),
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "ffn_dropout": 0.0,
        "init_method_std": 0.02,
        **architecture.family.megatron,
    }


def _recompute_keys(recompute: str) -> dict[str, object]:
    full = recompute == "full"
    return {
        "activations_checkpoint_granularity": "full" if full else None,
        "activations_checkpoint_method": "uniform" if full else None,
        "activations_checkpoint_num_layers": 1 if full else None,
        "activations_checkpoint_layers_per_pipeline": None,
    }
