# SPDX-License-Identifier: Apache-2.0
"""Values that vLLM would refuse at the first request are refused before anything starts."""

import json
import subprocess

import pytest

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.judge.settings import fits_temperature
from reasongrm_nemo.recipe.checks import check_model
from reasongrm_nemo.recipe.checks.sampling import MOST_SAMPLES
from reasongrm_nemo.recipe.load import load_recipe, recipes_root

QWQ = recipes_root() / "qwq_32b"
GRPO, GENERATE, MINE, EVALUATE = (
    QWQ / f"{name}.yaml" for name in ("1_grpo_zero", "2_generate", "5_mine", "7_evaluate")
)


def refusal(path, *overrides):
    with pytest.raises(UserError) as caught:
        load_recipe(path, overrides)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence.removeprefix("command line: ")


VALIDATED = ("grpo.validation.every=10", "inputs.validation=x", "grpo.validation.temperature=0")


@pytest.mark.parametrize(
    ("path", "words", "key"),
    [
        (GRPO, (*VALIDATED, "grpo.validation.samples=4"), "grpo.validation.samples is 4"),
        (MINE, ("rollout.temperature=0",), "mine.samples is 8"),
        (GENERATE, ("rollout.temperature=0", "generate.samples=2"), "generate.samples is 2"),
        (EVALUATE, ("evaluate.settings=[{temperature: 0, samples: 2}]",), "evaluate.settings[0]"),
    ],
)
def test_several_greedy_samples_are_refused(path, words, key):
    sentence = refusal(path, *words)
    assert key in sentence and "greedy answers are all the same" in sentence


def test_one_greedy_sample_is_allowed():
    load_recipe(GRPO, [*VALIDATED, "grpo.validation.samples=1"])
    load_recipe(MINE, ["rollout.temperature=0", "mine.samples=1"])
    load_recipe(GRPO, ["grpo.validation.every=0", "grpo.validation.samples=4"])
    assert refusal(GENERATE, "rollout.temperature=0", "generate.samples=1").startswith(
        "rollout.temperature is 0"
    )


@pytest.mark.parametrize("value", ["-0.5", "0.001", "1e-6", "2.01", "100"])
@pytest.mark.parametrize("key", ["rollout.temperature", "grpo.validation.temperature"])
def test_a_temperature_that_vllm_refuses_or_changes_is_refused(key, value):
    sentence = refusal(GRPO, f"{key}={value}")
    assert sentence.startswith(f"{key} is ") and sentence.endswith(
        "it must be 0, for greedy, or from 0.01 to 2"
    )


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("rollout.top_p", "0", "above 0 and at most 1"),
        ("rollout.top_p", "1.5", "above 0 and at most 1"),
        ("rollout.top_k", "0", "1 or more, or -1 for no limit, and at most 2147483647"),
        ("rollout.top_k", "-2", "1 or more, or -1 for no limit, and at most 2147483647"),
        ("rollout.max_response_tokens", "0", "1 or more"),
        ("mine.samples", "0", "1 or more"),
        ("mine.samples", str(MOST_SAMPLES + 1), f"vLLM draws at most {MOST_SAMPLES} samples of a prompt"),
    ],
)
def test_single_values_that_vllm_refuses_are_refused(key, value, says):
    sentence = refusal(MINE, f"{key}={value}")
    assert sentence.startswith(f"{key} is {value}") and sentence.endswith(says)


CONFIG = {"num_attention_heads": 40, "num_key_value_heads": 8, "intermediate_size": 27648}


@pytest.mark.parametrize(
    ("workers", "change", "says"),
    [
        (3, {}, "is 3, which does not divide num_attention_heads 40 of x"),
        (5, {}, "is 5, which neither divides num_key_value_heads 8 of x nor is divided by it"),
        (8, {"intermediate_size": 27644}, "is 8, which does not divide intermediate_size 27644 of x"),
    ],
)
@pytest.mark.parametrize("path", [GRPO, GENERATE, MINE, EVALUATE])
def test_tensor_parallel_sizes_that_do_not_divide_a_layer_are_refused(path, workers, change, says):
    words = ["cluster.devices_per_node=40", f"rollout.tensor_parallel={workers}", "rollout.servers=4"]
    cfg = load_recipe(path, [*words, "model.rope.type=null", "model.max_model_len=65536"])
    with pytest.raises(UserError) as caught:
        check_model(cfg, CONFIG | {"model_type": "qwen2", **change}, "x")
    assert str(caught.value) == f"rollout.tensor_parallel {says}"


PROBE = """
import json, sys
from vllm import SamplingParams
from vllm.envs import VLLM_MAX_N_SEQUENCES
taken = {}
for n, temperature in json.loads(sys.argv[1]):
    try:
        taken[f"{n} {temperature}"] = SamplingParams(n=n, temperature=temperature).temperature
    except Exception as error:
        taken[f"{n} {temperature}"] = type(error).__name__
print(json.dumps([VLLM_MAX_N_SEQUENCES, taken]))
"""


def test_the_bounds_are_those_of_the_installed_vllm():
    """vLLM takes exactly the pairs that the checks allow, without changing them."""
    import os

    pairs = [(n, t) for n in (1, 2) for t in (0.0, 1e-6, 0.005, 0.01, 1.0, 2.0, 2.01, -0.1)]
    python = os.environ["REASONGRM_ROLLOUT_PYTHON"]
    command = [python, "-c", PROBE, json.dumps(pairs)]
    out = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    most, taken = json.loads(out.stdout.splitlines()[-1])
    assert most == MOST_SAMPLES
    for n, temperature in pairs:
        ours = fits_temperature(temperature) and (n == 1 or temperature > 0)
        assert (taken[f"{n} {temperature}"] == temperature) is ours, (n, temperature)
