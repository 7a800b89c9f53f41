# SPDX-License-Identifier: Apache-2.0
"""Estimates the time of a stage from the rates in the recipe's ``plan`` block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reasongrm_nemo.data.seeds import derive_seed
from reasongrm_nemo.megatron.balance import costs, share
from reasongrm_nemo.megatron.cuts import plan_micro_batches
from reasongrm_nemo.megatron.states import WIDTH
from reasongrm_nemo.models import flops, parameter_counts
from reasongrm_nemo.models.architecture import Architecture, Layout
from reasongrm_nemo.plan import counts, schedule
from reasongrm_nemo.plan.memory import data_parallel
from reasongrm_nemo.plan.rollouts.lengths import Drawn, Lengths, Lognormal
from reasongrm_nemo.plan.rollouts.timeline import Rates, Servers, Timeline, roll_out
from reasongrm_nemo.plan.serving import Server
from reasongrm_nemo.processes.placement import servers_per_node
from reasongrm_nemo.rollout.types import prompts_at_once
from reasongrm_nemo.sft.steps import trained
from reasongrm_nemo.stage_kinds import kind_of

STEPS = 12  # simulated steps that a mean is taken over
MOST = 65_536  # largest number of responses per step that is simulated


@dataclass(frozen=True)
class StageTime:
    """Seconds of one step, and of the stage.

    Attributes:
        steps: number of steps; 1 for a stage without steps.
        rollouts: sampling of a step.
        slowest: time until 90 % of a step's answers are complete; the rest of ``rollouts`` is the tail.
        idle: share of server time during rollouts without a running sample.
        training: of a step, including scoring.
        refit: sending new weights to the servers.
        offload: moving optimizer states to host memory and back.
        seconds: of the stage.
        devices: GPUs that the stage occupies.
    """

    steps: int
    rollouts: float
    slowest: float
    idle: float
    training: float
    refit: float
    offload: float
    seconds: float
    devices: int

    @property
    def device_hours(self) -> float:
        """GPU-hours."""
        return self.seconds * self.devices / 3600


def rates(recipe: Any, architecture: Architecture, server: Server) -> Rates:
    """Decoding speed of a server of the recipe.

    A step reads weights, keys and values at ``plan.bandwidth_share`` of the bandwidth; computing at
    ``plan.mfu`` of the peak replaces the time for the weights if it takes longer.
    """
    planned = recipe.plan
    bandwidth = planned.bandwidth_gb_s * 1e9 * planned.bandwidth_share
    speed = planned.tflops * 1e12 * planned.mfu * server.workers
    return Rates(
        fixed=planned.decode_overhead_ms / 1e3,
        weights=server.weights / bandwidth,
        sample=2 * parameter_counts.of_model(architecture) / speed,
        token=server.kv_token / bandwidth,
    )


def servers(recipe: Any, server: Server, samples: int) -> Servers:
    """Capacity of the recipe's servers, for ``samples`` samples per prompt."""
    rollout, count = recipe.rollout, server_count(recipe)
    prompts = prompts_at_once(rollout.concurrency, rollout.max_num_seqs, samples, count)
    return Servers(count, rollout.max_num_seqs, server.tokens, prompts)


def server_count(recipe: Any) -> int:
    """Number of servers; for a stage that only samples those of one node, since each node runs a shard."""
    return int(recipe.rollout.servers) if kind_of(recipe).on_policy else servers_per_node(recipe)


def stated_lengths(recipe: Any) -> Lognormal:
    """Distribution of response lengths in ``plan.responses``."""
    responses = recipe.plan.responses
    return Lognormal(responses.median, responses.sigma, responses.alike, recipe.rollout.max_response_tokens)


def mean_response(recipe: Any) -> float:
    """Mean response length in ``plan.responses``, in tokens."""
    return float(stated_lengths(recipe).draw(4096, 1, 0).mean())


def step_rollouts(
    recipe: Any, architecture: Architecture, server: Server, lengths: Lengths, step: int
) -> Timeline:
    """Simulated rollouts of one GRPO step."""
    grpo = recipe.grpo
    return roll_out(
        _responses(recipe, lengths, step),
        [_prompt(recipe)] * grpo.prompts_per_step,
        servers(recipe, server, grpo.samples_per_prompt),
        rates(recipe, architecture, server),
    )


def _responses(recipe: Any, lengths: Lengths, step: int) -> Drawn:
    grpo = recipe.grpo
    seed = derive_seed(recipe.seed, "plan", "rollouts", step)
    return lengths.draw(grpo.prompts_per_step, grpo.samples_per_prompt, seed)


def _prompt(recipe: Any) -> int:
    return min(recipe.plan.prompt_tokens, recipe.judge.max_prompt_tokens)


def training_seconds(
    recipe: Any, architecture: Architecture, responses: Drawn, budget: int, forwards: int = 0
) -> float:
    """Seconds of one optimizer step: the pipeline of the data-parallel rank with the most work.

    Args:
        recipe: the recipe.
        architecture: shape of its model.
        responses: tokens of each response, any shape.
        budget: ``max_tokens_per_micro_batch``.
        forwards: additional scoring passes.
    """
    scored = [int(tokens) for tokens in np.ravel(responses)]
    prompt = _prompt(recipe)
    lengths = [tokens + prompt for tokens in scored]
    work = costs(recipe, architecture, zip(lengths, scored, strict=True))
    shares = share(work, data_parallel(recipe.cluster))
    busiest = max(shares, key=lambda indices: sum(work[i] for i in indices))
    held = [lengths[index] for index in busiest]
    micro_batches = [(len(rows), held[rows[0]]) for rows in plan_micro_batches(held, budget)]
    forward, both = (_passes(recipe, architecture, micro_batches, train) for train in (False, True))
    backward = np.subtract(both, forward).tolist()
    return forwards * schedule.seconds(forward) + schedule.seconds(forward, backward)


def _passes(
    recipe: Any, architecture: Architecture, micro_batches: Sequence[tuple[int, int]], train: bool
) -> list[list[float]]:
    """Seconds of each micro-batch on each pipeline stage."""
    speed = recipe.cluster.tensor_parallel * recipe.plan.tflops * 1e12 * recipe.plan.mfu
    return [
        [done / speed for done in operations(recipe, architecture, rows, length, rows * length, train)]
        for rows, length in micro_batches
    ]


def operations(
    recipe: Any, architecture: Architecture, rows: int, length: int, scored: int, train: bool = True
) -> list[float]:
    """Floating-point operations of a micro-batch on each pipeline stage, over its tensor-parallel ranks.

    Args:
        recipe: the recipe.
        architecture: shape of its model.
        rows: number of sequences.
        length: tokens per sequence.
        scored: positions that the output head of the last stage computes.
        train: include the backward pass.
    """
    recompute = recipe.model.recompute == "full"
    stages = Layout.of_cluster(recipe.cluster).stages(architecture.layers) or []
    done = [
        flops.of_layers(architecture, layers, rows, length, train=train, recompute=recompute).total
        for layers in stages
    ]
    done[-1] += flops.of_head(architecture, scored, train=train).total
    return done


def grpo_training_seconds(recipe: Any, architecture: Architecture, responses: Drawn) -> float:
    """Seconds of training in a GRPO step, including the scoring passes that its options need."""
    grpo = recipe.grpo
    forwards = int(grpo.optimizer_steps > 1 and not grpo.max_lag)
    if grpo.kl_coefficient > 0:
        forwards += 2 if grpo.kl_in == "reward" else 1
    # each optimizer step fills and drains the pipeline
    parts = (np.ravel(responses)[update :: grpo.optimizer_steps] for update in range(grpo.optimizer_steps))
    budget = grpo.max_tokens_per_micro_batch
    return sum(training_seconds(recipe, architecture, part, budget, forwards) for part in parts)


def step_training(recipe: Any, architecture: Architecture) -> float:
    """Mean seconds of training per step, without rollouts; needs ``plan.tflops``."""
    lengths = stated_lengths(recipe)
    if not kind_of(recipe).on_policy:
        drawn = lengths.draw(counts.sft_batch(recipe), 1, derive_seed(recipe.seed, "plan", "sft"))
        return training_seconds(recipe, architecture, drawn, recipe.sft.max_tokens_per_micro_batch)
    batches = (_responses(recipe, lengths, step) for step in range(STEPS))
    return float(np.mean([grpo_training_seconds(recipe, architecture, batch) for batch in batches]))


def refit_bytes(recipe: Any, architecture: Architecture) -> int:
    """Bytes that a refit sends to each server: every weight once, in ``rollout.dtype``."""
    return WIDTH[recipe.rollout.dtype] * parameter_counts.of_model(architecture)


def of_stage(recipe: Any, architecture: Architecture, server: Server, optimizer: int) -> StageTime | str:
    """Time of a stage, or why it is unknown; ``optimizer`` is the bytes of optimizer states per rank."""
    if why := unknown(recipe):
        return why
    count = counts.tasks(recipe) or 0
    if kind_of(recipe).on_policy:
        return _of_grpo(recipe, architecture, server, optimizer)
    if kind_of(recipe).trains:
        training, number = step_training(recipe, architecture), counts.steps(recipe) or 1
        # the last batch of an epoch may be smaller
        seconds = training * recipe.sft.epochs * trained(count, recipe.sft) / counts.sft_batch(recipe)
        return StageTime(number, 0, 0, 0, training, 0, 0, seconds, _devices(recipe))
    return _of_sampling(recipe, architecture, server, count)


def unknown(recipe: Any) -> str | None:
    """Why the time of a stage cannot be estimated, or None."""
    planned = recipe.plan
    if planned.tflops is None or planned.bandwidth_gb_s is None:
        return "plan.tflops or plan.bandwidth_gb_s is null: no time is estimated"
    if kind_of(recipe).samples and recipe.cluster.platform == "gpu" and planned.device_memory_gib is None:
        return "plan.device_memory_gib is null: how many sequences a server runs at once is not known"
    if not kind_of(recipe).on_policy:
        known = counts.tasks(recipe) is not None
        return None if known else "plan.tasks is null: how many records the stage goes over is not known"
    answers = recipe.grpo.prompts_per_step * recipe.grpo.samples_per_prompt
    if answers > MOST:
        return f"a step has {answers:,} responses, and no more than {MOST:,} are simulated"
    known = counts.steps(recipe) is not None
    return None if known else "plan.tasks is null: how many steps grpo.epochs come to is not known"


def _devices(recipe: Any) -> int:
    """GPUs of a training stage: of its ranks, of servers on the same nodes, and of server nodes."""
    cluster, rollout = recipe.cluster, recipe.rollout
    if not kind_of(recipe).on_policy:
        return int(cluster.nodes * cluster.devices_per_node)
    of_node = {*range(cluster.devices_per_node), *([] if rollout.nodes else rollout.gpus)}
    return int(cluster.nodes * len(of_node) + rollout.nodes * cluster.devices_per_node)


def simulated_steps(
    recipe: Any, architecture: Architecture, server: Server, optimizer: int, lengths: Lengths
) -> tuple[list[Timeline], list[float], float, float]:
    """Rollouts and training seconds of some GRPO steps, and the seconds of a refit and an offload."""
    planned = recipe.plan
    timelines = [step_rollouts(recipe, architecture, server, lengths, step) for step in range(STEPS)]
    trainings = [grpo_training_seconds(recipe, architecture, line.lengths) for line in timelines]
    refit = refit_bytes(recipe, architecture) / (planned.refit_gb_s * 1e9)
    offload = 2 * optimizer / (planned.offload_gb_s * 1e9) if recipe.cluster.offload_optimizer else 0.0
    return timelines, trainings, refit, offload


def _of_grpo(recipe: Any, architecture: Architecture, server: Server, optimizer: int) -> StageTime:
    lengths = stated_lengths(recipe)
    timelines, trainings, refit, offload = simulated_steps(recipe, architecture, server, optimizer, lengths)
    rollouts, training = float(np.mean([line.seconds for line in timelines])), float(np.mean(trainings))
    step, number = rollouts + training + refit + offload, counts.steps(recipe) or 0
    if recipe.grpo.max_lag:
        step = max(rollouts, training + refit + offload)
    return StageTime(
        number,
        rollouts,
        float(np.mean([line.share_done(0.9) for line in timelines])),
        float(np.mean([line.idle() for line in timelines])),
        training,
        refit,
        offload,
        number * step,
        _devices(recipe),
    )


def _of_sampling(recipe: Any, architecture: Architecture, server: Server, tasks: int) -> StageTime:
    """Full batches throughout, then the longest answer alone."""
    speed = rates(recipe, architecture, server)
    prompt = _prompt(recipe)
    seed = derive_seed(recipe.seed, "plan", "sampling")
    drawn = stated_lengths(recipe).draw(2048, 1, seed).astype(float)
    # at any time, running samples are length-biased
    context = prompt + float((drawn**2).mean() / drawn.mean()) / 2
    seconds = tail = 0.0
    count = server_count(recipe)
    for samples, times in counts.passes(recipe):
        most = server.tokens / context
        running = max(1, int(min(server.most_sequences, most, tasks * samples / count)))
        step = speed.steps(1, running, int(running * context))
        prefill = prompt / samples * speed.sample
        task_seconds = float(drawn.mean()) * step / running + prefill
        last = float(np.quantile(drawn, 1 - 1 / (running * count)))
        tail += times * speed.steps(int(last), 1, prompt)
        seconds += times * tasks * samples * task_seconds / count
    whole, devices = seconds + tail, recipe.cluster.devices_per_node  # other nodes run other shards
    return StageTime(1, whole, seconds, 0.0, 0.0, 0.0, 0.0, whole, devices)
