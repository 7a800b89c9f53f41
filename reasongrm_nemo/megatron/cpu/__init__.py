# SPDX-License-Identifier: Apache-2.0
"""Runs the real NeMo-Aligner and megatron-core on CPU over gloo.

Both libraries take a GPU, Apex, Transformer Engine and TensorRT-LLM for granted. Each stand-in here
answers one such assumption and says whose; nothing of the training itself is replaced. The order
matters: ``device`` before megatron-core, megatron-core before ``apex`` (so that it keeps its own
Apex-free paths), ``apex`` before NeMo, ``gaps`` after it.
"""

from __future__ import annotations

import gc

_installed = False


def installed() -> bool:
    """Whether this process runs on the stand-ins."""
    return _installed


def install() -> None:
    """Install all stand-ins once; must come before anything imports NeMo."""
    global _installed
    if _installed:
        return
    from reasongrm_nemo.megatron.cpu import apex, device, gaps
    from reasongrm_nemo.processes import cpu_math

    # what is imported stays: looking through it for garbage takes a seventh of NeMo's import
    gc.disable()
    try:
        cpu_math.settle()
        device.install_device()
        gaps.before_nemo()
        apex.install_apex()
        gaps.after_nemo()
    finally:
        gc.enable()
    _installed = True
