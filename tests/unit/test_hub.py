# SPDX-License-Identifier: Apache-2.0
"""Data sets by name: what the hub's client is asked for, and the error if the hub cannot be reached."""

import builtins
import json

import huggingface_hub
import pytest

from reasongrm_nemo.data import JudgeTask, read_jsonl
from reasongrm_nemo.data.hub import HubName, fetch_dataset
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.recipe.load import load_recipe
from reasongrm_nemo.stages import prepare


def test_a_name_its_revision_and_its_files():
    assert HubName.parse("hf://owner/na-me.v0.2") == ("owner/na-me.v0.2", None, None)
    assert HubName.parse("hf://o/n@main") == ("o/n", "main", None)
    assert HubName.parse("hf://o/n@abc/data/train-*") == ("o/n", "abc", "data/train-*")
    assert HubName.parse("hf://o/n@refs/convert/parquet") == ("o/n", "refs/convert/parquet", None)
    assert HubName.parse("hf://o/n@refs/pr/3/data/*") == ("o/n", "refs/pr/3", "data/*")
    for bad in ("hf://n", "hf://", "hf:///n", "hf://o/n@", "hf://o/n/", "hf://o o/n", "hf://o/n@refs/x"):
        with pytest.raises(UserError, match="is not the name of a data set"):
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
    fetch_dataset(HubName.parse("hf://o/n/tr*"))
    assert asked[1][1]["allow_patterns"] == ["tr*"]


def test_only_files_of_the_pattern_are_read_from_a_fuller_cache(tmp_path, monkeypatch):
    for name in ("data/train-0.jsonl", "data/test-0.jsonl", "dataset_infos.json"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text('{"prompt": "q", "chosen": "yes", "rejected": "no"}')
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *args, **words: str(tmp_path))

    def read(source):
        return [path.name for path in fetch_dataset(HubName.parse(source))[0]]

    assert read("hf://o/n/data/train-*") == read("hf://o/n/data/train-0.jsonl") == ["train-0.jsonl"]
    assert read("hf://o/n/data/") == read("hf://o/n") == ["test-0.jsonl", "train-0.jsonl"]
    with pytest.raises(UserError, match=r"hf://o/n/train-\*: no file of the data set"):
        read("hf://o/n/train-*")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *args, **words: str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"hf://o/n/\*: no file of the data set"):
        read("hf://o/n")


def test_without_a_network_or_the_client_one_sentence_says_what_to_do(monkeypatch, tmp_path):
    # the tests' environment forbids the network, as HF_HUB_OFFLINE does anywhere
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        UserError, match=r"hf://o/n cannot be downloaded \(.*download the files elsewhere"
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


def test_the_name_is_part_of_an_artefacts_identity(tmp_path):
    from fake_pool import RECIPES

    from reasongrm_nemo.run.manifest import identity

    keys = [
        identity(load_recipe(RECIPES / "0_prepare.yaml", [f"prepare.source=hf://o/n@{commit}"]), {})
        for commit in ("a", "b")
    ]
    assert keys[0]["prepare.source"] == "hf://o/n@a" and keys[0] != keys[1]
