# SPDX-License-Identifier: Apache-2.0
"""Runs the real NeMo-Aligner and megatron-core on CPU over gloo.

Both libraries assume a GPU, Apex, Transformer Engine and TensorRT-LLM. Each stand-in here replaces one of
these and names the code that needs it; the training code itself is untouched. The order matters:
``device`` before megatron-core, megatron-core before ``apex`` (it then takes its Apex-free code paths),
``apex`` before NeMo, ``gaps`` after NeMo.
"""

from __future__ import annotations

import gc

_installed = False


def installed() -> bool:
    """Whether the stand-ins are installed in this process."""
    return _installed


def install() -> None:
    """Install all stand-ins once; call before anything imports NeMo."""
    global _installed
    if _installed:
        return
    from reasongrm_nemo.megatron.cpu import apex, device, gaps
    from reasongrm_nemo.processes import cpu_math

    # imported modules stay alive; garbage collection would take a seventh of NeMo's import time
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
