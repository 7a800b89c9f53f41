# SPDX-License-Identifier: Apache-2.0
"""The plan describes the model that the recipe names, or fails; unknown figures are not summed."""

import json
import shutil

import pytest
from click.testing import CliRunner

from reasongrm_nemo import plan as plans
from reasongrm_nemo.cli import main
from reasongrm_nemo.plan.text import pipeline_text
from reasongrm_nemo.recipe.load import load_recipe, recipes_root, resolve_path

QWQ = recipes_root() / "qwq_32b"
GRPO, EVALUATE = QWQ / "1_grpo_zero.yaml", QWQ / "7_evaluate.yaml"


def call(*words):
    return CliRunner().invoke(main, ["plan", *map(str, words)])


@pytest.fixture
def llama(tmp_path):
    """Another model's config.json, at the path that the recipe gives for that model."""
    folder = tmp_path / "Llama-3.1-8B"
    shutil.copytree(resolve_path("asset:configs/llama3_1_8b", "."), folder)
    return folder


@pytest.mark.parametrize("words", [["model.hf_path=/data/Llama-3.1-8B"], ["model.hf_path=/data/QwQ-32B-AWQ"]])
def test_a_missing_model_is_not_planned_as_another_model(words):
    recipe = load_recipe(GRPO, words)
    with pytest.raises(plans.ShapeUnknown, match=r"no config\.json is in model\.hf_path /data/"):
        plans.plan(recipe)
    told = call(GRPO, *words, "--json")
    assert told.exit_code == 0 and json.loads(told.stdout)["figures"] is None


def test_a_users_recipe_with_a_model_of_its_own(tmp_path):
    mine = tmp_path / "mine.yaml"
    text = "defaults: [qwq_32b/1_grpo_zero]\nmodel: {hf_path: /data/my-model}\n"
    mine.write_text(text)
    with pytest.raises(plans.ShapeUnknown, match="/data/my-model"):
        plans.plan(load_recipe(mine))
    mine.write_text(text + "plan: {config: 'asset:configs/qwq_32b'}\n")
    assert plans.plan(load_recipe(mine)).parameters == plans.plan(load_recipe(GRPO)).parameters


@pytest.mark.parametrize(
    "words",
    [
        ["model.hf_path=/data/QwQ-32B"],  # the same model elsewhere
        ["model.hf_path=@other/hf"],  # derived from that model
        ["model.hf_path=/data/mine", "plan.config=asset:configs/qwq_32b"],  # declared to have that shape
    ],
)
def test_the_shipped_shape_is_used_while_the_model_is_missing(words):
    assert plans.plan(load_recipe(GRPO, words)).parameters == plans.plan(load_recipe(GRPO)).parameters


def test_an_existing_model_is_planned_by_its_own_config(llama):
    made = plans.plan(
        load_recipe(GRPO, [f"model.hf_path={llama}", "model.architecture=llama", "model.rope.type=null"])
    )
    assert 8e9 < made.parameters < 8.1e9


def test_models_made_by_a_pipeline_have_the_shape_of_their_base(llama):
    words = [f"model.hf_path={llama}", "model.architecture=llama", "model.rope.type=null", "plan.config=null"]
    data = json.loads(call(QWQ, *words, "--json").stdout)
    parameters = {name: plan and plan["parameters"] for name, plan in data.items()}
    assert len(set(filter(None, parameters.values()))) == 1 and 8e9 < parameters["2_generate"] < 8.1e9
    absent = call(QWQ, "model.hf_path=/data/Llama-3.1-8B")
    assert absent.exit_code == 2 and "no config.json is in model.hf_path /data/Llama-3.1-8B" in absent.stderr


def test_an_evaluation_of_models_with_different_shapes_has_no_figures(llama):
    other = load_recipe(EVALUATE, [f"evaluate.models.llama={llama}"])
    with pytest.raises(plans.ShapeUnknown, match=r"evaluate\.models\.llama differs in shape"):
        plans.plan(other)
    with pytest.raises(plans.ShapeUnknown, match=r"evaluate\.models\.far is unknown"):
        plans.plan(load_recipe(EVALUATE, ["evaluate.models.far=/data/far"]))


def test_unknown_times_are_not_summed_as_zero():
    made = [(name, plans.plan(load_recipe(QWQ / f"{name}.yaml"))) for name in ("1_grpo_zero", "4_sft")]
    unknown = plans.plan(load_recipe(GRPO, ["plan.tflops=null"]))
    assert isinstance(unknown.time, str)
    known = pipeline_text(made).splitlines()
    total = next(line for line in known if line.startswith("in all"))
    assert "?" not in total and "over" not in total
    none = pipeline_text([("1_grpo_zero", unknown)]).splitlines()
    assert next(line for line in none if line.startswith("in all")).split()[-2:] == ["?", "?"]
    some = pipeline_text([*made, ("other", unknown)]).splitlines()
    seconds = total.split()[-2]
    assert f"over {seconds}" in next(line for line in some if line.startswith("in all"))
