# SPDX-License-Identifier: Apache-2.0
"""Layouts side by side, and a recipe's whole plan: a row's figures are the plan of the recipe so changed."""

import pytest

from reasongrm_nemo import plan as plans
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.models.architecture import Architecture
from reasongrm_nemo.plan import memory
from reasongrm_nemo.plan.sweep import sweep
from reasongrm_nemo.recipe.load import load_recipe, recipes_root, resolve_path

QWQ = Architecture.from_folder(resolve_path("asset:configs/qwq_32b", "."))


def recipe(stage="1_grpo_zero", *words):
    return load_recipe(recipes_root() / "qwq_32b" / f"{stage}.yaml", words)


def layouts(rows):
    return [(row.tensor, row.pipeline, row.data) for row in rows]


def test_a_layout_uses_all_gpus_and_divides_heads_layers_and_nodes():
    """TP divides the 8 KV heads and the node's GPUs, PP the 64 layers, TP x PP the 32 GPUs."""
    expected = [(t, p, 32 // t // p) for t in (1, 2, 4, 8) for p in (1, 2, 4, 8, 16, 32) if t * p <= 32]
    assert sorted(layouts(sweep(recipe(), QWQ, ["tp", "pp", "cp"]))) == sorted(expected)


def test_an_axis_that_is_not_named_stays_as_in_the_recipe():
    assert layouts(sweep(recipe(), QWQ, ["pp"])) == [(8, 1, 4), (8, 2, 2), (8, 4, 1)]
    assert layouts(sweep(recipe(), QWQ, ["tp"])) == [(1, 4, 8), (2, 4, 4), (4, 4, 2), (8, 4, 1)]
    assert layouts(sweep(recipe(), QWQ, ["cp"])) == [(8, 4, 1)]


@pytest.mark.parametrize("words", [[], ["cluster.sequence_parallel=false"]])
def test_a_row_is_the_plan_of_that_recipe(words):
    """A row is sequence parallel if the recipe is and TP is above 1."""
    for row in sweep(recipe("1_grpo_zero", *words), QWQ, ["tp", "pp"]):
        layout = [f"cluster.tensor_parallel={row.tensor}", f"cluster.pipeline_parallel={row.pipeline}"]
        sequence = not words and row.tensor > 1
        same = recipe("1_grpo_zero", *layout, f"cluster.sequence_parallel={str(sequence).lower()}")
        worst = max(memory.ranks(same, QWQ), key=lambda rank: rank.peak)
        assert (row.peak, row.states) == (worst.peak, worst.states.total)
        assert row.activations == sum(worst.activations.values())
        made = plans.plan(same)
        assert row.misfit == (made.misfits[0].key if made.misfits else None)
        if not made.misfits:
            assert row.training == made.time.training


def test_a_sweep_that_begins_at_tp_1_turns_sequence_parallelism_on_above():
    alone = recipe("1_grpo_zero", "cluster.tensor_parallel=1", "cluster.sequence_parallel=false")
    usual = {(row.tensor, row.pipeline): row.peak for row in sweep(recipe(), QWQ, ["tp", "pp"])}
    for row in sweep(alone, QWQ, ["tp", "pp"]):
        assert row.peak == usual[row.tensor, row.pipeline]


def test_uneven_stages_apply_to_the_recipes_number_of_stages_only():
    words = ["cluster.layers_in_first_stage=14", "cluster.layers_in_last_stage=18"]
    rows = {row.pipeline: row.states for row in sweep(recipe("1_grpo_zero", *words), QWQ, ["pp"])}
    even = {row.pipeline: row.states for row in sweep(recipe(), QWQ, ["pp"])}
    assert rows[2] == even[2] and rows[4] > even[4]


def test_without_rates_no_time_is_given():
    assert all(row.training is None for row in sweep(recipe("1_grpo_zero", "plan.tflops=null"), QWQ, ["pp"]))


def test_what_cannot_be_swept_is_refused():
    with pytest.raises(UserError, match='"dp" is not an axis; known are tp, pp, cp'):
        sweep(recipe(), QWQ, ["tp", "dp"])
    with pytest.raises(UserError, match="stage generate trains nothing"):
        sweep(recipe("2_generate"), QWQ, ["tp"])


def test_a_plan_counts_the_devices_and_servers_of_its_stage():
    grpo, generate, sft = (plans.plan(recipe(stage)) for stage in ("1_grpo_zero", "2_generate", "4_sft"))
    assert (grpo.devices, grpo.served) == (32, 32)
    assert (generate.devices, generate.served) == (8, 8)  # for one shard, on one node
    assert (sft.devices, sft.served, sft.server) == (32, 0, None)
    assert generate.ranks == [] and generate.checkpoint == generate.refit == 0 < generate.server.tokens
    assert len(grpo.ranks) == len(sft.ranks) == 4
    assert sft.refit == 0 and grpo.refit == 2 * grpo.parameters
    assert grpo.moments.keys() == {
        "training",
        "resume",
        "push",
        "wake",
        "save",
        "rollouts",
    } and sft.moments.keys() == {"training"}
    assert plans.plan(load_recipe(recipes_root() / "tiny" / "1_grpo_zero.yaml")).moments == {}
    assert plans.plan(recipe("0_prepare")) is None


def test_no_time_is_given_for_a_plan_that_does_not_fit():
    made = plans.plan(recipe("1_grpo_zero", "grpo.max_tokens_per_micro_batch=524288"))
    assert made.misfits and made.time == "it does not fit"
