# SPDX-License-Identifier: Apache-2.0
"""What vLLM's processes load: weight-transfer engines, a token on every route, accurate first calls of MKL.

Found by the entry point group `vllm.general_plugins`; vLLM calls `register` in the API server, the engine
core and every worker.  Written against vLLM 0.32.
"""

from __future__ import annotations

import gc
import hashlib
import os
import secrets
from typing import Any

from reasongrm_nemo.processes import cpu_math
from reasongrm_nemo.processes.meeting import sign_objects
from reasongrm_nemo.rollout.server.settings import ENGINES


def register() -> None:
    """The plug-in hook of vLLM; may be called more than once in a process.

    Raises:
        RuntimeError: this vLLM has no weight-transfer engines that can be registered.
    """
    gc.enable()  # see vllm_main
    cpu_math.settle()
    if token := os.environ.get("VLLM_API_KEY"):
        sign_objects(token)  # workers of one server broadcast objects to each other
    try:
        from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory as factory

        for how, name in ENGINES.items():
            if name not in factory._registry:
                factory.register_engine(
                    name, "reasongrm_nemo.rollout.weights.vllm_engines", f"{how.title()}Engine"
                )
        _repack_tied_heads()
        _fork_the_engine_core()
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


def _fork_the_engine_core() -> None:
    """On CPU with one thread, fork the engine core from the API server, which has imported all it needs.

    vLLM 0.32 spawns it on CPU, and the second import of vLLM and torch is two fifths of a start. With more
    threads it has to: GNU's OpenMP does not survive a fork, and vLLM preloads it for the new process.
    """
    import multiprocessing

    from vllm.platforms import current_platform
    from vllm.v1.engine import utils

    if current_platform.is_cpu() and os.environ.get("OMP_NUM_THREADS") == "1":
        utils.get_mp_context = lambda: multiprocessing.get_context("fork")


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
