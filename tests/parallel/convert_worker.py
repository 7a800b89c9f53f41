# SPDX-License-Identifier: Apache-2.0
"""One rank that loads a converted checkpoint: ``convert_worker.py SPEC.json``, run by test_conversion.py.

The spec names the Hugging Face folder, the converted one, how it is restored (``nemo_aligner``:
load_from_nemo; ``session``: as a recipe's model.megatron_path; ``hf``: from the Hugging Face folder), the
layout, the recipe's rope, and texts as token ids. Writes the largest difference of the logits from
transformers', and what a training checkpoint of this layout becomes.
"""

import json
import os
import sys
from pathlib import Path


def recipe_of(spec):
    from reasongrm_nemo.recipe.load import load_recipe, recipes_root

    rope = [f"model.rope.{key}={value}" for key, value in spec["rope"].items() if value is not None]
    return load_recipe(
        recipes_root() / "tiny" / "1_grpo_zero.yaml",
        [
            f"cluster.devices_per_node={os.environ['WORLD_SIZE']}",
            f"cluster.tensor_parallel={spec['tensor']}",
            f"cluster.pipeline_parallel={spec['pipeline']}",
            f"cluster.layers_in_first_stage={'null' if spec['first'] is None else spec['first']}",
            "cluster.threads_per_rank=1",
            "judge.max_prompt_tokens=64",
            f"model.max_model_len={spec['length']}",
            *rope,
        ],
    )


def main(spec_file):
    spec = json.loads(Path(spec_file).read_text())
    from reasongrm_nemo.megatron.platform import load_platform

    platform = load_platform("cpu")
    from omegaconf import OmegaConf

    from reasongrm_nemo.grpo.actor import GRPOActor
    from reasongrm_nemo.megatron import session as sessions

    sessions.quiet_libraries()
    recipe = recipe_of(spec)
    optim = recipe.grpo.optim
    if spec["how"] == "nemo_aligner":
        model = restore_with_nemo_aligner(recipe, optim, spec, platform)
        session = None
    else:
        megatron = Path(spec["megatron"]) if spec["how"] == "session" else None
        session = sessions.start(platform, GRPOActor, recipe, optim, 10, Path(spec["hf"]), megatron)
        model = session.model
    model.grpo = OmegaConf.create({"max_tokens_per_micro_batch": 2 * spec["length"]})
    figures = {"logits": largest_difference(model, spec)}
    if spec["how"] == "session":
        save(session, Path(spec["out"]))
    import torch.distributed as dist

    if dist.get_rank() == 0:
        (Path(spec["out"]) / "figures.json").write_text(json.dumps(figures))


def restore_with_nemo_aligner(recipe, optim, spec, platform):
    """The same two steps as in NeMo-Aligner's training scripts."""
    from nemo_aligner.utils.train_script_utils import resolve_and_create_trainer
    from nemo_aligner.utils.utils import load_and_override_model_config, load_from_nemo

    from reasongrm_nemo.grpo.actor import GRPOActor
    from reasongrm_nemo.megatron import rope
    from reasongrm_nemo.megatron.nemo_config import nemo_config
    from reasongrm_nemo.models.architecture import Architecture

    architecture = Architecture.from_folder(Path(spec["hf"]), recipe.model.rope)
    config = nemo_config(recipe, optim, architecture, platform)
    # the shape of the model must come from the checkpoint's own model_config.yaml
    for key in ("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "num_query_groups"):
        del config.model[key]
    trainer = resolve_and_create_trainer(config, "aligner")
    merged = load_and_override_model_config(spec["megatron"], config.model)
    merged.pop("tokenizer")
    model = load_from_nemo(GRPOActor, merged, trainer, strict=True, restore_path=spec["megatron"])
    rope.apply_rope(model.core_module(), architecture.rope, architecture.head_dim)
    return model


def largest_difference(model, spec):
    """Largest difference of this model's logits from transformers', over all texts and ranks."""
    import torch
    import torch.distributed as dist
    from megatron.core import parallel_state
    from transformers import AutoModelForCausalLM

    from reasongrm_nemo.megatron.forward_backward import run_micro_batches
    from reasongrm_nemo.megatron.micro_batches import Sample

    reference = AutoModelForCausalLM.from_pretrained(spec["reference"], torch_dtype=torch.float32).eval()
    module = model.core_module()
    seen: list = []
    if module.post_process:
        module.decoder.final_layernorm.register_forward_hook(lambda *arguments: seen.append(arguments[2]))
    worst = torch.zeros(1)
    with torch.no_grad():
        for ids in spec["texts"]:
            run_micro_batches(model.model, [Sample(tuple(ids), 1)], 2 * spec["length"], 1, None)
            if not module.post_process:
                continue
            tied = module.share_embeddings_and_output_weights
            weight = module.shared_embedding_or_output_weight() if tied else module.output_layer.weight
            logits = seen.pop()[:, 0].float() @ weight.T  # [s, vocabulary / tp]
            first = parallel_state.get_tensor_model_parallel_rank() * weight.shape[0]
            theirs = reference(torch.tensor([ids[:-1]])).logits[0, :, first : first + weight.shape[0]]
            worst = torch.maximum(worst, (logits[:, : theirs.shape[1]] - theirs).abs().max())
    dist.all_reduce(worst, op=dist.ReduceOp.MAX)
    return worst.item()


def save(session, out):
    """Save a training checkpoint of this layout, including the optimizer."""
    import torch

    from reasongrm_nemo.megatron.checkpoints import Checkpoints

    for parameter in session.model.core_module().parameters():
        parameter.grad = torch.zeros_like(parameter)
    session.optimizer.step()
    Checkpoints(out / "checkpoints", keep=1).save(
        1, session.model, session.scheduler, {"step": 1, "consumed_samples": 0, "epoch": 0}
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
