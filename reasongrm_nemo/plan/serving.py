# SPDX-License-Identifier: Apache-2.0
"""Memory of a rollout server, and how many sequences it can run at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from reasongrm_nemo.megatron.states import WIDTH
from reasongrm_nemo.models import parameter_counts
from reasongrm_nemo.models.architecture import Architecture

GIB = 2**30


@dataclass(frozen=True)
class Server:
    """One vLLM server; bytes per worker.

    Attributes:
        workers: tensor-parallel size.
        weights: of the served model.
        share: memory limit; 0 on CPU, where only the KV cache is limited.
        kv_cache: what the limit leaves for keys and values; the server cannot start if it is 0 or less.
        kv_token: keys and values of one token.
        most_sequences: ``rollout.max_num_seqs``.
    """

    workers: int
    weights: int
    share: int
    kv_cache: int
    kv_token: int
    most_sequences: int

    @property
    def tokens(self) -> int:
        """Size of the KV cache in tokens."""
        return max(0, self.kv_cache) // self.kv_token

    def sequences(self, length: int) -> int:
        """Number of sequences of ``length`` tokens that run at once."""
        return min(self.most_sequences, self.tokens // length)


def server(recipe: Any, architecture: Architecture) -> Server:
    """A rollout server of the recipe.

    vLLM shards embedding and layers over the workers; with more workers than KV heads, heads are replicated.
    """
    rollout, workers = recipe.rollout, recipe.rollout.tensor_parallel
    width = WIDTH[rollout.dtype]
    held = parameter_counts.of_model(architecture)
    weights = width * -(-held // workers)
    heads = max(1, architecture.kv_heads // workers)
    kv_token = 2 * width * architecture.layers * heads * architecture.head_dim
    if recipe.cluster.platform == "cpu":
        return Server(
            workers, weights, 0, int(rollout.kv_cache_gib * GIB) // workers, kv_token, rollout.max_num_seqs
        )
    memory = recipe.plan.device_memory_gib or 0
    share = int(rollout.gpu_memory_utilization * memory * GIB)
    kv_cache = share - weights - int(recipe.plan.server_reserve_gib * GIB)
    return Server(workers, weights, share, kv_cache, kv_token, rollout.max_num_seqs)
