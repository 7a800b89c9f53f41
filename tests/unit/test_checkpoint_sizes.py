# SPDX-License-Identifier: Apache-2.0
"""A config.json that describes no model: one sentence that names the file and the key."""

import json

import pytest

from reasongrm_nemo import plan as plans
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.recipe.load import load_recipe, recipes_root, resolve_path

SHIPPED = json.loads((resolve_path("asset:configs/qwq_32b", "") / "config.json").read_text())


@pytest.fixture
def refusal(tmp_path):
    def check(config, name="1_grpo_zero", *words):
        (tmp_path / "config.json").write_text(json.dumps(config))
        recipe = load_recipe(
            recipes_root() / "qwq_32b" / f"{name}.yaml", [f"model.hf_path={tmp_path}", *words]
        )
        with pytest.raises(UserError) as caught:
            plans.plan(recipe)
        return str(caught.value).replace(str(tmp_path / "config.json"), "config.json")

    return check


def test_a_list_is_not_a_config(refusal):
    assert refusal([1]) == "config.json is no mapping of keys; it must be a model's config.json"


@pytest.mark.parametrize("name", ["1_grpo_zero", "2_generate"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_attention_heads", 0),
        ("num_attention_heads", "40"),
        ("num_attention_heads", 40.0),
        ("num_attention_heads", True),
        ("num_key_value_heads", -8),
        ("num_hidden_layers", 0),
        ("intermediate_size", {"each": 1}),
        ("hidden_size", "wide"),
        ("vocab_size", 0),
        ("max_position_embeddings", "long"),
    ],
)
def test_a_size_must_be_a_whole_number(refusal, name, key, value):
    sentence = refusal(SHIPPED | {key: value}, name)
    assert sentence == f"config.json: {key} is {value!r}; it must be a whole number from 1"


def test_sizes_per_layer_are_refused_for_training(refusal):
    assert "intermediate_size is [1, 2]" in refusal(SHIPPED | {"intermediate_size": [1, 2]})


@pytest.mark.parametrize(
    ("stated", "says"),
    [
        ({"rope_parameters": [1]}, "rope_parameters is [1]; it must be a mapping"),
        ({"rope_scaling": "yarn"}, "rope_scaling is 'yarn'; it must be a mapping"),
        ({"rope_theta": "1e6"}, "rope_theta is '1e6'; it must be a number above 0"),
        ({"rope_theta": 0}, "rope_theta is 0; it must be a number above 0"),
    ],
)
def test_an_invalid_rope_is_refused(refusal, stated, says):
    assert refusal(SHIPPED | stated) == f"config.json: {says}"
