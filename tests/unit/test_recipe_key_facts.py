# SPDX-License-Identifier: Apache-2.0
"""A key's rule is declared once, and what users read in recipes/base/ agrees with the declaration."""

import re

import pytest
import yaml

from reasongrm_nemo.recipe.keys import KEYS, counts, may_be_null
from reasongrm_nemo.recipe.load import recipes_root
from reasongrm_nemo.run.manifest import flatten
from reasongrm_nemo.stage_kinds import KINDS

BASES = {path.stem: path.read_text() for path in sorted((recipes_root() / "base").glob("*.yaml"))}
VALUES = {stem: flatten(yaml.safe_load(text)) for stem, text in BASES.items()}
COMMENTED = re.compile(r"^\s*([a-z0-9_]+): +\S.*?# *([\w]+(?: \| [\w]+)+)", re.MULTILINE)
# Numbers without a range: any value is allowed, or a check across keys limits the value.
FREE = {
    "seed",
    "grpo.samples_per_prompt",
    "grpo.importance.high",
    "grpo.optim.clip_grad",
    "sft.optim.clip_grad",
}


def test_every_declared_key_is_in_a_base_recipe():
    assert not set(KEYS) - {key for values in VALUES.values() for key in values} - {"rollout.extra_env"}


def test_every_number_has_a_range():
    numbers = {
        key for values in VALUES.values() for key, value in values.items() if type(value) in (int, float)
    }
    assert numbers - {key for key, declared in KEYS.items() if declared.rule} == FREE


@pytest.mark.parametrize("stem", BASES)
def test_every_default_is_allowed(stem):
    for key, value in VALUES[stem].items():
        if key in KEYS and KEYS[key].rule and value != "???":
            value = float(value) if re.fullmatch(r"[\d.]+e-?\d+", str(value)) else value  # YAML 1.1's 1.0e-6
            assert KEYS[key].rule.allows(value), key


def test_comments_name_the_choices():
    """The values that a comment lists as `a | b` are the key's choices."""
    choices = {key: set(declared.rule.choices) for key, declared in KEYS.items() if declared.rule}
    listed = [
        (name, set(names.split(" | "))) for text in BASES.values() for name, names in COMMENTED.findall(text)
    ]
    assert len(listed) > 10
    for name, names in listed:
        fitting = [chosen for key, chosen in choices.items() if key.split(".")[-1] == name and chosen]
        assert not fitting or any(names <= chosen for chosen in fitting), name


def test_keys_that_affect_only_speed_do_not_count():
    assert counts("rollout.temperature") and counts("grpo.steps") and counts("mine.shard")
    assert not counts("rollout.servers") and not counts("grpo.log_prob_gap.stop.bf16")
    assert not counts("rollout.extra_env.HTTP_PROXY") and counts("rollout.dtype")


def test_null_is_allowed_where_the_rule_says_so():
    assert may_be_null("grpo.steps") and may_be_null("prepare.max_tasks")
    assert not may_be_null("grpo.save_every") and not may_be_null("no.such_key")


def test_paths_and_limits_of_a_stage_kind_are_keys_of_its_block():
    for stage, kind in KINDS.items():
        for key in (*kind.paths, *kind.limits):
            assert any(name == f"{stage}.{key}" for name in VALUES[stage]), key
        assert kind.sharded == ("shard" in yaml.safe_load(BASES[stage]).get(stage, {})), stage
        assert kind.blocks[-1] == stage
