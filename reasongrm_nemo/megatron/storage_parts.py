# SPDX-License-Identifier: Apache-2.0
"""Assigns storages allocated during a step to parts of the step, by when they are allocated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from megatron.core import parallel_state
from torch import Tensor

from reasongrm_nemo.megatron.activations import GATHERED, HEAD, LAYER, REST, SAVED
from reasongrm_nemo.megatron.storages import LiveStorages


@contextmanager
def told_apart(model: Any, live: LiveStorages) -> Iterator[None]:
    """Make ``live`` count storages by part while ``model`` (the bare GPT model) runs a step."""
    live.part = REST
    last_stage = parallel_state.is_pipeline_last_stage()

    def model_begins(module: Any, args: Any) -> None:
        live.part = REST

    def layer_begins(module: Any, args: Any, kwargs: Any) -> None:
        if in_backward():
            live.part = LAYER
        else:
            live.part = SAVED
            # this layer's input is from the embedding or another stage, and kept for the backward pass
            live.count_as(SAVED, kwargs["hidden_states"])

    def block_ends(module: Any, args: Any, out: Tensor) -> None:
        out.register_hook(backward_begins)
        live.part = HEAD if last_stage else REST
        live.count_as(live.part, out)

    def backward_begins(grad: Tensor) -> None:
        live.part = LAYER
        live.count_as(LAYER, grad)

    handles = [
        model.register_forward_pre_hook(model_begins),
        model.decoder.register_forward_hook(block_ends),
        *(layer.register_forward_pre_hook(layer_begins, with_kwargs=True) for layer in model.decoder.layers),
    ]
    buffers = parallel_state.get_global_memory_buffer()
    plain = buffers.get_tensor

    def get_tensor(*args: Any, **kwargs: Any) -> Tensor:
        tensor = plain(*args, **kwargs)
        live.count_as(GATHERED, tensor)
        return tensor

    buffers.get_tensor = get_tensor
    try:
        yield
    finally:
        del buffers.get_tensor
        for handle in handles:
            handle.remove()


def in_backward() -> bool:
    """Whether autograd is running a backward pass."""
    return torch._C._current_graph_task_id() != -1  # type: ignore[attr-defined]
