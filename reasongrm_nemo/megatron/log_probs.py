# SPDX-License-Identifier: Apache-2.0
"""Log-probs of given tokens from hidden states, a chunk of positions at a time."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor


class _ChunkedLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, vocab: int, chunk: int, reduce_hidden: bool
    ) -> Tensor:
        group = parallel_state.get_tensor_model_parallel_group()
        log_probs, normalisers = [], []
        for h, t in zip(hidden.split(chunk), targets.split(chunk), strict=True):
            logits = _logits(h, weight, vocab)
            top = logits.amax(-1)
            dist.all_reduce(top, op=dist.ReduceOp.MAX, group=group)
            local, mine = _local_targets(t, logits.size(-1))
            picked = (logits.gather(-1, local[..., None])[..., 0] - top) * mine
            both = torch.stack((picked, logits.sub_(top[..., None]).exp_().sum(-1)))
            dist.all_reduce(both, group=group)
            log_sum = both[1].log()
            log_probs.append(both[0] - log_sum)
            normalisers.append(top + log_sum)
        ctx.save_for_backward(hidden, weight, targets, torch.cat(normalisers))
        ctx.vocab, ctx.chunk, ctx.reduce_hidden = vocab, chunk, reduce_hidden
        return torch.cat(log_probs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        hidden, weight, targets, normalisers = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        pieces = (t.split(ctx.chunk) for t in (hidden, targets, normalisers, grad, grad_hidden))
        for h, t, z, g, out in zip(*pieces, strict=True):
            # d log p(target) / d logits = onehot(target) - softmax
            d = _logits(h, weight, ctx.vocab).sub_(z[..., None]).exp_().neg_()
            local, mine = _local_targets(t, d.size(-1))
            d.scatter_add_(-1, local[..., None], mine[..., None].float())
            d = d.mul_(g[..., None]).to(h.dtype)
            out.copy_(d @ weight)
            grad_weight += d.flatten(0, 1).t() @ h.flatten(0, 1)
        if ctx.reduce_hidden:
            dist.all_reduce(grad_hidden, group=parallel_state.get_tensor_model_parallel_group())
        return grad_hidden, grad_weight.to(weight.dtype), None, None, None, None


def chunked_log_probs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    vocab: int,
    chunk: int,
    sequence_parallel: bool,
    scored: Tensor | None = None,
) -> Tensor:
    """Log p(target) with gradients, never holding more than ``chunk`` positions' logits.

    Vocabulary-parallel: each rank holds a slice of the output weight. Logits are recomputed in the
    backward pass, in fp32 whatever the model's dtype. Where NeMo-Aligner's
    ``from_parallel_logits_to_logprobs`` costs 23 GiB a rank at 65,536 tokens of QwQ-32B, this costs 1.2.

    Args:
        hidden: final hidden states, [s, b, h], or [s / tp, b, h] under sequence parallelism.
        weight: this rank's slice of the output weight, [v / tp, h].
        targets: token ids, int64 [s, b].
        vocab: real entries of the vocabulary; rows that pad it for tensor parallelism are no tokens.
        chunk: positions at a time.
        sequence_parallel: whether ``hidden`` is sharded along s.
        scored: the positions whose log-probs are wanted, int64 [n], places in [s * b]; None: all. A prompt's
            positions are most of a judge's, and the head is a fifth of a small model.

    Returns:
        Natural log-probs, fp32 [s, b], the same on every tensor-parallel rank; 0 where not scored.
    """
    if sequence_parallel:
        from megatron.core.tensor_parallel import gather_from_sequence_parallel_region

        # its backward reduce-scatters over the ranks, so the gradient must not be summed here as well
        hidden = gather_from_sequence_parallel_region(hidden, tensor_parallel_output_grad=True)
    if scored is None:
        return _ChunkedLogProbs.apply(hidden, weight, targets, vocab, chunk, not sequence_parallel)
    wanted = hidden.flatten(0, 1).index_select(0, scored)[:, None]
    aims = targets.flatten().index_select(0, scored)[:, None]
    found = _ChunkedLogProbs.apply(wanted, weight, aims, vocab, chunk, not sequence_parallel)
    return found.new_zeros(targets.numel()).index_copy(0, scored, found[:, 0]).view_as(targets)


def _logits(hidden: Tensor, weight: Tensor, vocab: int) -> Tensor:
    """fp32 logits of this rank's slice; padding rows get -inf, else each would add e^0 to the sum."""
    logits = (hidden @ weight.t()).float()
    real = vocab - parallel_state.get_tensor_model_parallel_rank() * weight.size(0)
    if real < weight.size(0):
        logits[..., max(real, 0) :] = -torch.inf
    return logits


def _local_targets(targets: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Indices into this rank's vocabulary slice (clamped) and which targets lie in it."""
    local = targets - parallel_state.get_tensor_model_parallel_rank() * size
    return local.clamp(0, size - 1), (local >= 0) & (local < size)
