# SPDX-License-Identifier: Apache-2.0
"""What vLLM's processes load: weights by gloo, a token on every route, accurate first calls of MKL.

Found by the entry point group `vllm.general_plugins`; vLLM calls `register` in the API server, the engine
core and every worker.  Written against vLLM 0.32.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from dataclasses import dataclass
from typing import Any

from reasongrm_nemo import mkl


def register() -> None:
    """The plug-in hook of vLLM; may be called more than once in a process.

    Raises:
        RuntimeError: this vLLM has no weight-transfer engines that can be registered.
    """
    mkl.settle()
    try:
        from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory as factory

        if "gloo" not in factory._registry:
            factory.register_engine("gloo", _gloo_engine())
        _repack_tied_heads()
    except (ImportError, AttributeError) as error:
        import vllm

        raise RuntimeError(
            f"reasongrm-nemo needs vLLM's weight-transfer engines (vLLM 0.32), and vLLM {vllm.__version__} "
            f"has none that it knows: {error}"
        ) from error


def _repack_tied_heads() -> None:
    """After each reload on CPU, pack a tied output head anew.

    vLLM 0.32 packs a linear layer's weight for oneDNN once loaded. A reload loads the embedding, whose
    storage the tied head shares, but no weight of the head's own, so the head goes on with its old packed
    copy: the served log-probs are then those of no model (seen: 0.08 off after one update).
    """
    from vllm.model_executor.model_loader.reload import layerwise
    from vllm.platforms import current_platform

    finalize = layerwise.finalize_layerwise_processing
    if not current_platform.is_cpu() or getattr(finalize, "repacks_tied_heads", False):
        return

    def finalize_and_repack(model: Any, model_config: Any) -> None:
        from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

        finalize(model, model_config)
        for module in model.modules():
            if isinstance(module, ParallelLMHead):
                module.quant_method.process_weights_after_loading(module)

    finalize_and_repack.repacks_tied_heads = True  # type: ignore[attr-defined]
    layerwise.finalize_layerwise_processing = finalize_and_repack


def _gloo_engine() -> type:
    import torch
    from vllm.distributed.weight_transfer.base import (
        WeightTransferEngine,
        WeightTransferInitInfo,
        WeightTransferUpdateInfo,
    )
    from vllm.model_executor.model_loader.reload import (
        finalize_layerwise_reload,
        initialize_layerwise_reload,
    )

    from reasongrm_nemo.rollout.gloo import Group, open_store

    @dataclass
    class GlooInitInfo(WeightTransferInitInfo):
        master_port: int
        world_size: int
        timeout_s: float

    @dataclass
    class GlooUpdateInfo(WeightTransferUpdateInfo):
        names: list[str]
        dtype_names: list[str]
        shapes: list[list[int]]

    class GlooWeightTransferEngine(WeightTransferEngine):  # type: ignore[misc]
        """Receives a checkpoint's tensors, one broadcast each, from rank 0 (the trainer)."""

        init_info_cls = GlooInitInfo
        update_info_cls = GlooUpdateInfo
        group: Group | None = None

        def init_transfer_engine(self, init_info: GlooInitInfo) -> None:
            parallel = self.parallel_config
            rank = 1 + parallel.rank + parallel.data_parallel_index * parallel.world_size
            store = open_store(init_info.world_size, init_info.timeout_s, init_info.master_port)
            self.group = Group(store, rank, init_info.world_size, init_info.timeout_s)

        def start_weight_update(self) -> None:
            initialize_layerwise_reload(self.model)

        def finish_weight_update(self) -> None:
            finalize_layerwise_reload(self.model, self.model_config)

        def update_weights(self, update_info: dict[str, Any]) -> None:
            # The base class then waits for an accelerator, which raises on a CPU.
            self.receive_weights(self.parse_update_info(update_info))

        def receive_weights(self, update_info: GlooUpdateInfo) -> None:
            if self.group is None:
                raise RuntimeError("update_weights came before init_weight_transfer_engine")

            group = self.group

            def tensors() -> Any:
                for name, dtype, shape in zip(
                    update_info.names, update_info.dtype_names, update_info.shapes, strict=True
                ):
                    tensor = torch.empty(shape, dtype=getattr(torch, dtype))
                    group.broadcast(tensor)
                    yield name, tensor

            self.model.load_weights(tensors())

        def shutdown(self) -> None:
            self.group = None

    return GlooWeightTransferEngine


class RequireToken:
    """ASGI middleware: no route without the token, neither weights nor metrics.

    vLLM 0.32 checks its key on /v1, /v2, /inference and /cohere only; /collective_rpc, /update_weights and
    their like are open to every user of the machine.
    """

    def __init__(self, app: Any):
        self._app = app
        self._wanted = _digest(f"Bearer {os.environ['VLLM_API_KEY']}".encode())

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass the request on, or answer 401."""
        if scope["type"] == "http":
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not secrets.compare_digest(_digest(given), self._wanted):
                headers = [(b"content-type", b"application/json")]
                await send({"type": "http.response.start", "status": 401, "headers": headers})
                await send({"type": "http.response.body", "body": b'{"error": "Unauthorized"}'})
                return
        await self._app(scope, receive, send)


def _digest(text: bytes) -> bytes:
    return hashlib.sha256(text).digest()
