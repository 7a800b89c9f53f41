# SPDX-License-Identifier: Apache-2.0
"""Runs megatron-core's pipeline schedule on micro-batches of varying shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.pipeline_parallel.schedules import get_forward_backward_func
from torch import Tensor

from reasongrm_nemo.megatron.cuts import laid_out, plan_micro_batches
from reasongrm_nemo.megatron.micro_batches import MicroBatch, Sample, collate

# (log-probs, entropies if requested, micro-batch) -> (part of the loss, sums to add up)
LossFunction = Callable[..., tuple[Tensor, dict[str, Tensor]]]


def run_micro_batches(
    model: object,
    samples: Sequence[Sample],
    budget: int,
    multiple: int,
    loss_function: LossFunction | None,
    entropy: bool = False,
) -> tuple[dict[str, float], list[list[float]]]:
    """Run forward and, with a loss function, backward over this data-parallel rank's ``samples``.

    Under ``torch.no_grad``, the loss function is evaluated without a backward pass.

    Args:
        model: this rank's Megatron module, or a list of them.
        samples: this rank's share of the global batch; may be empty.
        budget: tokens per micro-batch.
        multiple: pads lengths to a multiple of this (the tensor-parallel size under sequence parallelism).
        loss_function: (log-probs fp32 [b, s], micro-batch) -> (this micro-batch's part of the loss, sums to
            add up over micro-batches). Parts are *added*: the loss function must divide by the global token
            count. None only scores.
        entropy: also pass the entropies, fp32 [b, s], to the loss function, as second argument.

    Returns:
        The sums over this rank's micro-batches, the same on every rank of the model-parallel group, with
        ``real`` and ``laid_out``, the tokens without and with padding; and, when scoring, the log-probs of
        each sample's response in the order of ``samples``.
    """
    lengths = [len(s.tokens) for s in samples]
    groups = plan_micro_batches(lengths, budget)
    if not groups:
        if _trains(loss_function):
            _finish_gradients(model)
        return {}, []
    batches = [collate(samples, rows, multiple) for rows in groups]
    results = _from_last_stage(run_schedule(model, batches, loss_function, entropy))
    if loss_function is None:
        return {}, _by_sample(results, batches, samples)
    sums = {name: float(sum(r[name] for r in results)) for name in results[0]}
    return sums | {"real": float(sum(lengths)), "laid_out": float(laid_out(lengths, groups))}, []


def run_schedule(
    model: object, batches: Sequence[MicroBatch], loss_function: LossFunction | None, entropy: bool = False
) -> list[Any]:
    """Run megatron-core's schedule over ``batches``; arguments as for ``run_micro_batches``.

    Returns:
        On the last pipeline stage, for each micro-batch: the loss function's sums, or the log-probs.
    """
    device = torch.cuda.current_device()
    options = {"entropy": True} if entropy else {}

    def step(iterator, module):
        batch = next(iterator)
        positions = torch.arange(batch.tokens.size(1), device=device).expand_as(batch.tokens)
        output = module(
            batch.tokens.to(device),
            positions,
            attention_mask=None,
            targets=batch.targets.to(device),
            scored=batch.scored.to(device),
            **options,
        )

        def finish(scores: Tensor | tuple[Tensor, Tensor], non_loss_data: bool = False):
            if loss_function is None:
                return scores
            loss, sums = loss_function(*(scores if isinstance(scores, tuple) else (scores,)), batch)
            # the schedule divides by the number of micro-batches, but these parts are sums, not means
            return loss * len(batches), sums

        return output, finish

    return get_forward_backward_func()(
        forward_step_func=step,
        data_iterator=iter(batches),
        model=model,
        num_microbatches=len(batches),
        # without gradients, pipeline stages would wait forever for each other's backward pass
        forward_only=not _trains(loss_function),
        # only used for fixed shapes; here stages announce their shapes (variable_seq_lengths)
        seq_length=batches[0].tokens.size(1),
        micro_batch_size=batches[0].tokens.size(0),
        collect_non_loss_data=loss_function is None,
    )


def _trains(loss_function: LossFunction | None) -> bool:
    return loss_function is not None and torch.is_grad_enabled()


def _finish_gradients(model: Any) -> None:
    """Join the gradient reduction that ends the schedule, on a rank without samples."""
    modules = model if isinstance(model, list) else [model]
    finish = getattr(modules[0].config, "finalize_model_grads_func", None)
    if finish is not None:
        finish(modules, None)


def _from_last_stage(results: list) -> list:
    """Broadcast the last pipeline stage's results to every stage (at most a few numbers per token)."""
    if parallel_state.get_pipeline_model_parallel_world_size() == 1:
        return results
    group = parallel_state.get_pipeline_model_parallel_group()
    box = [[_to_cpu(r) for r in results]]
    dist.broadcast_object_list(box, dist.get_process_group_ranks(group)[-1], group=group)
    return box[0]


def _to_cpu(result: Tensor | dict[str, Tensor]) -> Tensor | dict[str, Tensor]:
    if isinstance(result, dict):
        return {name: value.detach().cpu() for name, value in result.items()}
    return result.detach().cpu()


def _by_sample(
    results: Sequence[Tensor], batches: Sequence[MicroBatch], samples: Sequence[Sample]
) -> list[list[float]]:
    scored: list[list[float]] = [[] for _ in samples]
    for log_probs, batch in zip(results, batches, strict=True):
        for row, index in enumerate(batch.rows):
            sample = samples[index]
            scored[index] = log_probs[row, sample.prompt_length - 1 : len(sample.tokens) - 1].tolist()
    return scored
