# SPDX-License-Identifier: Apache-2.0
"""One rank of a parity run: compares the Megatron model, however it is cut, with transformers on one process.

Run by test_parity.py: ``worker.py HF_FOLDER TP PP SEQUENCE_PARALLEL OUT.json``. Beside the
figures it leaves the gradients, as Hugging Face tensors, for the comparison with one rank's.
"""

import json
import os
import sys
from pathlib import Path

from small_models import layout


def main(hf_path, tensor_parallel, pipeline_parallel, sequence_parallel, out):
    from reasongrm_nemo.megatron.platform import load_platform

    platform = load_platform("cpu")
    import torch
    import torch.distributed as dist
    from megatron.core import parallel_state
    from omegaconf import OmegaConf
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    from reasongrm_nemo.grpo.actor import GRPOActor
    from reasongrm_nemo.megatron import session as sessions
    from reasongrm_nemo.megatron.balance import share
    from reasongrm_nemo.megatron.micro_batches import Sample
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
        ],
    )
    session = sessions.start(platform, GRPOActor, recipe, recipe.grpo.optim, 10, Path(hf_path))
    actor = session.model
    actor.grpo = OmegaConf.create(OmegaConf.to_container(recipe.grpo))
    reference = AutoModelForCausalLM.from_pretrained(hf_path, torch_dtype=torch.float32).eval()

    generator = torch.Generator().manual_seed(0)
    samples = []
    for length in torch.randint(12, 60, (7,), generator=generator).tolist():
        ids = tuple(torch.randint(0, reference.config.vocab_size, (length,), generator=generator).tolist())
        values = torch.randn(2, length - length // 3, generator=generator) * 0.3
        advantage = torch.randn((), generator=generator).item()
        samples.append((ids, length // 3, advantage, values))

    def score(ids, prompt):
        tokens = torch.tensor([ids])
        log_probs = reference(tokens).logits.log_softmax(-1)[0, :-1]
        entropies = -(log_probs.exp() * log_probs).sum(-1)
        return log_probs.gather(-1, tokens[0, 1:, None])[prompt - 1 :, 0], entropies[prompt - 1 :]

    # log-probs
    plain = [Sample(ids, prompt) for ids, prompt, _, _ in samples]
    mine = actor.get_inference_log_probs(plain)
    with torch.no_grad():
        theirs = [score(ids, prompt)[0] for ids, prompt, _, _ in samples]
    figures = {
        "log_probs": max((torch.tensor(a) - b).abs().max().item() for a, b in zip(mine, theirs, strict=True))
    }

    # loss and gradient, with old and reference log-probs some way off so that every term counts
    tokens = sum(len(ids) - prompt for ids, prompt, _, _ in samples)
    full = [
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
    core = actor.core_module()
    rank, ranks = parallel_state.get_data_parallel_rank(), parallel_state.get_data_parallel_world_size()

    def backward(samples, budget):
        """The loss, the metrics and this rank's gradients of one global batch."""
        actor.grpo.max_tokens_per_micro_batch = budget
        mine = [samples[i] for i in share([len(s.tokens) for s in samples], ranks)[rank]]
        session.optimizer.zero_grad()
        actor.prepare_for_training_step()
        found = actor.get_loss_and_metrics({"samples": mine, "tokens": tokens}, forward_only=False)
        actor.finish_training_step()
        return *found, {name: p.grad.clone() for name, p in core.named_parameters()}

    loss, metrics, own = backward(full, 96)
    figures["value"] = loss
    # one sequence a micro-batch; all in one; another order
    figures["cuts"] = 0.0
    for samples_again, budget in ((full, 1), (full, 10**6), (full[::-1], 96)):
        value, _, again = backward(samples_again, budget)
        worst = max((again[name] - own[name]).norm() / own[name].norm() for name in own)
        worst = torch.maximum(worst, torch.tensor(abs(value - loss) / abs(loss)))
        dist.all_reduce(worst, op=dist.ReduceOp.MAX)
        figures["cuts"] = max(figures["cuts"], worst.item())

    # without a backward pass: dealt out, and all with one data-parallel rank
    actor.grpo.max_tokens_per_micro_batch = 96
    figures["forward_only"] = 0.0
    for dealt in (full[rank::ranks], full if rank == 0 else []):
        value, _ = actor.get_loss_and_metrics({"samples": dealt, "tokens": tokens}, forward_only=True)
        figures["forward_only"] = max(figures["forward_only"], abs(value - loss) / abs(loss))

    expected = entropy = 0.0
    for s, (ids, prompt, advantage, _) in zip(full, samples, strict=True):
        log_probs, entropies = score(ids, prompt)
        old, ref = torch.tensor(s.per_token["old"]), torch.tensor(s.per_token["reference"])
        ratio = torch.exp(log_probs - old)
        bounded = torch.clamp(ratio, 0.8, 1.28)
        gain = torch.where(ratio * advantage < bounded * advantage, ratio, bounded) * advantage
        kl = torch.exp(ref - log_probs) - (ref - log_probs) - 1
        expected = expected + (0.1 * kl - gain - 0.05 * entropies).sum() / tokens
        entropy += entropies.sum().item() / tokens
    expected.backward()
    figures["loss"] = abs(loss - expected.item()) / abs(expected.item())
    figures["entropy"] = abs(metrics["entropy"] - entropy) / entropy
    figures["error_metric"] = abs(
        metrics["log_prob_error_mean"] - sum(v[0].abs().sum().item() for *_, v in samples) / tokens
    )

    # the gradient goes the same way out as the weights: through the mapping
    for name, parameter in core.named_parameters():
        parameter.data, parameter.grad = own[name], None
    gradients = dict(reference.named_parameters())
    worst, exported = 0.0, {}
    if parallel_state.get_data_parallel_rank() == 0:
        for name, tensor in session.transfer.export():
            want = gradients[name].grad
            worst = max(worst, ((tensor - want).norm() / want.norm()).item())
            exported[name] = tensor.clone()
    figures["gradient"] = worst
    figures["names"] = len(session.transfer.infos()) == len(gradients)
    if dist.get_rank() == 0:
        save_file(exported, Path(out).with_suffix(".safetensors"))
        Path(out).write_text(json.dumps(figures))


if __name__ == "__main__":
    main(*sys.argv[1:])
