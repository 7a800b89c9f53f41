# SPDX-License-Identifier: Apache-2.0
"""Data sets by name: what is asked of the hub's client, and what is said where it cannot be reached."""

import builtins
import json

import huggingface_hub
import pytest

from reasongrm_nemo.config import load_recipe
from reasongrm_nemo.data import JudgeTask, read_jsonl
from reasongrm_nemo.data.hub import HubName, fetch_dataset
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.stages import prepare


def test_a_name_its_revision_and_its_files():
    assert HubName.parse("hf://owner/na-me.v0.2") == ("owner/na-me.v0.2", None, None)
    assert HubName.parse("hf://o/n@main") == ("o/n", "main", None)
    assert HubName.parse("hf://o/n@abc/data/train-*") == ("o/n", "abc", "data/train-*")
    parquet = HubName.parse("hf://o/n@refs/convert/parquet/default/train/*")
    assert parquet == ("o/n", "refs/convert/parquet", "default/train/*")
    assert HubName.parse("hf://o/n@refs/pr/7") == ("o/n", "refs/pr/7", None)
    for bad in ("hf://n", "hf://", "hf:///n", "hf://o/n@", "hf://o/n/", "hf://o o/n"):
        with pytest.raises(UserError, match="is no data set's name"):
            HubName.parse(bad)


def test_prepare_reads_what_the_client_fetched(context, tmp_path, monkeypatch):
    folder = tmp_path / "0123abc"
    folder.mkdir()
    rows = [{"prompt": f"q{n}", "chosen": "yes", "rejected": "no"} for n in range(3)]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    asked = []
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda *args, **words: asked.append((args, words)) or str(folder),
    )
    words = ["prepare.validation_fraction=0", "judge.max_prompt_tokens=700", "model.max_model_len=1000"]
    ctx = context("0_prepare", "prepare.source=hf://owner/name@v1", "judge.template=reasongrm_short", *words)
    assert "source" not in ctx.inputs
    assert prepare.run(ctx) == {"tasks": 3, "validation": 0, "source_commit": "0123abc"}
    assert {task.source for task in read_jsonl(ctx.work / "tasks.jsonl", JudgeTask)} == {"train"}
    ((args, words),) = asked
    assert args == ("owner/name",) and words["repo_type"] == "dataset" and words["revision"] == "v1"
    assert "*.parquet" in words["allow_patterns"] and "*.jsonl.gz" in words["allow_patterns"]
    (folder / "data").mkdir()
    for name in ("train-0.jsonl", "test-0.jsonl"):  # the cache holds what was fetched for others, too
        (folder / "data" / name).write_text("{}")
    files, _ = fetch_dataset(HubName.parse("hf://o/n/data/train-*"))
    assert files == [folder / "data" / "train-0.jsonl"]
    assert asked[1][1]["allow_patterns"] == ["data/train-*"]
    with pytest.raises(UserError, match="no file that matches data/dev-"):
        fetch_dataset(HubName.parse("hf://o/n/data/dev-*"))


def test_without_a_network_or_the_client_one_sentence_says_what_to_do(monkeypatch, tmp_path):
    # the tests' environment forbids the network, as HF_HUB_OFFLINE does anywhere
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        UserError, match=r"hf://o/n cannot be fetched \(.*fetch the files elsewhere"
    ) as caught:
        fetch_dataset(HubName("o/n", None, None))
    assert "\n" not in str(caught.value)
    real = builtins.__import__

    def without(name, *args, **words):
        if name == "huggingface_hub":
            raise ImportError(name)
        return real(name, *args, **words)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match="needs the package huggingface_hub: install it"):
        fetch_dataset(HubName("o/n", None, None))


def test_the_name_is_part_of_what_an_artefact_is(tmp_path):
    from fake_pool import RECIPES

    from reasongrm_nemo.manifest import identity

    keys = [
        identity(load_recipe(RECIPES / "0_prepare.yaml", [f"prepare.source=hf://o/n@{commit}"]), {})
        for commit in ("a", "b")
    ]
    assert keys[0]["prepare.source"] == "hf://o/n@a" and keys[0] != keys[1]
