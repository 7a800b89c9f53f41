# SPDX-License-Identifier: Apache-2.0
"""Recipes whose keys contradict each other: the refusal names the key to change."""

import re

import pytest
from own_recipes import GRPO, refusal, writer

from reasongrm_nemo.recipe.load import (
    load_recipe,
    recipes_root,
)


@pytest.fixture
def recipe(tmp_path):
    return writer(tmp_path)


@pytest.mark.parametrize(
    ("override", "key", "says"),
    [
        ("grpo.global_batch=100", "grpo.global_batch", "= 256"),
        ("cluster.tensor_parallel=2", "cluster.tensor_parallel", "does not divide the 1 devices"),
        ("cluster.sequence_parallel=true", "cluster.sequence_parallel", "tensor_parallel 1"),
        ("cluster.weight_transfer=nccl", "cluster.weight_transfer", "only gloo"),
        ("model.max_model_len=300", "model.max_model_len", "= 320"),
        ("grpo.max_tokens_per_micro_batch=319", "grpo.max_tokens_per_micro_batch", "= 320"),
        ("grpo.optimizer_steps=5", "grpo.optimizer_steps", "divide grpo.prompts_per_step 32"),
        ("grpo.samples_per_prompt=1", "grpo.samples_per_prompt", "2 samples or more"),
        ("grpo.kl_estimator=k4", "grpo.kl_estimator", "k1, k2, k3"),
        ("judge.policy=strict_lst", "judge.policy", 'did you mean "strict_last"?'),
        ("model.dtype=fp16", "model.dtype", "fp32, bf16"),
        ("rollout.top_p=0", "rollout.top_p", "above 0"),
        ("rollout.temperature=0", "rollout.temperature", "samples that differ"),
        ("rollout.temperature=-1", "rollout.temperature", "from 0.01 to 2"),
        ("rollout.port=here", "rollout.port", "a whole number from 1, or null"),
        ("rollout.servers=0", "rollout.servers", "1 or more"),
        ("rollout.sleep=true", "rollout.sleep", "on GPUs alone"),
        ("rollout.gpu_memory_utilization=1.1", "rollout.gpu_memory_utilization", "at most 1"),
        ("rollout.straggler_timeout_s=0", "rollout.straggler_timeout_s", "above 0, or null"),
        ("rollout.straggler_timeout_s=soon", "rollout.straggler_timeout_s", "above 0, or null"),
        ("rollout.gpus=[0,1]", "rollout.gpus", "needs 1"),
        ("cluster.offload_optimizer=true", "cluster.offload_optimizer", "only exists on GPUs"),
        ("grpo.entropy_coefficient=-0.1", "grpo.entropy_coefficient", "0 or more"),
        ("grpo.steps=0", "grpo.steps", "a whole number from 1"),
        ("grpo.clip_low=1.0", "grpo.clip_low", "below 1"),
        ("grpo.skip_tasks=-1", "grpo.skip_tasks", "0 or more"),
        ("grpo.max_tasks=0", "grpo.max_tasks", "a whole number from 1, or null"),
        ("inputs.tasks=7", "inputs.tasks", "must be a path"),
        ("checkpoints.checkpoint_must_save_by=3h", "checkpoints.checkpoint_must_save_by", "HH:MM:SS"),
        ("checkpoints.keep_best=1", "checkpoints.keep_best", "validation.every above 0"),
        ("grpo.validation.patience=1", "grpo.validation.patience", "validation.every above 0"),
        ("grpo.validation.every=3", "grpo.validation.every", "divide grpo.save_every 10"),
        ("grpo.validation.every=5", "inputs.validation", "needs held-out tasks"),
        (
            "grpo.validation={every: 5, export: best}",
            "grpo.validation.export",
            "checkpoints.keep_best above 0",
        ),
        ("name=../up", "name", "letters"),
        ("model.trust_remote_code=true", "model.trust_remote_code", "runs no code"),
    ],
)
def test_keys_that_contradict_each_other_are_refused(recipe, override, key, says):
    message = refusal(recipe(GRPO), override)
    assert re.match(rf"[^ ]+( line)?(:\d+)?: {re.escape(key)} ", message), message
    assert says in message


def test_the_best_is_kept_only_if_every_validation_has_a_checkpoint(recipe):
    words = ["grpo.validation.every=5", "inputs.validation=v", "checkpoints.keep_best=1"]
    message = refusal(recipe(GRPO), *words)
    assert "checkpoints.keep_best is 1" in message and "make it 5, as grpo.validation.every" in message
    assert load_recipe(recipe(GRPO), [*words, "grpo.save_every=5"]).checkpoints.keep_best == 1


def test_a_bigger_cluster_passes_the_checks(recipe):
    words = ["cluster.devices_per_node=8", "cluster.tensor_parallel=4", "cluster.sequence_parallel=true"]
    words += ["cluster.platform=gpu", "cluster.weight_transfer=ipc"]
    load_recipe(recipe(GRPO), [*words, "model.dtype=bf16"])
    assert "model.dtype is fp32 on cluster.platform gpu" in refusal(recipe(GRPO), *words)


def test_weights_travel_between_gpus_or_within_them(recipe):
    words = ["cluster.platform=gpu", "cluster.devices_per_node=4", "rollout.servers=2", "model.dtype=bf16"]
    words += ["rollout.tensor_parallel=2"]
    nccl, ipc = (f"cluster.weight_transfer={how}" for how in ("nccl", "ipc"))
    assert "GPUs 0, 1, 2, 3 would hold a trainer's rank" in refusal(recipe(GRPO), *words, nccl)
    load_recipe(recipe(GRPO), [*words, ipc])
    load_recipe(recipe(GRPO), [*words, nccl, "rollout.gpus=[4,5,6,7]"])
    assert "GPUs 4, 5 of the servers have no trainer's rank" in refusal(
        recipe(GRPO), *words, ipc, "rollout.gpus=[2,3,4,5]"
    )
    assert "2 different GPUs" in refusal(recipe(GRPO), *words, ipc, "rollout.gpus=[1,0,1,0]")


def test_servers_on_nodes_of_their_own(recipe):
    words = ["cluster.platform=gpu", "cluster.devices_per_node=4", "cluster.nodes=2", "model.dtype=bf16"]
    words += ["cluster.weight_transfer=nccl", "rollout.servers=2", "rollout.nodes=2"]
    load_recipe(recipe(GRPO), words)
    assert "only a Slurm job has other nodes" in refusal(recipe(GRPO), *words, "cluster.launcher=local")
    assert "more than the rollout.servers 2" in refusal(recipe(GRPO), *words, "rollout.nodes=3")
    assert "on one GPU; take nccl" in refusal(recipe(GRPO), *words, "cluster.weight_transfer=ipc")
    few = [*words, "rollout.servers=4", "rollout.gpus=[0]"]
    assert "rollout.servers 4, on 2 nodes 2 each, × rollout.tensor_parallel 1 needs 2" in refusal(
        recipe(GRPO), *few
    )


def test_a_lag_goes_with_neither_refills_nor_importance_weights(recipe):
    load_recipe(recipe(GRPO), ["grpo.max_lag=1"])
    assert "the next step's tasks are not known" in refusal(
        recipe(GRPO), "grpo.max_lag=1", "grpo.refill_rounds=1"
    )
    assert "has nothing to correct" in refusal(
        recipe(GRPO), "grpo.max_lag=1", "grpo.importance.correction=masked"
    )


def test_sft_validates_on_examples_that_it_holds_out():
    sft = recipes_root() / "tiny" / "4_sft.yaml"
    load_recipe(sft, ["sft.validation.every=1"])
    assert "between 0 and 1" in refusal(sft, "sft.validation.every=1", "sft.validation.fraction=1.0")


def test_each_data_parallel_rank_needs_a_sequence(recipe):
    words = ["cluster.nodes=2", "cluster.devices_per_node=8", "grpo.samples_per_prompt=2"]
    load_recipe(recipe(GRPO), [*words, "grpo.prompts_per_step=8"])
    assert "gives 14 sequences a step, fewer than the 16 data-parallel ranks" in refusal(
        recipe(GRPO), *words, "grpo.prompts_per_step=7"
    )


def test_a_penalty_may_grow_over_the_whole_response_and_no_further(recipe):
    load_recipe(recipe(GRPO), ["rollout.max_response_tokens=60", "grpo.overlong.buffer=60"])
    assert "more than rollout.max_response_tokens, 60" in refusal(
        recipe(GRPO), "rollout.max_response_tokens=60", "grpo.overlong.buffer=61"
    )


def test_lengths_may_reach_the_positions_of_rope_and_no_further():
    long = recipes_root() / "qwq_32b" / "1_grpo_zero.yaml"
    load_recipe(long, ["model.max_model_len=131072"])
    assert "past the 131072 positions" in refusal(long, "model.max_model_len=131073")
