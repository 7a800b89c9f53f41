# SPDX-License-Identifier: Apache-2.0
"""Every element-wise function of MKL is first called on one thread, before NeMo or vLLM can call it."""

import subprocess
import sys

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from reasongrm_nemo.processes import cpu_math


class Calls(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.seen.setdefault(function.overloadpacket.__name__, set()).add((result.dtype, result.numel()))
        return result


def test_each_function_is_called_in_both_precisions_on_few_elements():
    with Calls() as calls:
        cpu_math.settle()
    for name in ("cos", "sin", "exp", "log", "sqrt", "tanh"):
        assert calls.seen[name] == {(torch.float32, 64), (torch.float64, 64)}, name


def test_the_cpu_platform_makes_these_calls_before_anything_else():
    code = (
        "from reasongrm_nemo.processes import cpu_math; import sys; "
        "cpu_math.settle = lambda: sys.exit(7 if 'megatron' not in sys.modules else 1); "
        "from reasongrm_nemo.megatron.platform import load_platform; load_platform('cpu')"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 7
