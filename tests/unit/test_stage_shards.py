# SPDX-License-Identifier: Apache-2.0
"""Shards are merged only if the same recipe made them all."""

import gzip
import json
import shutil

import pyarrow as pa
import pytest
from fake_pool import RECIPES, TINY, FakePool

from reasongrm_nemo.data import read_tasks
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.evaluation import rm_bench
from reasongrm_nemo.recipe.load import load_recipe
from reasongrm_nemo.run.console import Console
from reasongrm_nemo.run.stage import run_stage

RECIPE = {"generate": "2_generate", "mine": "5_mine", "evaluate": "7_evaluate"}
OWN = {
    "generate": ["generate.skip_tasks=0", "generate.max_tasks=null"],
    "mine": ["mine.skip_tasks=0", "mine.max_tasks=null", "inputs.examples=null"],
    "evaluate": ["evaluate.settings=[{temperature: 1, samples: 2}]"],
}


@pytest.fixture
def run(tasks, tmp_path):
    """``run(stage, name, *overrides)``: the outcome of a stage of the tiny judge."""
    for name in ("1_grpo_zero", "4_sft", "6_grpo_hard"):
        shutil.copytree(TINY, tmp_path / "runs" / name / "hf")
    held_out = list(read_tasks(tmp_path / "runs" / "0_prepare" / "validation.jsonl"))

    def go(stage, name, *overrides):
        words = [f"runs_dir={tmp_path / 'runs'}", f"name={name}", *OWN[stage], *overrides]
        cfg = load_recipe(RECIPES / f"{RECIPE[stage]}.yaml", words)
        return run_stage(cfg, Console(quiet=True), FakePool([*tasks, *held_out]))

    return go


@pytest.mark.parametrize(
    ("stage", "other", "says"),
    [
        ("generate", "rollout.temperature=0.3", r"rollout\.temperature 0\.3 → 1\.0"),
        ("generate", "seed=2", "seed 2 → 1"),
        ("mine", "judge.response_prefix=so", r"judge\.response_prefix so → "),
        ("evaluate", "evaluate.models.base.policy=rm_r1", r"evaluate\.models\.base\.policy rm_r1 → None"),
    ],
)
def test_a_shard_of_another_recipe_is_named_and_refused(run, tmp_path, stage, other, says):
    run(stage, "s1", f"{stage}.shard=1/2")
    run(stage, "s2", f"{stage}.shard=2/2", other)
    together = f"{stage}.shards=['@s1','@s2']"
    with pytest.raises(UserError, match=rf"^{stage}\.shards: .*runs/s2 .*{says}"):
        run(stage, "whole", together)
    assert not (tmp_path / "runs" / ".partial" / "whole").exists()
    run(stage, "s2", f"{stage}.shard=2/2")
    assert run(stage, "whole", together).path.is_dir()


def test_a_shard_s_file_is_identified_by_the_manifest_beside_it(run, tmp_path):
    for index, words in ((1, []), (2, ["rollout.temperature=0.3"])):
        run("generate", f"s{index}", f"generate.shard={index}/2", *words)
    with pytest.raises(UserError, match=r"runs/s2 "):
        run("generate", "whole", "generate.shards=['@s1/paths.jsonl','@s2/paths.jsonl']")
    # a user's file without a manifest tells nothing of a recipe
    (tmp_path / "own").mkdir()
    (tmp_path / "runs" / "s2" / "paths.jsonl").rename(tmp_path / "own" / "paths.jsonl")
    run("generate", "whole", f"generate.shards=['@s1/paths.jsonl','{tmp_path}/own']")


def test_keys_that_apply_only_after_merging_may_differ(run, tmp_path):
    whole = {"mine": ["mine.bands=[[0.1, 0.9]]"], "evaluate": ["evaluate.policy=rm_r1", "evaluate.logs.a=@s"]}
    (tmp_path / "runs" / "s").mkdir()
    scores = {"chosen_score": 1.0, "rejected_score": 0.5}
    rows = [
        {"benchmark": "rm_bench", "subset": name, "item_id": "0", "cell": cell, **scores}
        for name in rm_bench.ITEMS
        for cell in rm_bench.CELLS
    ]
    (tmp_path / "runs" / "s" / "rm_bench.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for stage, after in whole.items():
        for index in (1, 2):
            run(stage, f"{stage}{index}", f"{stage}.shard={index}/2")
        outcome = run(stage, f"{stage}_whole", f"{stage}.shards=['@{stage}1','@{stage}2']", *after)
        assert json.loads((outcome.path / "manifest.json").read_text())["result"]["tasks"] > 0


# -- files that users wrote ------------------------------------------------------------------------------


def as_others_write_them(lines, path):
    """With blank lines, CRLF, a byte order mark and no final newline; compressed according to the name."""
    text = b"\xef\xbb\xbf" + b"\r\n\n".join(line.rstrip(b"\n") for line in lines)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text))
    elif path.suffix == ".zst":
        with pa.output_stream(str(path), compression="zstd") as file:
            file.write(text)
    else:
        path.write_bytes(text)


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_paths_that_users_wrote_are_merged_like_ours(run, tmp_path, suffix):
    whole = (run("generate", "whole").path / "paths.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    files = [tmp_path / f"{name}.jsonl{suffix}" for name in "ab"]
    as_others_write_them(lines[50:], files[0])
    as_others_write_them(lines[:50], files[1])
    outcome = run("generate", "merged", f"generate.shards=[{files[0]},{files[1]}]")
    assert (outcome.path / "paths.jsonl").read_bytes() == whole
    assert [path.name for path in outcome.path.iterdir() if "paths" in path.name] == ["paths.jsonl"]


def test_a_damaged_file_of_paths_is_named(run, tmp_path):
    lines = (run("generate", "whole").path / "paths.jsonl").read_bytes().splitlines(keepends=True)
    for name in ("cut.jsonl.gz", "cut.jsonl"):
        as_others_write_them(lines, tmp_path / name)
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-30])
        with pytest.raises(UserError, match=rf"{name}:\d+: (damaged data|not a JSON line)"):
            run("generate", "merged", f"generate.shards=[{tmp_path / name}]")
