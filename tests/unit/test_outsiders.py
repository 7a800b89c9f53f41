# SPDX-License-Identifier: Apache-2.0
"""Cases found by an outside tester: each ended in a traceback, a wrong value or a puzzling sentence."""

import json

import pytest

from reasongrm_nemo.data.records import Verdict
from reasongrm_nemo.data.rows import read_rows
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.evaluation.foreign_files import is_foreign
from reasongrm_nemo.models.architecture import Architecture
from reasongrm_nemo.recipe.load import load_recipe, recipes_root
from reasongrm_nemo.run.console import Console
from reasongrm_nemo.run.pipeline import run_pipeline

TINY = recipes_root() / "tiny"
SIZES = {
    "model_type": "qwen2",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e4,
    "max_position_embeddings": 512,
}


@pytest.mark.parametrize("word", ["@", "@/tasks.jsonl", "@../x", "@..", "@a:", "@a:/x"])
def test_a_reference_without_an_artefact_is_refused_where_it_stands(word):
    with pytest.raises(UserError, match=r"command line: inputs\.tasks is .*@<artefact>/<file>"):
        load_recipe(TINY / "1_grpo_zero.yaml", [f"inputs.tasks={word}"])


def test_a_pipeline_checks_every_path_before_its_first_stage(tmp_path):
    words = [f"evaluate.models.x={tmp_path / 'none'}", f"runs_dir={tmp_path / 'runs'}"]
    with pytest.raises(UserError, match=r"7_evaluate\.yaml: evaluate\.models\.x: .*none does not exist"):
        run_pipeline(recipes_root() / "tiny_smoke", Console(quiet=True), overrides=words)
    assert not (tmp_path / "runs" / "0_prepare").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("evaluate.settings=[{temperature: 1, top_p: 1.2, samples: 3}]", "evaluate.settings[0].top_p is 1.2"),
        ("evaluate.models.base.sampling={top_k: 20.5}", "evaluate.models.base.sampling.top_k is 20.5"),
        ("evaluate.settings=[{temperature: 0, samples: 3}]", "evaluate.settings[0]"),
    ],
)  # fmt: skip
def test_a_refusal_names_the_key_and_where_it_was_set(words, says):
    with pytest.raises(UserError) as refused:
        load_recipe(TINY / "7_evaluate.yaml", [words])
    assert str(refused.value).startswith(f"command line: {says}"), refused.value


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings is \"false\""),
        ({"num_attention_heads": "4"}, "num_attention_heads is \"4\""),
        ({"hidden_size": 64.5}, "hidden_size is 64.5"),
        ({"vocab_size": True}, "vocab_size is true"),
        ({"rms_norm_eps": "1e-6"}, "rms_norm_eps is \"1e-6\""),
        ({"num_key_value_heads": 3}, "num_key_value_heads 3 does not divide num_attention_heads 4"),
    ],
)  # fmt: skip
def test_a_value_of_the_wrong_type_in_config_json_is_refused(change, says):
    Architecture.from_config(SIZES, "config.json")
    with pytest.raises(UserError) as refused:
        Architecture.from_config(SIZES | change, "config.json")
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("utf16.jsonl", '{"prompt": "é"}\n'.encode("utf-16"), "UTF-16"),
        ("latin1.jsonl", '{"prompt": "é"}\n'.encode("latin-1"), "save it as UTF-8"),
        ("packed.jsonl", b"\x1f\x8b\x08\x00rest\n", "gzip"),
    ],
)
def test_a_file_in_another_encoding_is_refused_with_the_cause(tmp_path, name, data, says):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=says):
        list(read_rows(tmp_path / name))


def test_final_figures_are_a_foreign_file_and_a_single_score_is_refused(tmp_path):
    file = tmp_path / "eval_set.json"
    file.write_text(json.dumps({"alpacaeval-easy": 0.99, "model": "x"}))
    assert is_foreign(file)
    row = {"benchmark": "rewardbench", "subset": "alpacaeval-easy", "item_id": "0", "chosen_score": 1.0}
    file.write_text(json.dumps(row))
    assert not is_foreign(file)
    with pytest.raises(UserError, match="one of 'chosen_score' and 'rejected_score'; give both"):
        Verdict.from_dict(row)
