# SPDX-License-Identifier: Apache-2.0
"""The plan compared with a real step: real weights, optimizer and tensors, on one CPU rank.

Seen: tiny judge 0.3 % (tensors), 1.4 % (resident); SmolLM2-135M as in recipes/smollm2 0.005 %, 1.1 %.
"""

import json
from pathlib import Path

import pytest

from reasongrm_nemo.models.architecture import Architecture
from reasongrm_nemo.plan import memory
from reasongrm_nemo.recipe.load import load_recipe, recipes_root, resolve_path

WORKER = str(Path(__file__).parent / "memory_worker.py")
# as in the recipe; and at a quarter of the recipe's length, which takes a quarter of the time
CASES = {
    "tiny": [],
    "smollm2": [
        "model.max_model_len=256",
        "judge.max_prompt_tokens=192",
        "grpo.max_tokens_per_micro_batch=512",
    ],
}


@pytest.mark.parametrize("case", CASES)
def test_a_real_step_takes_the_planned_memory(case, launch, request, tmp_path):
    """Within 10 %, by the kernel's count and by the tensors; freed memory is returned at once."""
    recipe_path = recipes_root() / case / "1_grpo_zero.yaml"
    model = request.getfixturevalue("smollm2") if case == "smollm2" else resolve_path("asset:tiny_judge", ".")
    out = tmp_path / "figures.json"
    launch(WORKER, 1, recipe_path, model, out, *CASES[case])
    seen = json.loads(out.read_text())
    recipe = load_recipe(recipe_path, CASES[case])
    [rank] = memory.ranks(recipe, Architecture.from_folder(model, recipe.model.rope))
    assert seen["weights"] == rank.states.weights
    assert seen["optimizer"] == rank.states.optimizer
    step = sum(rank.activations.values()) + rank.states.gradients
    assert seen["counted"] == pytest.approx(step, rel=0.1)
    assert seen["resident"] == pytest.approx(step, rel=0.1)
