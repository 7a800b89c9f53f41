# SPDX-License-Identifier: Apache-2.0
"""judge.json, and the sampling that a model's publisher recommends."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.judge import (
    JudgeSampling,
    JudgeSettings,
    load_template,
    published_sampling,
    read_settings,
)
from reasongrm_nemo.judge.settings import DEFAULT_POLICY, DEFAULT_TEMPLATE
from reasongrm_nemo.recipe.load import load_recipe, recipes_root


def test_settings_are_read_back_as_they_were_written(tmp_path):
    assert read_settings(tmp_path) is None
    sampling = JudgeSampling(0.6, 0.95, 40, 0.1, 1.05)
    settings = JudgeSettings(load_template("reasongrm"), "rm_r1", "<think>\n", sampling)
    settings.write(tmp_path)
    back = read_settings(tmp_path)
    assert back is not None and back.template.digest == settings.template.digest
    assert (back.template.name, back.policy, back.response_prefix) == ("reasongrm", "rm_r1", "<think>\n")
    assert back.sampling == sampling == published_sampling(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["judge.json"]


def test_the_defaults_are_those_of_the_recipes():
    common = load_recipe(recipes_root() / "qwq_32b" / "1_grpo_zero.yaml")
    assert (common.judge.template, common.judge.policy) == (DEFAULT_TEMPLATE, DEFAULT_POLICY)
    assert JudgeSettings.of(common.judge) == JudgeSettings(load_template(DEFAULT_TEMPLATE))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("{", "cannot be read as JSON"),
        ([], "format 1"),
        ({"format": 2}, "format 1"),
        ({"template": "reasongrm"}, "template must have"),
        ({"template": {"user": 3}}, "template must have"),
        ({"template": {"user": "x", "system": 3}}, "template.system is 3"),
        ({"policy": "lenient"}, "policy is 'lenient'"),
        ({"policy": None}, "policy is None"),
        ({"response_prefix": None}, "response_prefix is None"),
        ({"sampling": []}, "sampling is []"),
        ({"sampling": {"temperature": "hot"}}, "sampling.temperature is 'hot'"),
        ({"sampling": {"top_k": 1.5}}, "sampling.top_k is 1.5"),
        ({"sampling": {"beams": 2}}, "unknown key 'beams'"),
    ],
)
def test_a_malformed_judge_json_is_one_sentence(tmp_path, change, words):
    JudgeSettings(load_template("reasongrm")).write(tmp_path)
    file = tmp_path / "judge.json"
    if isinstance(change, dict):
        file.write_text(json.dumps(json.loads(file.read_text()) | change))
    else:
        file.write_text(change if isinstance(change, str) else json.dumps(change))
    with pytest.raises(UserError) as refused:
        read_settings(tmp_path)
    assert words in str(refused.value) and str(file) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("published", "words"),
    [
        # the values of QwQ-32B, Qwen2.5-Instruct and Llama-3.1-Instruct
        (
            {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "top_k": 40, "repetition_penalty": 1.0},
            "T = 0.6, top-p 0.95, top-k 40",
        ),
        (
            {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05},
            "T = 0.7, top-p 0.8, top-k 20, repetition penalty 1.05",
        ),
        ({"do_sample": True, "temperature": 0.6, "top_p": 0.9}, "T = 0.6, top-p 0.9"),
        ({"eos_token_id": [1, 2]}, "T = 1"),
        ({"top_k": 0, "temperature": None}, "T = 1"),
        ({"do_sample": False}, "greedy"),
        (None, "T = 1"),
    ],
)
def test_published_sampling_in_words(tmp_path, published, words):
    if published is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(published))
    assert published_sampling(tmp_path).words() == words


@pytest.mark.parametrize("text", ["{", "[]", '{"temperature": "0.6"}', '{"top_p": 0}', '{"top_k": true}'])
def test_a_broken_generation_config_is_one_sentence(tmp_path, text):
    (tmp_path / "generation_config.json").write_text(text)
    with pytest.raises(UserError, match=r"generation_config\.json"):
        published_sampling(tmp_path)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "temperature": st.just(0) | st.floats(0.01, 2),
            "top_p": st.floats(0.01, 1),
            "top_k": st.integers(-1, 100),
            "min_p": st.floats(0, 1),
            "repetition_penalty": st.floats(0.01, 2),
        },
    )
)
def test_sampling_that_engines_accept_is_accepted(data):
    sampling = JudgeSampling.of(data, "x")
    assert sampling.top_k != 0
    assert sampling.words() == "greedy" if sampling.temperature == 0 else sampling.words().startswith("T = ")
