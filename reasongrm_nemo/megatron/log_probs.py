# SPDX-License-Identifier: Apache-2.0
"""Log-probs of given tokens, and entropies, computed from hidden states in chunks of positions."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor

# Logit of vocabulary padding. Finite, because exp(-inf) * -inf is NaN; its exp is 0.
_NO_TOKEN = -1e30


class _ChunkedLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        vocab: int,
        chunk: int,
        reduce_hidden: bool,
        with_entropy: bool,
        temperature: float,
    ) -> tuple[Tensor, Tensor | None]:
        group = parallel_state.get_tensor_model_parallel_group()
        log_probs, normalisers, entropies = [], [], []
        for h, t in zip(hidden.split(chunk), targets.split(chunk), strict=True):
            logits = _logits(h, weight, vocab, temperature)
            top = logits.amax(-1)
            dist.all_reduce(top, op=dist.ReduceOp.MAX, group=group)
            local, mine = _local_targets(t, logits.size(-1))
            logits.sub_(top[..., None])
            sums = [logits.gather(-1, local[..., None])[..., 0] * mine]
            if with_entropy:
                weights = logits.exp()
                # one dot product per position, to avoid a third buffer of the logits' size
                dots = torch.bmm(logits.flatten(0, 1)[:, None], weights.flatten(0, 1)[..., None])
                sums += [weights.sum(-1), dots.view_as(top)]
            else:
                sums += [logits.exp_().sum(-1)]
            total = torch.stack(sums)
            dist.all_reduce(total, group=group)
            log_sum = total[1].log()
            log_probs.append(total[0] - log_sum)
            normalisers.append(top + log_sum)
            if with_entropy:
                entropies.append(log_sum - total[2] / total[1])
        entropy = torch.cat(entropies) if with_entropy else None
        ctx.save_for_backward(hidden, weight, targets, torch.cat(normalisers), entropy)
        ctx.vocab, ctx.chunk, ctx.reduce_hidden, ctx.temperature = vocab, chunk, reduce_hidden, temperature
        # give an output that the loss does not use the gradient None instead of zeros
        ctx.set_materialize_grads(False)
        return torch.cat(log_probs), entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, targets, normalisers, entropy = ctx.saved_tensors
        grad, grad_entropy = grads
        if grad is None:
            grad = torch.zeros_like(normalisers)
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        pieces = [t.split(ctx.chunk) for t in (hidden, targets, normalisers, grad, grad_hidden)]
        for i, (h, t, z, g, out) in enumerate(zip(*pieces, strict=True)):
            # d log p(target) / d logits = onehot(target) - p,  d entropy / d logits = -p (log p + entropy)
            d = _logits(h, weight, ctx.vocab, ctx.temperature).sub_(z[..., None])
            if grad_entropy is None:
                d.exp_().mul_(-g[..., None])
            else:
                rows = slice(i * ctx.chunk, i * ctx.chunk + h.size(0))
                p = d.exp()
                d.add_(entropy[rows, :, None]).mul_(grad_entropy[rows, :, None]).add_(g[..., None])
                d.mul_(p).neg_()
                del p
            local, mine = _local_targets(t, d.size(-1))
            d.scatter_add_(-1, local[..., None], (g * mine)[..., None])
            if ctx.temperature != 1.0:
                d.div_(ctx.temperature)  # gradient of the logits before division by temperature
            d = d.to(h.dtype)
            out.copy_(d @ weight)
            grad_weight += d.flatten(0, 1).t() @ h.flatten(0, 1)
        if ctx.reduce_hidden:
            dist.all_reduce(grad_hidden, group=parallel_state.get_tensor_model_parallel_group())
        return grad_hidden, grad_weight.to(weight.dtype), None, None, None, None, None, None


def chunked_log_probs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    vocab: int,
    chunk: int,
    sequence_parallel: bool,
    scored: Tensor | None = None,
    entropy: bool = False,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor | None]:
    """Log p(target), and the distribution's entropy, holding the logits of at most ``chunk`` positions.

    Both have gradients. Vocabulary-parallel: each rank holds a slice of the output weight. Logits are fp32
    whatever the model's dtype, and recomputed in the backward pass. For 65,536 tokens of QwQ-32B this takes
    1.2 GiB per rank; NeMo-Aligner's ``from_parallel_logits_to_logprobs`` takes 23 GiB.

    Args:
        hidden: final hidden states, [s, b, h], or [s / tp, b, h] under sequence parallelism.
        weight: this rank's slice of the output weight, [v / tp, h].
        targets: token ids, int64 [s, b].
        vocab: size of the vocabulary without padding for tensor parallelism.
        chunk: positions per chunk.
        sequence_parallel: whether ``hidden`` is sharded along s.
        scored: positions to score, int64 [n], indices into [s * b]; None: all. Leaving out the prompt saves
            most positions of a judge, and the head is a fifth of a small model's computation.
        entropy: also return the entropy, from the same logits and in the same reduction over ranks.
        temperature: sampling temperature, by which the logits are divided.

    Returns:
        Natural log-probs, fp32 [s, b], and the entropy in nats, fp32 [s, b], or None; the same on every
        tensor-parallel rank, 0 where not scored.
    """
    if sequence_parallel:
        from megatron.core.tensor_parallel import gather_from_sequence_parallel_region

        # the backward of this gather reduce-scatters over ranks, so do not sum the gradient here as well
        hidden = gather_from_sequence_parallel_region(hidden, tensor_parallel_output_grad=True)
    options = (vocab, chunk, not sequence_parallel, entropy, temperature)
    if scored is None:
        return _ChunkedLogProbs.apply(hidden, weight, targets, *options)
    wanted = hidden.flatten(0, 1).index_select(0, scored)[:, None]
    aims = targets.flatten().index_select(0, scored)[:, None]
    log_probs, entropies = _ChunkedLogProbs.apply(wanted, weight, aims, *options)

    def spread(values: Tensor) -> Tensor:
        return values.new_zeros(targets.numel()).index_copy(0, scored, values[:, 0]).view_as(targets)

    return spread(log_probs), None if entropies is None else spread(entropies)


def _logits(hidden: Tensor, weight: Tensor, vocab: int, temperature: float) -> Tensor:
    """fp32 logits of this rank's vocabulary slice; padding rows contribute 0 to sums of exponentials."""
    logits = (hidden @ weight.t()).float()
    if temperature != 1.0:
        logits.div_(temperature)
    real = vocab - parallel_state.get_tensor_model_parallel_rank() * weight.size(0)
    if real < weight.size(0):
        logits[..., max(real, 0) :] = _NO_TOKEN
    return logits


def _local_targets(targets: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Indices into this rank's vocabulary slice (clamped), and a mask of the targets inside the slice."""
    local = targets - parallel_state.get_tensor_model_parallel_rank() * size
    return local.clamp(0, size - 1), (local >= 0) & (local < size)
