# SPDX-License-Identifier: Apache-2.0
"""Plug-in for vLLM's processes: weight-transfer engines, a token check on all routes, an MKL workaround.

vLLM finds the plug-in by the entry point group `vllm.general_plugins` and calls `register` in the API
server, the engine core and every worker.  Written for vLLM 0.32.
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
    """Register everything in this process (vLLM's plug-in hook); may be called more than once in a process.

    Raises:
        RuntimeError: this version of vLLM lacks weight-transfer engines that can be registered.
    """
    gc.enable()  # see vllm_main
    cpu_math.settle()
    if token := os.environ.get("VLLM_API_KEY"):
        sign_objects(token)  # a server's workers broadcast objects to each other
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
            f"reasongrm-nemo needs the weight-transfer engines of vLLM 0.32, but vLLM {vllm.__version__} "
            f"is installed: {error}"
        ) from error


def _repack_tied_heads() -> None:
    """Repack a tied output head after each reload on CPU.

    vLLM 0.32 packs a linear layer's weight for oneDNN after loading it. A reload loads the embedding, which
    shares storage with the tied head, but loads no weight of the head, which would keep its old packed copy
    and serve wrong log-probs (observed: off by 0.08 after one update).
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
    """On CPU with one thread, fork the engine core from the API server instead of spawning it.

    vLLM 0.32 spawns the engine core on CPU, and importing vLLM and torch again takes two fifths of a start.
    With more threads, spawning is needed, because GNU's OpenMP does not survive a fork.
    """
    import multiprocessing

    from vllm.platforms import current_platform
    from vllm.v1.engine import utils

    if current_platform.is_cpu() and os.environ.get("OMP_NUM_THREADS") == "1":
        utils.get_mp_context = lambda: multiprocessing.get_context("fork")


class RequireToken:
    """ASGI middleware that requires the token on every route, including weights and metrics.

    vLLM 0.32 checks its key only on /v1, /v2, /inference and /cohere; /collective_rpc, /update_weights and
    others would be open to every user of the machine.
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
