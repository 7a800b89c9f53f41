# SPDX-License-Identifier: Apache-2.0
"""What a rollout server holds, and how many sequences that lets it run at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from reasongrm_nemo.megatron.states import WIDTH
from reasongrm_nemo.models import parameter_counts
from reasongrm_nemo.models.architecture import Architecture

GIB = 2**30


@dataclass(frozen=True)
class Server:
    """One vLLM server; bytes are of one of its workers.

    Attributes:
        workers: GPUs that share its model.
        weights: of the served model.
        share: all that it may take; 0 on CPU, where only the KV cache is bounded.
        kv_cache: what is left of that for keys and values; not above 0: it does not start.
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
        """Tokens whose keys and values it holds at once."""
        return max(0, self.kv_cache) // self.kv_token

    def sequences(self, length: int) -> int:
        """Sequences of ``length`` tokens that it runs at once."""
        return min(self.most_sequences, self.tokens // length)


def server(recipe: Any, architecture: Architecture) -> Server:
    """One server of a recipe.

    vLLM shards embedding and layers over its workers; where there are more workers than KV heads each head
    is held by several.
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
