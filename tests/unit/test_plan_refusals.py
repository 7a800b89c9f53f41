# SPDX-License-Identifier: Apache-2.0
"""Wrong recipes for the paper's cluster: each refusal names the key to change and imports no torch."""

import json
import re
import subprocess
import sys

import pytest
from wrong_plans import GRPO, ONE_NODE, WRONG

from reasongrm_nemo import plan as plans
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.recipe.load import load_recipe, recipes_root


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_recipe_is_refused_and_its_key_named(name):
    path, overrides, key, says = WRONG[name]
    with pytest.raises(UserError) as caught:
        plans.check_fit(load_recipe(path, overrides))
    sentence = str(caught.value)
    where = re.compile(r"(command line|\S+\.yaml(:\d+)?|\S+ does not fit): ")
    assert where.sub("", sentence, count=1).startswith(key), sentence
    assert says in sentence, sentence


def test_what_a_refusal_proposes_fits():
    for name in (
        "no recomputation",
        "no sequence parallelism",
        "TP 1",
        "32B on one node",
        "a micro-batch past memory",
    ):
        path, overrides, _, _ = WRONG[name]
        with pytest.raises(UserError) as caught:
            plans.check_fit(load_recipe(path, overrides))
        sentence = str(caught.value)
        proposed = sentence.split("; ")[1].split(" would bring")[0].split()
        made = plans.plan(load_recipe(path, [*overrides, *proposed]))
        assert "a step takes" not in " ".join(misfit.sentence for misfit in made.misfits), (name, proposed)


@pytest.mark.parametrize("name", ["a server that leaves the trainer no room", "a cache below one sequence"])
def test_the_memory_share_that_a_refusal_names_fits_and_the_next_one_does_not(name):
    path, overrides, key, _ = WRONG[name]
    with pytest.raises(UserError, match=r"(0\.\d\d) would do") as caught:
        plans.check_fit(load_recipe(path, overrides))
    named = float(re.search(r"(0\.\d\d) would do", str(caught.value))[1])
    plans.check_fit(load_recipe(path, [*overrides, f"{key}={named}"]))
    too_far = named + (0.02 if "trainer" in name else -0.02)
    with pytest.raises(UserError, match="would do"):
        plans.check_fit(load_recipe(path, [*overrides, f"{key}={too_far}"]))


@pytest.mark.parametrize("share", [None, 0.08, 0.16, 0.7])
def test_no_memory_share_is_proposed_where_none_fits_both_server_and_trainer(share):
    """On one node a GPU has 75.3 GiB; the trainer takes 68.7, a server 13.6."""
    words = [*ONE_NODE, *([] if share is None else [f"rollout.gpu_memory_utilization={share}"])]
    with pytest.raises(UserError, match=r"cluster\.nodes is 1: .*; take more") as caught:
        plans.check_fit(load_recipe(GRPO, words))
    assert "would do" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "a server that stays awake",
        "a server that takes a whole GPU",
        "a server that leaves no cache",
        "a disk for two checkpoints",
        "a disk for fewer of the best",
        "a disk for the newest alone",
    ],
)
def test_what_is_proposed_for_server_and_disk_fits(name):
    path, overrides, key, _ = WRONG[name]
    with pytest.raises(UserError) as caught:
        plans.check_fit(load_recipe(path, overrides))
    for words in re.findall(r"((?:[\w.]+=\S+ ?)+)", str(caught.value)):
        plans.check_fit(load_recipe(path, [*overrides, *words.split()]))
    for value in re.findall(r"; (\S+) would do", str(caught.value)):
        plans.check_fit(load_recipe(path, [*overrides, f"{key}={value}"]))


@pytest.mark.parametrize("workers", [1, 3])
def test_the_cache_that_a_refusal_names_is_enough_on_cpu(workers):
    """SmolLM2: 30 layers of 3 KV heads of 64 in fp32, 46,080 bytes a token over all workers."""
    path = recipes_root() / "smollm2" / "2_generate.yaml"
    words = [f"rollout.tensor_parallel={workers}", "model.max_model_len=2048"]
    with pytest.raises(UserError, match=r"rollout.kv_cache_gib is 0.01: .*; that takes 0.09 GiB"):
        plans.check_fit(load_recipe(path, [*words, "rollout.kv_cache_gib=0.01"]))
    plans.check_fit(load_recipe(path, [*words, "rollout.kv_cache_gib=0.09"]))
    with pytest.raises(UserError, match=r"that takes 0\.09 GiB"):
        plans.check_fit(load_recipe(path, [*words, "rollout.kv_cache_gib=0.087"]))


def test_refusing_all_wrong_recipes_imports_no_torch():
    """In one process: as separate commands each takes some 0.9 s of CPU time, mostly Python's start."""
    cases = [[str(path), words] for path, words, _, _ in WRONG.values()]
    code = (
        "import json, sys\n"
        "from click.testing import CliRunner\n"
        "from reasongrm_nemo.cli import main\n"
        "for path, words in json.loads(sys.argv[1]):\n"
        "    assert CliRunner().invoke(main, ['plan', path, *words]).exit_code == 2, words\n"
        "print(*sorted({'torch', 'transformers', 'nemo', 'vllm', 'matplotlib'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, json.dumps(cases)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""
