# SPDX-License-Identifier: Apache-2.0
"""Chunked log-probs and entropies over two tensor-parallel ranks equal plain torch's on one process.

fp32; values 1e-5 absolute, gradients 1e-5 relative in norm (other orders of summation, seen below 2e-6).
"""

import json
from pathlib import Path


def test_two_tensor_parallel_ranks_equal_plain_torch(launch, tmp_path):
    out = tmp_path / "figures.json"
    launch(str(Path(__file__).parent / "log_probs_worker.py"), 2, out)
    figures = json.loads(out.read_text())
    assert set(figures) == {"plain", "sequence parallel"}
    for errors in figures.values():
        assert max(errors.values()) <= 1e-5, errors
    print(figures)
