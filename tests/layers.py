# SPDX-License-Identifier: Apache-2.0
"""The layers of a test's rank: plain ones, or Transformer Engine's if the launch says so.

``launch(..., **TRANSFORMER_ENGINE)``, in the container environment (see conftest.py).
"""

import contextlib
import dataclasses
import os

TRANSFORMER_ENGINE = {"TEST_LAYERS": "transformer_engine"}


def load_platform(**changes):
    """The CPU platform with the layers chosen for this rank, and with ``changes``."""
    from reasongrm_nemo.megatron import platform

    loaded = platform.load_platform("cpu")
    if os.environ.get("TEST_LAYERS") == "transformer_engine":
        import transformer_engine_cpu

        transformer_engine_cpu.pretend_gpu()
        changes["transformer_engine"] = True
    return dataclasses.replace(loaded, **changes)


@contextlib.contextmanager
def count_forwards(core):
    """Record whose the first layer's modules are, their sharding, and their passes per micro-batch."""
    counts, layer = {"layer": 0, "decoder": 0}, core.decoder.layers[0]
    product = layer.mlp.linear_fc1
    figures = {"layers": type(product).__mro__[1].__module__.partition(".")[0]}
    figures["sequence_parallel"] = product.sequence_parallel

    def count(name):
        counts[name] += 1

    hooks = [
        layer.register_forward_hook(lambda *_: count("layer")),
        core.decoder.register_forward_hook(lambda *_: count("decoder")),
    ]
    yield figures
    for hook in hooks:
        hook.remove()
    figures["forwards"] = counts["layer"] / counts["decoder"]
