# SPDX-License-Identifier: Apache-2.0
"""What single keys may hold: each refusal is one sentence that begins with the key."""

import pytest
from omegaconf import OmegaConf

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.recipe.load import load_recipe, recipes_root
from reasongrm_nemo.recipe.schema import leaves

QWQ = recipes_root() / "qwq_32b"
GRPO, GENERATE, EVALUATE = (QWQ / f"{name}.yaml" for name in ("1_grpo_zero", "2_generate", "7_evaluate"))


def refusal(path, *overrides):
    with pytest.raises(UserError) as caught:
        load_recipe(path, overrides)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence.removeprefix("command line: ")


def untyped(base):
    """The dotted keys of a base file whose value is null or ???."""
    stated = OmegaConf.to_container(OmegaConf.load(recipes_root() / "base" / f"{base}.yaml"))
    return [key for key, value in leaves(stated) if value is None or value == "???"]


PLAN = [
    ("mfu=0", "above 0 and at most 1"),
    ("mfu=-1", "above 0 and at most 1"),
    ("mfu=1.1", "above 0 and at most 1"),
    ("mfu=.nan", "a finite number, not nan"),
    ("tflops=0", "a number above 0, or null"),
    ("tflops=-312", "a number above 0, or null"),
    ("tflops=abc", "a number above 0, or null"),
    ("tflops=true", "a number above 0, or null"),
    ("tflops=.inf", "a finite number, not inf"),
    ("bandwidth_gb_s=0", "a number above 0, or null"),
    ("bandwidth_gb_s=fast", "a number above 0, or null"),
    ("bandwidth_share=0", "above 0 and at most 1"),
    ("bandwidth_share=1.5", "above 0 and at most 1"),
    ("refit_gb_s=0", "above 0"),
    ("offload_gb_s=0", "above 0"),
    ("decode_overhead_ms=-1", "0 or more"),
    ("device_memory_gib=0", "a number above 0, or null"),
    ("device_memory_gib=-80", "a number above 0, or null"),
    ("device_memory_gib=abc", "a number above 0, or null"),
    ("host_memory_gib=lots", "a number above 0, or null"),
    ("host_memory_gib=0", "a number above 0, or null"),
    ("disk_gib=abc", "a number from 0, or null"),
    ("disk_gib=-1", "a number from 0, or null"),
    ("reserve_gib=-100", "0 or more"),
    ("server_reserve_gib=-1", "0 or more"),
    ("asleep_gib=-1", "0 or more"),
    ("prompt_tokens=-5", "1 or more"),
    ("prompt_tokens=0", "1 or more"),
    ("tasks=-5", "a whole number from 1, or null"),
    ("tasks=1.5", "a whole number from 1, or null"),
    ("tasks=abc", "a whole number from 1, or null"),
    ("responses.median=0", "above 0"),
    ("responses.sigma=-1", "0 or more"),
    ("responses.alike=2", "from 0 to 1"),
    ("responses.alike=-0.5", "from 0 to 1"),
]


@pytest.mark.parametrize(("word", "says"), PLAN)
def test_the_values_of_a_plan_must_be_in_range(word, says):
    sentence = refusal(EVALUATE, f"plan.{word}")
    assert sentence.startswith(f"plan.{word.split('=')[0]} ") and sentence.endswith(f" {says}")


def test_the_ends_of_a_plans_ranges_and_null_pass():
    words = "mfu=1 bandwidth_share=1 reserve_gib=0 prompt_tokens=1 disk_gib=0 responses.alike=1"
    load_recipe(GRPO, [f"plan.{word}" for word in [*words.split(), "responses.sigma=0"]])
    nulls = "config device_memory_gib host_memory_gib disk_gib tflops bandwidth_gb_s tasks"
    load_recipe(GRPO, [f"plan.{name}=null" for name in nulls.split()])


@pytest.mark.parametrize(
    ("path", "word"),
    [
        (GRPO, "name=5"),
        (GRPO, "name=true"),
        (GRPO, "runs_dir=5"),
        (GRPO, "model.hf_path=5"),
        (GRPO, "model.megatron_path=1.5"),
        (GRPO, "cluster.trainer_python=5"),
        (GRPO, "cluster.rollout_python=true"),
        (GRPO, "tracking.wandb_project=5"),
        (GRPO, "plan.config=5"),
        (GENERATE, "generate.scorer.hf_path=5"),
        (EVALUATE, "evaluate.note=5"),
        (QWQ / "0_prepare.yaml", "prepare.source=5"),
        (QWQ / "0_prepare.yaml", "prepare.model_package=5"),
    ],
)
def test_a_path_or_a_name_is_text(path, word):
    key, _, value = word.partition("=")
    assert refusal(path, word) == f"{key} is {value.capitalize()}; it must be text"


@pytest.mark.parametrize("key", ["model.rope.factor", "grpo.clip_dual"])
@pytest.mark.parametrize("value", ["abc", "true", "1", "-2.0"])
def test_a_number_that_may_be_null_must_not_be_another_scalar(key, value):
    assert refusal(GRPO, f"{key}={value}").endswith("; it must be a number above 1, or null")


@pytest.mark.parametrize("base", sorted(path.stem for path in (recipes_root() / "base").iterdir()))
def test_every_key_without_a_type_in_its_base_is_checked(base):
    """A key that is null or ??? in its base has no type, so another check must refuse a wrong scalar."""
    path = next(QWQ.glob(f"?_{base}*.yaml"), GRPO)
    labels = {"prepare.columns.a_wins", "prepare.columns.b_wins"}  # any value that a file has as a label
    for key in sorted({*untyped(base)} - labels):
        assert refusal(path, f"{key}=true").startswith(f"{key} "), key


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("1_grpo_zero", "inputs.tasks"),
        ("1_grpo_zero", "model.hf_path"),
        ("2_generate", "model.hf_path"),
        ("3_filter", "inputs.paths"),
        ("4_sft", "inputs.examples"),
        ("0_prepare", "prepare.source"),
    ],
)
def test_a_required_key_must_not_be_null(name, key):
    sentence = refusal(QWQ / f"{name}.yaml", f"{key}=null")
    assert sentence == f"{key} is null, but required; give it in the recipe or as {key}=VALUE"


def test_all_held_out_tasks_are_taken_if_max_tasks_is_null():
    assert load_recipe(GRPO, ["grpo.validation.max_tasks=null"]).grpo.validation.max_tasks is None
    assert refusal(GRPO, "grpo.validation.max_tasks=0").endswith("a whole number from 1, or null")


@pytest.mark.parametrize("path", [GENERATE, EVALUATE, QWQ / "3_filter.yaml", QWQ / "5_mine.yaml"])
def test_only_a_trainers_layout_must_divide_its_devices(path):
    load_recipe(path, ["cluster.nodes=1", "rollout.servers=1"])
    load_recipe(path, ["cluster.tensor_parallel=3"])
    assert refusal(GRPO, "cluster.tensor_parallel=3").startswith("cluster.tensor_parallel 3 ×")


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("grpo.optim.betas=[0.9]", "is [0.9]; it must be two numbers from 0 to below 1"),
        ("grpo.optim.betas=[0.9,2]", "is [0.9, 2.0]; it must be two numbers from 0 to below 1"),
        ("grpo.optim.betas=[-0.1,0.9]", "is [-0.1, 0.9]; it must be two numbers from 0 to below 1"),
        ("grpo.optim.betas=[0.9,.nan]", "must be a finite number, not nan"),
        ("grpo.optim.eps=-1", "is -1.0; it must be above 0"),
        ("grpo.optim.eps=0", "is 0.0; it must be above 0"),
        ("grpo.optim.lr=.nan", "must be a finite number, not nan"),
        ("grpo.advantage.eps=-1", "is -1.0; it must be 0 or more"),
        ("rollout.stall_timeout_s=0", "is 0; it must be 1 or more"),
        ("rollout.stall_timeout_s=-1", "is -1; it must be 1 or more"),
        ("rollout.start_timeout_s=0", "is 0; it must be 1 or more"),
        ("rollout.kv_cache_gib=-1", "is -1.0; it must be above 0"),
        ("rollout.top_k=-7", "is -7; it must be 1 or more, or -1 for no limit, and at most 2147483647"),
        ("rollout.top_k=0", "is 0; it must be 1 or more, or -1 for no limit, and at most 2147483647"),
        ("rollout.port=70000", "is 70000; a node's 1 servers need ports up to 65535"),
        ("checkpoints.checkpoint_must_save_by=-5", "is -5; it must be a time above 0, or null"),
        ("checkpoints.checkpoint_must_save_by=true", "is True; it must be a time above 0, or null"),
        ("checkpoints.checkpoint_must_save_by=1.5", "is 1.5; it must be a time above 0, or null"),
    ],
)
def test_what_cannot_work_is_refused(word, says):
    sentence = refusal(GRPO, word)
    assert sentence.startswith(word.split("=")[0]) and sentence.endswith(f" {says}")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["rollout.top_p=0.95"], "rollout.top_p is 0.95; GRPO's ratios are of the whole distribution"),
        (["rollout.top_k=40"], "rollout.top_k is 40; GRPO's ratios are of the whole distribution"),
        # vLLM would sample at 0.01 and say so only in its log; above 2 vLLM refuses, hours later
        (
            ["rollout.temperature=0.001"],
            "rollout.temperature is 0.001; it must be 0, for greedy, or from 0.01 to 2",
        ),
        (
            ["rollout.temperature=2.5"],
            "rollout.temperature is 2.5; it must be 0, for greedy, or from 0.01 to 2",
        ),
        (["grpo.kl_estimator=k1", "grpo.kl_coefficient=0.1"], "grpo.kl_estimator is k1 with grpo.kl_in loss"),
    ],
)
def test_a_setting_outside_the_losss_formula_is_refused(words, says):
    assert refusal(GRPO, *words).startswith(says)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["grpo.steps=null"], "grpo.steps is null, and so is grpo.epochs; give one of them"),
        (["grpo.epochs=2"], "grpo.epochs is 2 beside grpo.steps 100; give one, and null for the other"),
        (
            ["grpo.epochs=2", "grpo.steps=null", "grpo.refill_rounds=1"],
            "grpo.epochs is 2 with grpo.refill_rounds, where a step takes as many tasks as it needs",
        ),
        (["grpo.reward=mine"], 'grpo.reward is "mine"; it can be outcome or module:function'),
        (["grpo.reward=a b:c"], 'grpo.reward is "a b:c"; it can be outcome or module:function'),
    ],
)
def test_length_and_reward_are_stated_once_and_clearly(words, says):
    assert refusal(GRPO, *words).startswith(says)
    load_recipe(GRPO, ["grpo.epochs=2", "grpo.steps=null", "grpo.reward=my.rewards:length"])


def test_settings_within_the_losss_formula_are_taken():
    load_recipe(GRPO, ["rollout.temperature=0.7"])
    load_recipe(GRPO, ["grpo.kl_estimator=k1", "grpo.kl_in=reward", "grpo.kl_coefficient=0.1"])
    load_recipe(GENERATE, ["rollout.top_p=0.95", "rollout.top_k=40"])


def test_a_shard_must_lie_within_its_number():
    says = "generate.shard is 1/0; it must be i/n with n of 1 or more, or null"
    assert refusal(GENERATE, "generate.shard=1/0") == says
    assert refusal(GENERATE, "generate.shard=3/2").endswith("from 1/2 to 2/2")


def test_the_last_servers_port_is_checked_too():
    words = ["cluster.nodes=1", "rollout.tensor_parallel=4", "rollout.servers=2"]
    load_recipe(GENERATE, [*words, "rollout.port=65534"])
    assert "a node's 2 servers" in refusal(GENERATE, *words, "rollout.port=65535")


def test_a_megatron_checkpoint_is_read_only_by_stages_that_train():
    said = refusal(GENERATE, "model.megatron_path=/data/m")
    assert (
        said == "model.megatron_path is /data/m, but stage generate reads model.hf_path alone; leave it null"
    )
