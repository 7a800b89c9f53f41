# SPDX-License-Identifier: Apache-2.0
"""Recipes for the paper's cluster that do not fit, and the key to change in each."""

from reasongrm_nemo.recipe.load import recipes_root

GRPO = recipes_root() / "qwq_32b" / "1_grpo_zero.yaml"
SFT = recipes_root() / "qwq_32b" / "4_sft.yaml"
SFT_7B = recipes_root() / "ablation" / "qwen2_5_7b" / "1_sft_random.yaml"
GENERATE = recipes_root() / "qwq_32b" / "2_generate.yaml"
ONE_NODE = ["cluster.nodes=1", "cluster.pipeline_parallel=1", "rollout.servers=1"]
BEST = ["sft.validation.every=10", "sft.save_every=10", "checkpoints.keep_best=5"]
# recipe, what makes it wrong, the key that the sentence begins with, and a further part of the sentence
WRONG = {
    "TP 3": (
        GRPO,
        ["cluster.tensor_parallel=3"],
        "cluster.tensor_parallel",
        "does not divide the 32 devices",
    ),
    "TP 16 of 8 KV heads": (
        GRPO,
        ["cluster.tensor_parallel=16", "cluster.pipeline_parallel=2"],
        "cluster.tensor_parallel",
        "num_attention_heads 40",
    ),
    "TP 8 of 4 KV heads": (
        SFT_7B,
        ["cluster.tensor_parallel=8"],
        "cluster.tensor_parallel",
        "num_attention_heads 28",
    ),
    "PP not dividing the layers": (
        SFT,
        ["cluster.nodes=3", "cluster.pipeline_parallel=3"],
        "cluster.pipeline_parallel",
        "num_hidden_layers 64",
    ),
    "uneven stages that do not add up": (
        GRPO,
        ["cluster.layers_in_first_stage=15"],
        "cluster.layers_in_first_stage is 15",
        "num_hidden_layers 64",
    ),
    "an uneven last stage that does not add up": (
        GRPO,
        ["cluster.layers_in_last_stage=15"],
        "cluster.layers_in_last_stage is 15",
        "num_hidden_layers 64",
    ),
    "two uneven stages that do not add up": (
        GRPO,
        ["cluster.layers_in_first_stage=15", "cluster.layers_in_last_stage=16"],
        "cluster.layers_in_first_stage is 15 and cluster.layers_in_last_stage is 16",
        "num_hidden_layers 64",
    ),
    "PP not dividing the devices": (
        GRPO,
        ["cluster.pipeline_parallel=3"],
        "cluster.tensor_parallel",
        "does not divide",
    ),
    "sequence parallel alone": (
        GRPO,
        ["cluster.tensor_parallel=1"],
        "cluster.sequence_parallel",
        "needs tensor parallelism",
    ),
    "context past rope": (
        GRPO,
        ["model.rope.type=null"],
        "model.max_model_len",
        "max_position_embeddings 40960",
    ),
    "context past YaRN": (GRPO, ["model.rope.factor=1.5"], "model.max_model_len", "49152 positions"),
    "batch not prompts × K": (GRPO, ["grpo.global_batch=255"], "grpo.global_batch", "= 256"),
    "a group of one": (GRPO, ["grpo.samples_per_prompt=1"], "grpo.samples_per_prompt", "2 samples"),
    "updates not dividing the prompts": (GRPO, ["grpo.optimizer_steps=5"], "grpo.optimizer_steps", "divide"),
    "vLLM's context below prompt + response": (
        GRPO,
        ["model.max_model_len=65535"],
        "model.max_model_len",
        "= 65536",
    ),
    "a micro-batch below one sequence": (
        GRPO,
        ["grpo.max_tokens_per_micro_batch=32768"],
        "grpo.max_tokens_per_micro_batch",
        "= 65536",
    ),
    "a micro-batch past memory": (
        GRPO,
        ["grpo.max_tokens_per_micro_batch=524288"],
        "grpo.max_tokens_per_micro_batch",
        "would bring that to",
    ),
    "no recomputation": (GRPO, ["model.recompute=none"], "model.recompute", "model.recompute=full"),
    "no sequence parallelism": (
        GRPO,
        ["cluster.sequence_parallel=false", "cluster.pipeline_parallel=1"],
        "cluster.sequence_parallel",
        "cluster.sequence_parallel=true",
    ),
    "TP 1": (
        GRPO,
        ["cluster.tensor_parallel=1", "cluster.sequence_parallel=false"],
        "cluster.tensor_parallel",
        "cluster.tensor_parallel=",
    ),
    "32B on one node": (
        SFT,
        ["cluster.nodes=1", "cluster.pipeline_parallel=1"],
        "model.max_model_len",
        "model.max_model_len=32768",
    ),
    "32B on four GPUs": (
        SFT,
        [
            "cluster.nodes=1",
            "cluster.devices_per_node=4",
            "cluster.tensor_parallel=4",
            "cluster.pipeline_parallel=1",
        ],
        "cluster.nodes",
        "take more",
    ),
    "a card of 40 GB": (GRPO, ["plan.device_memory_gib=39.4"], "rollout.gpu_memory_utilization", "would do"),
    "all logits at once": (
        GRPO,
        [
            "rollout.servers=1",
            "model.log_prob_chunk=65536",
            "cluster.pipeline_parallel=1",
            "cluster.nodes=1",
            "rollout.servers=1",
            "plan.device_memory_gib=90",
        ],
        "model.log_prob_chunk",
        "model.log_prob_chunk=1024",
    ),
    "a server that leaves the trainer no room": (
        GRPO,
        ["rollout.gpu_memory_utilization=0.9"],
        "rollout.gpu_memory_utilization",
        "0.72 would do",
    ),
    "a server that takes a whole GPU": (
        GENERATE,
        ["rollout.gpu_memory_utilization=1.0"],
        "rollout.gpu_memory_utilization",
        "0.94 would do",
    ),
    "a server that stays awake": (
        GRPO,
        ["rollout.sleep=false"],
        "rollout.gpu_memory_utilization",
        "a server's 55.5 and a trainer's, of 75.3; 0.61 would do, or rollout.sleep=true",
    ),
    "an awake server, which a lag needs": (
        GRPO,
        ["rollout.sleep=false", "grpo.max_lag=1"],
        "rollout.gpu_memory_utilization",
        "; 0.61 would do",
    ),
    "an awake server for which there is no place": (
        GRPO,
        ["rollout.sleep=false", "plan.device_memory_gib=40"],
        "rollout.sleep",
        "rollout.sleep=true would do",
    ),
    "a trainer beside which no server starts": (
        GRPO,
        [*ONE_NODE, "rollout.gpu_memory_utilization=0.08", "plan.device_memory_gib=84"],
        "cluster.nodes",
        "11.3 are left for it; take more",
    ),
    "a card too small for its part of the weights": (
        GENERATE,
        ["plan.device_memory_gib=3"],
        "cluster.devices_per_node",
        "or larger ones",
    ),
    "a server that leaves no cache": (
        GENERATE,
        ["rollout.tensor_parallel=1", "rollout.servers=8"],
        "rollout.tensor_parallel",
        "share the model among more GPUs",
    ),
    "a cache below one sequence": (
        GENERATE,
        ["rollout.tensor_parallel=2", "rollout.gpu_memory_utilization=0.45"],
        "rollout.gpu_memory_utilization",
        "not of one full sequence",
    ),
    "servers past the node": (GENERATE, ["rollout.servers=8"], "rollout.servers", "need 16 GPUs"),
    "servers past the node, GRPO": (GRPO, ["rollout.servers=8"], "rollout.servers", "need 16 GPUs"),
    "a server past the node": (GRPO, ["rollout.tensor_parallel=16"], "rollout.tensor_parallel", "node 8"),
    "servers' TP not dividing the heads": (
        GENERATE,
        ["rollout.tensor_parallel=3"],
        "rollout.tensor_parallel",
        "num_attention_heads 40",
    ),
    "a node with little memory": (
        GRPO,
        ["plan.host_memory_gib=128"],
        "checkpoints.asynchronous",
        "a node would need",
    ),
    "a node with less than the optimizer's states take": (
        GRPO,
        ["plan.host_memory_gib=50", "rollout.gpu_memory_utilization=0.65"],
        "checkpoints.asynchronous",
        "set it and cluster.offload_optimizer to false",
    ),
    "a node with little memory, and checkpoints that wait": (
        GRPO,
        ["plan.host_memory_gib=64", "checkpoints.asynchronous=false", "rollout.gpu_memory_utilization=0.65"],
        "cluster.offload_optimizer",
        "set it to false",
    ),
    "a node too small for its processes": (
        SFT,
        ["plan.host_memory_gib=1", "checkpoints.asynchronous=false"],
        "plan.host_memory_gib",
        "6.0 GiB (processes 6.0); take larger nodes",
    ),
    "the same where nothing is trained": (
        GENERATE,
        ["plan.host_memory_gib=5"],
        "plan.host_memory_gib",
        "6.0 GiB (processes 6.0); take larger nodes",
    ),
    "a small disk": (GRPO, ["plan.disk_gib=500"], "grpo.keep_checkpoints", "keep fewer"),
    "a disk for two checkpoints": (
        GRPO,
        ["plan.disk_gib=1000", "grpo.keep_checkpoints=100000"],
        "grpo.keep_checkpoints",
        "keep fewer: grpo.keep_checkpoints=1 would bring that to 918.0",
    ),
    "a disk for less than must be kept": (
        GRPO,
        ["plan.disk_gib=100", "grpo.keep_checkpoints=1"],
        "plan.disk_gib",
        "GiB of plan.disk_gib; free space",
    ),
    "a disk for fewer of the best": (
        SFT,
        ["plan.disk_gib=2000", *BEST],
        "checkpoints.keep_best",
        "keep fewer: checkpoints.keep_best=1 would bring that to",
    ),
    "a disk for the newest alone": (
        SFT,
        ["plan.disk_gib=1000", *BEST],
        "checkpoints.keep_best",
        "keep fewer: checkpoints.keep_best=0 sft.keep_checkpoints=1 would bring that to",
    ),
    "a disk too small for the paths": (GENERATE, ["plan.disk_gib=0.1"], "plan.disk_gib", "; free space"),
    "a typing error": (
        GRPO,
        ["cluster.tensor_paralel=8"],
        'unknown key "cluster.tensor_paralel"',
        "did you mean",
    ),
    "fp32 on a GPU": (GRPO, ["model.dtype=fp32"], "model.dtype", "bf16"),
    "a lag with sleeping servers": (GRPO, ["grpo.max_lag=1"], "grpo.max_lag", "sleep"),
}
