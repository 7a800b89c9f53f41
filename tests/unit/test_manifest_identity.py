# SPDX-License-Identifier: Apache-2.0
"""The identity of a stage: hashes of contents, and the keys that count."""

import pytest
from copying import recipe_in

from reasongrm_nemo.recipe.load import load_recipe, recipes_root
from reasongrm_nemo.run.manifest import HashCache, content_hash, identity, stage_key, what_changed


@pytest.fixture
def recipe(tmp_path):
    return recipe_in(tmp_path)


def test_a_tree_s_hash_depends_on_names_and_contents_alone(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "f").write_text("1")
    cache = HashCache()
    one, two = cache.tree(tmp_path / "one"), cache.tree(tmp_path / "two")
    assert content_hash(one) == content_hash(two)
    (tmp_path / "two" / "sub" / "f").rename(tmp_path / "two" / "f")
    assert content_hash(cache.tree(tmp_path / "two")) != content_hash(one)


def test_identity_and_reasons(recipe):
    old = identity(load_recipe(recipe), {"paths": {"sha256": "a"}})
    new = identity(load_recipe(recipe, ["seed=4"]), {"paths": {"sha256": "b"}})
    assert stage_key(old) != stage_key(new) and stage_key(old) == stage_key(dict(reversed(list(old.items()))))
    assert what_changed(old, new) == "input paths changed, seed 1 → 4"


def test_another_layout_of_a_training_run_is_the_same_run():
    """So a run may resume from its checkpoint on other ranks."""
    path = recipes_root() / "tiny" / "1_grpo_zero.yaml"
    layout = ["cluster.devices_per_node=4", "cluster.tensor_parallel=2", "cluster.sequence_parallel=true"]
    same = identity(load_recipe(path, [*layout, "grpo.max_tokens_per_micro_batch=999"]), {})
    assert same == identity(load_recipe(path), {})
    assert same != identity(load_recipe(path, ["grpo.clip_high=0.3"]), {})
