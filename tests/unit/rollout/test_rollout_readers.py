# SPDX-License-Identifier: Apache-2.0
"""Engines are asked how they read a config.json once for each content and version."""

import sys

import pytest

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.documents import read_json
from reasongrm_nemo.recipe.load import resolve_path
from reasongrm_nemo.rollout.server import readers, versions

CONFIG = read_json(resolve_path("asset:tiny_judge", ".") / "config.json")


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """The configs that a stand-in engine was asked about, with an empty cache; it reads all keys."""
    seen, answer = [], {"engine": "engine 1"}

    def read(configs, interpreters):
        seen.extend(configs)
        return [[{"read": config} | answer] for config in configs]

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(readers, "read", read)
    monkeypatch.setattr(versions, "installed_versions", lambda python: {"transformers": "1"})
    return seen, answer


def check(config=CONFIG):
    return readers.check_config(config, "config.json", [sys.executable])


def test_a_config_is_read_once_and_again_by_another_version(asked, monkeypatch):
    seen, _ = asked
    assert check() == check() == ["engine 1"] and len(seen) == 1
    assert check({**CONFIG, "torch_dtype": "float32"}) == ["engine 1"] and len(seen) == 1
    check({**CONFIG, "vocab_size": CONFIG["vocab_size"] + 1})
    assert len(seen) == 2
    monkeypatch.setattr(versions, "installed_versions", lambda python: {"transformers": "2"})
    check()
    assert len(seen) == 3


def test_a_refused_config_is_asked_about_again(asked):
    seen, answer = asked
    answer["error"] = "out of memory"
    for _ in range(2):
        with pytest.raises(UserError, match="out of memory"):
            check()
    del answer["error"]
    assert check() == ["engine 1"] and len(seen) == 3


def test_a_cached_reading_is_still_compared_with_ours(asked):
    check()
    _, answer = asked
    answer["read"] = {**CONFIG, "vocab_size": 7}
    assert check() == ["engine 1"], "the engine was not asked again"
    with pytest.raises(UserError, match="vocab 7 instead of 8"):
        check({**CONFIG, "vocab_size": 8})
