# SPDX-License-Identifier: Apache-2.0
"""Values in a stranger's model folder that have the right type but cannot be used."""

import json
import math
import shutil

import pytest
from fake_pool import TINY

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.judge import load_template, read_settings
from reasongrm_nemo.judge.settings import JudgeSampling, JudgeSettings
from reasongrm_nemo.models.architecture import Architecture
from reasongrm_nemo.models.tokenization import load_tokenizer, stop_token_ids

CONFIG = json.loads((TINY / "config.json").read_text())
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 100}


@pytest.mark.parametrize(
    "change",
    [
        {"rms_norm_eps": math.nan},
        {"rms_norm_eps": math.inf},
        {"rms_norm_eps": -1e-6},
        {"rope_theta": math.inf},
        {"rope_theta": 10**60},
        {"rope_scaling": YARN | {"factor": math.nan}},
        {"rope_scaling": YARN | {"factor": 10**60}},
        {"rope_scaling": {"rope_type": "linear", "factor": math.inf}},
        {"num_hidden_layers": 10**9},
    ],
    ids=str,
)
def test_a_number_that_no_model_can_have_is_refused(change):
    with pytest.raises(
        UserError, match=rf"^f: .*{next(iter(change)) if 'rope_scaling' not in change else 'factor'}"
    ):
        Architecture.from_config(CONFIG | change, "f", None)


@pytest.fixture
def model(tmp_path):
    """A model's folder and a function that changes its judge.json."""
    shutil.copytree(TINY, tmp_path / "m", copy_function=shutil.copyfile)
    JudgeSettings(load_template("tiny")).write(tmp_path / "m")
    file = tmp_path / "m" / "judge.json"
    good = json.loads(file.read_text())

    def change(**values):
        file.write_text(json.dumps(good | values))
        return tmp_path / "m"

    return change


def test_an_unusable_judge_template_is_refused(model):
    assert read_settings(model()).template.user
    asks = "{question} {answer_a} {answer_b}"
    for user, said in (
        ("", r"template lacks the placeholder \{answer_a\}"),
        ("{answer_a} {answer_b}", r"lacks the placeholder \{conversation\} or \{question\}"),
        (asks + " {nonsense}", r"has the unknown placeholder \{nonsense\}"),
        (asks + " \ud800", "an unpaired surrogate"),
    ):
        with pytest.raises(UserError, match=rf"judge\.json: template.*{said}|judge\.json.*{said}"):
            read_settings(model(template={"name": "x", "user": user}))
    with pytest.raises(UserError, match=r"judge\.json: response_prefix has an unpaired surrogate"):
        read_settings(model(response_prefix="\udc80"))


def test_numbers_too_large_for_an_engine_are_refused(model):
    with pytest.raises(
        UserError, match=r"sampling\.top_k is 10000000000; it must be a whole number from 1 to"
    ):
        read_settings(model(sampling={"top_k": 10**10}))
    assert JudgeSampling.of({"top_k": 2**31 - 1}, "x").top_k == 2**31 - 1
    folder = model()
    (folder / "generation_config.json").write_text('{"eos_token_id": [1, 4294967296]}')
    with pytest.raises(UserError, match=r"eos_token_id is .*; it must be a token id or a list of token ids"):
        stop_token_ids(load_tokenizer(TINY), folder)
