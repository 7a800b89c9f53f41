# SPDX-License-Identifier: Apache-2.0
"""Simulated ranks: ``python -m reasongrm_nemo.plan.simulation.fake_rank`` reads requests in JSON from stdin.

Each request runs in a forked process, since the fake process group, NeMo's global state and the patches below
are per process; the imports, which take longest, are shared.

Real: NeMo-Aligner's model class with our layers, built by NeMo from ``nemo_config``; log-probs, loss and
gradients; megatron-core's pipeline schedule, recomputation and sequence parallelism. Not real: tensors have
no data (``FakeTensorMode``), nothing is sent to other ranks, layers come from ``layers.plain_spec`` instead
of Transformer Engine, and gradients are freed at once; megatron-core would add them to a buffer, which is
counted as ``gradients``.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from reasongrm_nemo.megatron import states
from reasongrm_nemo.megatron.platform import CPU, GPU, load_platform
from reasongrm_nemo.models.architecture import Architecture
from reasongrm_nemo.models.parameter_counts import Count
from reasongrm_nemo.plan.memory import Rank
from reasongrm_nemo.plan.simulation.simulate import RankReport, Request, report_line
from reasongrm_nemo.stage_kinds import kind_of

if TYPE_CHECKING:
    from reasongrm_nemo.megatron.storages import LiveStorages

# The GPU platform without Transformer Engine, which cannot be imported without a GPU.
SIMULATED_GPU = replace(GPU, accelerator="cpu", transformer_engine=False)


def main() -> None:
    """Simulate the ranks requested on standard input and print a report line for each."""
    orders = json.load(sys.stdin)
    load_platform("cpu")
    from reasongrm_nemo.megatron import session

    session.quiet_libraries()
    import reasongrm_nemo.grpo.actor
    import reasongrm_nemo.sft.model  # noqa: F401

    # one process per request
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        for report in pool.imap(_simulate, orders, chunksize=1):
            print(report_line(report), flush=True)


def _simulate(order: dict[str, Any]) -> RankReport:
    given = {"recipe": OmegaConf.create(order["recipe"]), "hf_path": Path(order["hf_path"])}
    return simulate_rank(Request(**order | given))


def simulate_rank(request: Request, fake: bool = True) -> RankReport:
    """Build a rank's part of the model and take a step; once per process.

    Args:
        request: the rank. Operations are counted in a second step, as the counter keeps tensors alive.
        fake: False uses real tensors, to check the memory count (small models on one rank only).
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    recipe, rank = request.recipe, request.rank
    architecture = Architecture.from_folder(request.hf_path, recipe.model.rope)
    without_data = FakeTensorMode(allow_non_fake_inputs=True) if fake else contextlib.nullcontext()
    _join_world(recipe.cluster, rank)
    with without_data:
        began = time.monotonic()
        model = build(recipe, architecture)
        parameters = list(model.core_module().parameters())
        built = time.monotonic()
        batches = request.micro_batches
        batches = recipe.cluster.pipeline_parallel if batches is None else batches
        live = storages_of_step(model, recipe, parameters, batches) if batches else None
        stepped = time.monotonic()
        operations = flops_of_step(model, recipe, parameters) if request.flops else 0
    from megatron.core import parallel_state

    replicated = sum(p.numel() for p in parameters if not getattr(p, "tensor_model_parallel", False))
    count = Count(sum(p.numel() for p in parameters) - replicated, replicated)
    copies = parallel_state.get_data_parallel_world_size()
    # computed: neither gradients nor an optimizer exist here
    kept = states.of_rank(count.total, recipe.model.dtype, recipe.cluster.platform, copies)
    held = Rank(
        stage=parallel_state.get_pipeline_model_parallel_rank(),
        layers=len(model.core_module().decoder.layers),
        count=count,
        states=replace(kept, weights=sum(p.numel() * p.element_size() for p in parameters)),
        activations={part: size for part, size in live.at_peak.items() if size} if live else {},
    )
    return RankReport(rank, held, operations, build_s=built - began, step_s=stepped - built)


def build(recipe: DictConfig, architecture: Architecture) -> Any:
    """The recipe's model on this rank, built by NeMo without weights or optimizer."""
    from reasongrm_nemo.grpo.actor import GRPOActor
    from reasongrm_nemo.megatron import rope, session
    from reasongrm_nemo.sft.model import SFTModel

    stage = recipe[recipe.stage]
    platform = SIMULATED_GPU if recipe.cluster.platform == "gpu" else CPU
    model_class = {"grpo": GRPOActor, "sft": SFTModel}[recipe.stage]
    model, _ = session.build(platform, model_class, recipe, stage.optim, architecture)
    rope.apply_rope(model.core_module(), architecture.rope, architecture.head_dim)
    model.core_module().train()
    # fixed shapes: a shape sent by another rank cannot be read without data
    model.transformer_config.variable_seq_lengths = False
    if kind_of(recipe).on_policy:
        model.grpo = stage
    return model


def storages_of_step(
    model: Any, recipe: DictConfig, parameters: list[Any], micro_batches: int
) -> LiveStorages:
    """Peak memory of a step with the given number of full micro-batches."""
    from reasongrm_nemo.megatron.storage_parts import told_apart
    from reasongrm_nemo.megatron.storages import LiveStorages

    live = LiveStorages(parameters)
    for parameter in parameters:
        parameter.register_post_accumulate_grad_hook(_drop_gradient)
    step = _step_of(model, recipe, micro_batches)
    with told_apart(model.core_module(), live), live:
        step()
    return live


def flops_of_step(model: Any, recipe: DictConfig, parameters: list[Any]) -> int:
    """Floating-point operations of this rank for one full micro-batch, forward and backward."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    # causal: half of the scores; backward recomputes them and takes four more products
    def attention(query: Any, key: Any, value: Any, *_: Any, out_val: Any = None, **__: Any) -> int:
        return 2 * query.numel() * key.shape[2]

    def attention_backward(grad: Any, query: Any, key: Any, *_: Any, out_val: Any = None, **__: Any) -> int:
        return 5 * query.numel() * key.shape[2]

    attention._get_raw = attention_backward._get_raw = True  # type: ignore[attr-defined]
    aten = torch.ops.aten
    mapping: dict[Any, Any] = {
        aten._scaled_dot_product_flash_attention_for_cpu: attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward,
    }
    counter = FlopCounterMode(display=False, custom_mapping=mapping)
    step = _step_of(model, recipe, 1)
    with counter:
        step()
    return int(counter.get_total_flops())


def _step_of(model: Any, recipe: DictConfig, micro_batches: int) -> Callable[[], object]:
    """A function that takes one step with the given number of full micro-batches."""
    from reasongrm_nemo.megatron.activations import fullest
    from reasongrm_nemo.megatron.forward_backward import run_schedule
    from reasongrm_nemo.megatron.micro_batches import Sample, collate

    rows, length = fullest(recipe)
    names = ("rollout", "old", "reference") if kind_of(recipe).on_policy else ()
    sample = Sample((0,) * length, 1, per_token=dict.fromkeys(names, (0.0,) * (length - 1)))
    batch = collate([sample], [0] * rows, model.length_multiple())
    loss_function = model.loss_function([] if kind_of(recipe).on_policy else 1.0)
    return lambda: run_schedule(
        model.model, [batch] * micro_batches, loss_function, entropy=kind_of(recipe).on_policy
    )


def _drop_gradient(parameter: Any) -> None:
    parameter.grad = None


def _join_world(cluster: DictConfig, rank: int) -> None:
    """Make this process a rank of the cluster, with a process group that sends nothing."""
    import torch
    import torch.distributed as dist
    from megatron.core import parallel_state, tensor_parallel
    from torch.testing._internal.distributed.fake_pg import FakeStore

    world = cluster.nodes * cluster.devices_per_node
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_RANK": str(rank % cluster.devices_per_node),
        "GROUP_RANK": str(rank // cluster.devices_per_node),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "1",
        # Lightning detects torchrun by this variable
        "TORCHELASTIC_RUN_ID": "simulation",
    }
    torch.set_num_threads(1)
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world)
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=cluster.tensor_parallel,
        pipeline_model_parallel_size=cluster.pipeline_parallel,
        create_gloo_process_groups=False,
    )
    tensor_parallel.model_parallel_cuda_manual_seed(1)
    _stand_ins()


def _stand_ins() -> None:
    """Patch what cannot run on tensors without data."""
    from megatron.core.tensor_parallel import random

    from reasongrm_nemo.megatron.gpt import ScoringGPTModel

    # reading a generator's state needs data; nothing is drawn, as dropout is 0
    random.CudaRNGStatesTracker.fork = lambda self, name=None: contextlib.nullcontext()
    random._get_all_rng_states = tuple
    random._set_all_rng_states = lambda *_: None
    random._fork_rng = contextlib.nullcontext
    # NeMo's O2 wrapper casts the model, which megatron-core has already built in bf16
    ScoringGPTModel.bfloat16 = lambda self: self


if __name__ == "__main__":
    main()
