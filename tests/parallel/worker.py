# SPDX-License-Identifier: Apache-2.0
"""One rank of a parity run: compares the Megatron model, however cut, with transformers on one process.

Run by test_parity.py: ``worker.py HF_FOLDER TP PP SEQUENCE_PARALLEL OUT.json OVERRIDE...``. Besides
its figures it writes the gradients, as Hugging Face tensors, for comparison with one rank's.
"""

import json
import os
import sys
from pathlib import Path

from layers import count_forwards, load_platform
from small_models import layout


def start(hf_path, tensor_parallel, pipeline_parallel, sequence_parallel, overrides):
    """The session with the actor, in the given layout."""
    platform = load_platform()
    from omegaconf import OmegaConf

    from reasongrm_nemo.grpo.actor import GRPOActor
    from reasongrm_nemo.megatron import session as sessions
    from reasongrm_nemo.recipe.load import load_recipe, recipes_root

    sessions.quiet_libraries()
    recipe = load_recipe(
        recipes_root() / "tiny" / "1_grpo_zero.yaml",
        [
            *layout(os.environ["WORLD_SIZE"], tensor_parallel, pipeline_parallel, sequence_parallel),
            "model.log_prob_chunk=7",
            "grpo.clip_high=0.28",
            "grpo.kl_coefficient=0.1",
            "grpo.entropy_coefficient=0.05",
            *overrides,
        ],
    )
    session = sessions.start(platform, GRPOActor, recipe, recipe.grpo.optim, 10, Path(hf_path))
    session.model.grpo = OmegaConf.create(OmegaConf.to_container(recipe.grpo))
    return session


def drawn(vocabulary):
    """For each sample: token ids, prompt length, advantage, and two offsets per response token's log-prob."""
    import torch

    generator = torch.Generator().manual_seed(0)
    samples = []
    for length in torch.randint(12, 60, (7,), generator=generator).tolist():
        ids = tuple(torch.randint(0, vocabulary, (length,), generator=generator).tolist())
        values = torch.randn(2, length - length // 3, generator=generator) * 0.3
        advantage = torch.randn((), generator=generator).item()
        samples.append((ids, length // 3, advantage, values))
    return samples


def score(reference, ids, prompt):
    """Log-prob and entropy of each response token by transformers."""
    import torch

    tokens = torch.tensor([ids])
    log_probs = reference(tokens).logits.log_softmax(-1)[0, :-1]
    entropies = -(log_probs.exp() * log_probs).sum(-1)
    return log_probs.gather(-1, tokens[0, 1:, None])[prompt - 1 :, 0], entropies[prompt - 1 :]


def training_samples(samples, theirs, tokens):
    """Samples with old and reference log-probs off the policy's, so that every term of the loss counts."""
    from reasongrm_nemo.megatron.micro_batches import Sample

    return [
        Sample(
            ids,
            prompt,
            advantage,
            {
                "rollout": tuple((t + values[0]).tolist()),
                "old": tuple((t + values[0]).tolist()),
                "reference": tuple((t + values[1]).tolist()),
            },
            1 / tokens,
        )
        for (ids, prompt, advantage, values), t in zip(samples, theirs, strict=True)
    ]


def backward(session, samples, tokens, budget):
    """The loss, the metrics and this rank's gradients of one global batch."""
    from megatron.core import parallel_state

    from reasongrm_nemo.megatron.balance import share

    actor = session.model
    rank, ranks = parallel_state.get_data_parallel_rank(), parallel_state.get_data_parallel_world_size()
    actor.grpo.max_tokens_per_micro_batch = budget
    mine = [samples[i] for i in share([len(s.tokens) for s in samples], ranks)[rank]]
    session.optimizer.zero_grad()
    actor.prepare_for_training_step()
    loss, metrics = actor.get_loss_and_metrics({"samples": mine, "tokens": tokens}, forward_only=False)
    actor.finish_training_step()
    return loss, metrics, {name: p.grad.clone() for name, p in actor.core_module().named_parameters()}


def of_other_cuts(session, full, tokens, loss, gradients):
    """Largest difference on any rank: one sequence a micro-batch, all in one, and another order."""
    import torch
    import torch.distributed as dist

    largest = 0.0
    for samples, budget in ((full, 1), (full, 10**6), (full[::-1], 96)):
        value, _, again = backward(session, samples, tokens, budget)
        worst = max((again[name] - gradients[name]).norm() / gradients[name].norm() for name in gradients)
        worst = torch.maximum(worst, torch.tensor(abs(value - loss) / abs(loss)))
        dist.all_reduce(worst, op=dist.ReduceOp.MAX)
        largest = max(largest, worst.item())
    return largest


def without_backward(actor, full, tokens, loss):
    """With the samples shared out, and with all on one data-parallel rank."""
    from megatron.core import parallel_state

    rank, ranks = parallel_state.get_data_parallel_rank(), parallel_state.get_data_parallel_world_size()
    actor.grpo.max_tokens_per_micro_batch = 96
    largest = 0.0
    for dealt in (full[rank::ranks], full if rank == 0 else []):
        value, _ = actor.get_loss_and_metrics({"samples": dealt, "tokens": tokens}, forward_only=True)
        largest = max(largest, abs(value - loss) / abs(loss))
    return largest


def of_transformers(reference, full, samples, tokens):
    """The loss and the entropy from their equations; leaves the gradients in the reference."""
    import torch

    expected = entropy = 0.0
    for s, (ids, prompt, advantage, _) in zip(full, samples, strict=True):
        log_probs, entropies = score(reference, ids, prompt)
        old, ref = torch.tensor(s.per_token["old"]), torch.tensor(s.per_token["reference"])
        ratio = torch.exp(log_probs - old)
        bounded = torch.clamp(ratio, 0.8, 1.28)
        gain = torch.where(ratio * advantage < bounded * advantage, ratio, bounded) * advantage
        kl = torch.exp(ref - log_probs) - (ref - log_probs) - 1
        expected = expected + (0.1 * kl - gain - 0.05 * entropies).sum() / tokens
        entropy += entropies.sum().item() / tokens
    expected.backward()
    return expected.item(), entropy


def exported_gradients(session, gradients, wanted):
    """Gradients exported through the weight mapping: the largest difference, and all of them."""
    from megatron.core import parallel_state

    for name, parameter in session.model.core_module().named_parameters():
        parameter.data, parameter.grad = gradients[name], None
    worst, exported = 0.0, {}
    if parallel_state.get_data_parallel_rank() == 0:
        for name, tensor in session.transfer.export():
            want = wanted[name].grad
            worst = max(worst, ((tensor - want).norm() / want.norm()).item())
            exported[name] = tensor.clone()
    return worst, exported


def main(hf_path, tensor_parallel, pipeline_parallel, sequence_parallel, out, *overrides):
    session = start(hf_path, tensor_parallel, pipeline_parallel, sequence_parallel, overrides)
    import torch
    import torch.distributed as dist
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    from reasongrm_nemo.megatron.micro_batches import Sample

    reference = AutoModelForCausalLM.from_pretrained(hf_path, torch_dtype=torch.float32).eval()
    samples = drawn(reference.config.vocab_size)
    mine = session.model.get_inference_log_probs([Sample(ids, prompt) for ids, prompt, _, _ in samples])
    with torch.no_grad():
        theirs = [score(reference, ids, prompt)[0] for ids, prompt, _, _ in samples]
    tokens = sum(len(ids) - prompt for ids, prompt, _, _ in samples)
    full = training_samples(samples, theirs, tokens)
    with count_forwards(session.model.core_module()) as forwards:
        loss, metrics, gradients = backward(session, full, tokens, 96)
    figures = forwards | {
        "log_probs": max((torch.tensor(a) - b).abs().max().item() for a, b in zip(mine, theirs, strict=True)),
        "value": loss,
        "cuts": of_other_cuts(session, full, tokens, loss, gradients),
        "forward_only": without_backward(session.model, full, tokens, loss),
    }
    expected, entropy = of_transformers(reference, full, samples, tokens)
    figures["loss"] = abs(loss - expected) / abs(expected)
    figures["entropy"] = abs(metrics["entropy"] - entropy) / entropy
    figures["error_metric"] = abs(
        metrics["log_prob_error_mean"] - sum(v[0].abs().sum().item() for *_, v in samples) / tokens
    )
    wanted = dict(reference.named_parameters())
    figures["gradient"], exported = exported_gradients(session, gradients, wanted)
    figures["names"] = len(session.transfer.infos()) == len(wanted)
    if dist.get_rank() == 0:
        save_file(exported, Path(out).with_suffix(".safetensors"))
        Path(out).write_text(json.dumps(figures))


if __name__ == "__main__":
    main(*sys.argv[1:])
