# SPDX-License-Identifier: Apache-2.0
"""Log-probs, loss and gradients equal transformers' on one process, however the model and batch are cut.

fp32. Tolerances: log-probs 1e-4 absolute (sums of some 100 products, seen 1e-6 to 1e-5); loss and each
parameter's gradient 1e-5 and 1e-4 relative in norm (other orders of summation, seen below 1e-5). Against one
rank's and against another cut of the batch, where only the order of summation differs: 1e-5 relative.
"""

import functools
import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from small_models import write_model

WORKER = str(Path(__file__).parent / "worker.py")
# model, ranks, tensor parallel, pipeline parallel, sequence parallel; the remaining factor is data parallel
CASES = {
    "qwen2": ("qwen2_tied", 1, 1, 1, False),
    "llama": ("llama_untied", 1, 1, 1, False),
    "qwen2-tp2-sp": ("qwen2_tied", 2, 2, 1, True),
    "llama-tp2": ("llama_untied", 2, 2, 1, False),
    "qwen2-pp2": ("qwen2_tied", 2, 1, 2, False),
    "llama-dp2": ("llama_untied", 2, 1, 1, False),
    "qwen3-tp2": ("qwen3", 2, 2, 1, False),
    "qwen3-tp2-sp": ("qwen3", 2, 2, 1, True),
    "phi3-tp2-sp": ("phi3", 2, 2, 1, True),
    "qwen2-tp2-pp2": ("qwen2_tied", 4, 2, 2, False),
    "qwen2-tp2-dp2-sp": ("qwen2_tied", 4, 2, 1, True),
    "qwen2-pp2-dp2": ("qwen2_tied", 4, 1, 2, False),
}


@pytest.fixture(scope="module")
def ran(launch, tmp_path_factory):
    """``ran(case)``: figures and gradients of a case, which runs once."""

    @functools.cache
    def run(case):
        model, world, tensor, pipeline, sequence = CASES[case]
        folder = tmp_path_factory.mktemp(case)
        out = folder / "figures.json"
        launch(WORKER, world, write_model(model, folder / "hf"), tensor, pipeline, sequence, out)
        return json.loads(out.read_text()), load_file(out.with_suffix(".safetensors"))

    return run


@pytest.mark.parametrize("case", list(CASES))
def test_equals_transformers(case, ran):
    figures, _ = ran(case)
    assert figures["names"]
    assert figures["log_probs"] <= 1e-4
    assert figures["loss"] <= 1e-5
    assert figures["gradient"] <= 1e-4
    assert figures["entropy"] <= 1e-5
    assert figures["error_metric"] <= 1e-5


@pytest.mark.parametrize("case", list(CASES))
def test_micro_batches_and_order_change_nothing(case, ran):
    """One sequence a micro-batch, all in one, and the batch in another order."""
    assert ran(case)[0]["cuts"] <= 1e-5


@pytest.mark.parametrize("case", list(CASES))
def test_a_pass_without_gradients_gives_the_same_loss(case, ran):
    """As in a step that keeps no group; the pass would hang if a stage waited for a gradient."""
    assert ran(case)[0]["forward_only"] <= 1e-5


@pytest.mark.parametrize("case", [case for case in CASES if "-" in case and case.split("-")[0] in CASES])
def test_a_layout_changes_nothing(case, ran):
    """Compared with the same model on one rank."""
    figures, gradients = ran(case)
    control, control_gradients = ran(case.split("-")[0])
    assert abs(figures["value"] - control["value"]) <= 1e-5 * abs(control["value"])
    assert gradients.keys() == control_gradients.keys()
    for name, gradient in control_gradients.items():
        assert (gradients[name] - gradient).norm() <= 1e-5 * gradient.norm(), name
