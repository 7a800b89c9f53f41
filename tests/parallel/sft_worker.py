# SPDX-License-Identifier: Apache-2.0
"""One rank of an SFT step, run by test_sft_parity.py: ``sft_worker.py HF TP PP SEQUENCE_PARALLEL OUT.json``.

Compares the loss and each gradient with transformers' on one process, for three ways to cut the batch.
"""

import json
import os
import sys
from pathlib import Path

from layers import load_platform
from small_models import layout


def start(hf_path, tensor_parallel, pipeline_parallel, sequence_parallel):
    """The session with the model, in the given layout."""
    platform = load_platform()
    from reasongrm_nemo.megatron import session as sessions
    from reasongrm_nemo.recipe.load import load_recipe, recipes_root
    from reasongrm_nemo.sft.model import SFTModel

    sessions.quiet_libraries()
    recipe = load_recipe(
        recipes_root() / "tiny" / "4_sft.yaml",
        [
            *layout(os.environ["WORLD_SIZE"], tensor_parallel, pipeline_parallel, sequence_parallel),
            "model.log_prob_chunk=7",
        ],
    )
    return sessions.start(platform, SFTModel, recipe, recipe.sft.optim, 10, Path(hf_path))


def drawn():
    import torch

    from reasongrm_nemo.megatron.micro_batches import Sample

    generator = torch.Generator().manual_seed(0)
    samples = []
    for length in torch.randint(12, 60, (9,), generator=generator).tolist():
        ids = torch.randint(0, 99, (length,), generator=generator).tolist()
        samples.append(Sample(tuple(ids), length // 3))
    return samples


def of_transformers(reference, samples):
    """The loss of all samples and of the first alone; leaves the gradients in the reference."""
    import torch

    expected, alone = 0.0, None
    for s in samples:
        tokens = torch.tensor([s.tokens])
        log_probs = reference(tokens).logits.log_softmax(-1)[0, :-1].gather(-1, tokens[0, 1:, None])
        expected = expected - log_probs[s.prompt_length - 1 :].sum()
        alone = expected.detach() / s.response_length if alone is None else alone
    expected = expected / sum(s.response_length for s in samples)
    expected.backward()
    return expected.item(), alone.item()


def train_in_three_cuts(session, samples, rank, size, expected):
    """Loss differences from transformers, gradient differences between cuts, the first cut's gradients."""
    import torch
    import torch.distributed as dist

    model, core = session.model, session.model.core_module()
    figures, first = {"loss": 0.0, "cuts": 0.0}, None
    for given, budget in ((samples, 96), (samples, 1), (samples[::-1], 10**6)):
        model.token_budget = budget
        session.optimizer.zero_grad()
        model.prepare_for_training_step()
        loss, _ = model.get_loss_and_metrics({"samples": given[rank::size]}, forward_only=False)
        model.finish_training_step()
        gradients = {name: p.grad.clone() for name, p in core.named_parameters()}
        first = first or gradients
        worst = torch.stack([(gradients[n] - first[n]).norm() / first[n].norm() for n in gradients]).max()
        dist.all_reduce(worst, op=dist.ReduceOp.MAX)
        figures["cuts"] = max(figures["cuts"], worst.item())
        figures["loss"] = max(figures["loss"], abs(loss - expected) / expected)
    return figures, first


def main(hf_path, tensor_parallel, pipeline_parallel, sequence_parallel, out):
    session = start(hf_path, tensor_parallel, pipeline_parallel, sequence_parallel)
    import torch
    import torch.distributed as dist
    from megatron.core import parallel_state
    from transformers import AutoModelForCausalLM

    model, samples = session.model, drawn()
    reference = AutoModelForCausalLM.from_pretrained(hf_path, torch_dtype=torch.float32)
    expected, alone = of_transformers(reference, samples)
    rank, size = parallel_state.get_data_parallel_rank(), parallel_state.get_data_parallel_world_size()
    figures, first = train_in_three_cuts(session, samples, rank, size, expected)
    # the last batch of an epoch may hold fewer than there are ranks
    model.prepare_for_training_step()
    loss, _ = model.get_loss_and_metrics({"samples": samples[:1] if rank == 0 else []}, forward_only=False)
    model.finish_training_step()
    figures["single"] = abs(loss - alone) / alone
    session.optimizer.zero_grad()
    model.prepare_for_validation_step()
    held_out, _ = model.get_loss_and_metrics({"samples": samples[rank::size]}, forward_only=True)
    model.finish_validation_step()
    figures["validation"] = abs(held_out - expected) / expected
    for name, parameter in model.core_module().named_parameters():
        parameter.data, parameter.grad = first[name], None
    wanted = dict(reference.named_parameters())
    figures["gradient"] = 0.0
    if rank == 0:
        for name, tensor in session.transfer.export():
            want = wanted[name].grad
            figures["gradient"] = max(figures["gradient"], ((tensor - want).norm() / want.norm()).item())
    if dist.get_rank() == 0:
        Path(out).write_text(json.dumps(figures))


if __name__ == "__main__":
    main(*sys.argv[1:])
