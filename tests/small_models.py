# SPDX-License-Identifier: Apache-2.0
"""Random small Hugging Face checkpoints of every architecture that has a mapping, and layouts for them."""

from pathlib import Path

SHAPE = {
    "vocab_size": 99,  # odd, so that tensor parallelism pads it
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
}
LLAMA_31 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
MODELS = {
    "qwen2_tied": ("Qwen2", {"tie_word_embeddings": True, "rope_theta": 1e4}),
    "qwen2_untied": ("Qwen2", {"tie_word_embeddings": False, "rope_theta": 1e6}),
    # as in Qwen3: heads wider than hidden / heads
    "qwen3": ("Qwen3", {"tie_word_embeddings": True, "rope_theta": 1e6, "head_dim": 16}),
    "llama_untied": ("Llama", {"tie_word_embeddings": False, "rope_theta": 1e5}),
    # as in Mistral-Nemo
    "mistral": (
        "Mistral",
        {"tie_word_embeddings": False, "rope_theta": 1e6, "head_dim": 16, "sliding_window": None},
    ),
    # transformers would leave out a padding token's gradient
    "phi3": (
        "Phi3",
        {"tie_word_embeddings": False, "rope_theta": 2.5e5, "pad_token_id": None, "eos_token_id": 1},
    ),
    "llama_31": ("Llama", {"tie_word_embeddings": False, "rope_theta": 5e5, "rope_scaling": LLAMA_31}),
}


def write_model(name: str, folder: Path, **changes) -> Path:
    """Write the named model of MODELS to ``folder`` in fp32, the same each time."""
    import torch
    import transformers

    family, specifics = MODELS[name]
    config = getattr(transformers, f"{family}Config")(**(SHAPE | specifics | changes))
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # norm weights of 1 and biases of 0 would hide a wrong mapping
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.float().save_pretrained(folder, max_shard_size="60KB")
    return folder


def layout(devices, tensor, pipeline, sequence=False) -> list[str]:
    """Overrides of a recipe for this many ranks of one thread and this layout."""
    return [
        f"cluster.devices_per_node={devices}",
        f"cluster.tensor_parallel={tensor}",
        f"cluster.pipeline_parallel={pipeline}",
        f"cluster.sequence_parallel={sequence}",
        "cluster.threads_per_rank=1",
    ]
