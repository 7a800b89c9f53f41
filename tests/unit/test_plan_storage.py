# SPDX-License-Identifier: Apache-2.0
"""Disk space of QwQ-32B's artefacts, worked out by hand."""

import pytest

from reasongrm_nemo.models.architecture import Architecture
from reasongrm_nemo.plan.storage import checkpoint, disk_bytes
from reasongrm_nemo.recipe.load import load_recipe, recipes_root, resolve_path

QWQ = Architecture.from_folder(resolve_path("asset:configs/qwq_32b", "."))
PARAMETERS = 32_763_876_352
ONE = 14 * PARAMETERS  # bf16 weights; fp32 weights and Adam's two moments


def recipe(stage, *words):
    return load_recipe(recipes_root() / "qwq_32b" / f"{stage}.yaml", words)


def disk(stage, *words):
    return disk_bytes(recipe(stage, *words), QWQ, 1000.0)


def test_a_run_of_grpo_holds_checkpoints_its_export_and_its_rollouts():
    assert checkpoint(recipe("1_grpo_zero"), QWQ) == ONE
    assert disk("1_grpo_zero") == {
        "checkpoints": 2 * ONE,
        "checkpoint_being_written": ONE,
        "export": 2 * PARAMETERS,
        "rollouts": 100 * 256 * 1000 * 27,
    }


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (["grpo.keep_checkpoints=3"], 3),
        (["grpo.steps=10"], 1),  # only one is written
        (["grpo.steps=11"], 2),
        (
            [
                "checkpoints.keep_best=2",
                "grpo.validation.every=5",
                "grpo.save_every=5",
                "inputs.validation=v",
            ],
            4,
        ),
    ],
)
def test_no_more_checkpoints_are_kept_than_the_recipe_allows_or_are_written(words, kept):
    assert disk("1_grpo_zero", *words)["checkpoints"] == kept * ONE


def test_a_run_that_saves_no_more_than_it_keeps_needs_no_room_for_another():
    assert disk("1_grpo_zero", "grpo.steps=10")["checkpoint_being_written"] == 0
    assert disk("4_sft", "plan.tasks=100", "sft.epochs=1")["checkpoint_being_written"] == 0


def test_verdicts_are_as_long_as_the_answers():
    assert disk("7_evaluate", "evaluate.settings=[{temperature: 1.0, samples: 2}]") == {
        "verdicts": 41773 * 2 * 4 * 1000 * 5
    }


def test_sft_holds_no_rollouts():
    assert disk("4_sft").keys() == {"checkpoints", "checkpoint_being_written", "export"}


def test_sampled_paths_are_counted_by_shard():
    assert disk("2_generate") == {"paths": 72000 * 8 * 1000 * (5 + 7)}
    assert disk("2_generate", "generate.keep_token_ids=false") == {"paths": 72000 * 8 * 1000 * 5}
    assert disk("2_generate", "generate.shard=1/8", "generate.samples=4") == {"paths": 9000 * 4 * 1000 * 12}
    assert disk("5_mine", "plan.tasks=10")["paths"] == 10 * 8 * 1000 * 5
    assert disk("2_generate", "plan.tasks=null") == {"paths": 0}
