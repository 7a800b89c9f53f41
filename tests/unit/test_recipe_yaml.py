# SPDX-License-Identifier: Apache-2.0
"""Values that YAML 1.1 reads other than their author meant, in files and on the command line."""

import pytest

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.processes.stop_requests import parse_duration
from reasongrm_nemo.recipe.load import load_recipe, recipes_root

GRPO = recipes_root() / "tiny" / "1_grpo_zero.yaml"


def load(tmp_path, key, value, way, base="grpo"):
    """A recipe with one key, set in the file or on the command line."""
    path = tmp_path / "recipe.yaml"
    words = [] if base == "evaluate" else ["inputs.tasks=x", "grpo.max_tokens_per_micro_batch=512"]
    text = f"defaults: [base/{base}, model/tiny, cluster/cpu]\n"
    if base == "evaluate":
        text += "inputs: {tasks: x}\nevaluate: {models: {base: 'asset:tiny_judge'}}\n"
    if way == "command line":
        words.append(f"{key}={value}")
    elif key.startswith("evaluate."):
        text = text.replace("evaluate: {", f"evaluate: {{{key.partition('.')[2]}: {value}, ")
    else:
        parts = key.split(".")
        text += "".join(
            f"{'  ' * i}{part}:{'' if part is not parts[-1] else ' ' + value}\n"
            for i, part in enumerate(parts)
        )
    path.write_text(text)
    cfg = load_recipe(path, words)
    node = cfg
    for part in key.split("."):
        node = node[part]
    return cfg, node


both = pytest.mark.parametrize("way", ["file", "command line"])


@both
@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("1:12:00:00", 129600),
        ("1:30:00", 5400),
        ("01:30:00", 5400),
        ("'1:30:00'", 5400),
        ("5400", 5400),
        ("1-12:00:00", 129600),
    ],
)
def test_a_wall_time_needs_no_quotes(tmp_path, way, written, expected):
    _, value = load(tmp_path, "checkpoints.checkpoint_must_save_by", written, way)
    assert parse_duration(value) == expected


@both
@pytest.mark.parametrize("written", ["1:30", "1:30.5", "90m", "0130"])
def test_an_incomplete_time_is_refused(tmp_path, way, written):
    with pytest.raises(UserError, match=r"HH:MM:SS, e.g. 03:45:00") as caught:
        load(tmp_path, "checkpoints.checkpoint_must_save_by", written, way)
    assert f"is {written!r}; expected [DD:]HH:MM:SS" in str(caught.value)


@both
@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("yes", True),
        ("on", True),
        ("On", True),
        ("no", False),
        ("OFF", False),
        ("true", True),
        ("False", False),
    ],
)
def test_spellings_of_a_boolean(tmp_path, way, written, expected):
    assert load(tmp_path, "grpo.shuffle", written, way)[1] is expected


@both
@pytest.mark.parametrize("written", ["y", "1", "'maybe'"])
def test_other_values_for_a_boolean_are_refused(tmp_path, way, written):
    with pytest.raises(UserError, match=r"grpo\.shuffle must be true or false, not"):
        load(tmp_path, "grpo.shuffle", written, way)


@both
@pytest.mark.parametrize("written", ["no", "on", "off", "2026-11-29", "010", "12:30", "1_000_0b"])
def test_a_text_stays_as_written(tmp_path, way, written):
    assert load(tmp_path, "evaluate.note", written, way, "evaluate")[1] == written


@both
@pytest.mark.parametrize(
    ("written", "expected"), [("1e4", 10000), ("1_000", 1000), ("100.0", 100), ("2E2", 200)]
)
@pytest.mark.parametrize("key", ["grpo.steps", "grpo.max_tasks", "grpo.validation.max_tasks", "seed"])
def test_spellings_of_a_whole_number(tmp_path, way, key, written, expected):
    value = load(tmp_path, key, written, way)[1]
    assert value == expected and type(value) is int


@both
@pytest.mark.parametrize("written", ["1e-6", "1E-6", "1.e-6", "0.000001", "+1e-06"])
def test_a_small_number_is_a_number(tmp_path, way, written):
    assert load(tmp_path, "grpo.optim.lr", written, way)[1] == pytest.approx(1e-6, rel=1e-12)


@both
@pytest.mark.parametrize(
    ("key", "written", "says"),
    [
        ("grpo.steps", "010", "must be a whole number, not '010'; YAML reads a leading zero as octal"),
        ("seed", "007", "not '007'; YAML reads a leading zero as octal"),
        ("rollout.kv_cache_gib", "01", "must be a number, not '01'; YAML reads a leading zero as octal"),
        (
            "grpo.steps",
            "1:30",
            "not '1:30'; YAML reads colons as base 60, so write the number out, or quote it",
        ),
        ("grpo.optim.lr", "1:30.5", "not '1:30.5'; YAML reads colons as base 60"),
        ("grpo.steps", "1.5", "must be a whole number, not 1.5"),
        ("grpo.max_tasks", "010", "is '010'; it must be a whole number from 1, or null"),
        ("rollout.gpus", "[01, 2]", "names '01'; a node's GPUs are counted from 0, in whole numbers"),
    ],
)
def test_an_ambiguous_value_is_refused_in_a_sentence(tmp_path, way, key, written, says):
    with pytest.raises(UserError) as caught:
        load(tmp_path, key, written, way)
    sentence = str(caught.value)
    assert says in sentence and key in sentence and "\n" not in sentence
    assert ("recipe.yaml:" if way == "file" else "command line: ") in sentence


@both
@pytest.mark.parametrize("written", ["1.10", "010", "on", "true", "1e3", "1:30", "null", "'quoted'"])
def test_an_environment_variable_is_passed_on_as_written(tmp_path, way, written):
    cfg, _ = load(tmp_path, "rollout.extra_env.SOME", written, way)
    assert dict(cfg.rollout.extra_env) == {"SOME": written.strip("'")}
    mapped = load(tmp_path, "rollout.extra_env", f"{{SOME: {written}, B: 2}}", way)[0]
    assert dict(mapped.rollout.extra_env) == {"SOME": written.strip("'"), "B": "2"}


@both
def test_a_row_s_name_is_text(tmp_path, way):
    names = "{7: asset:tiny_judge, no: 'asset:tiny_judge', 1.50: 'asset:tiny_judge'}"
    if way == "file":
        path = tmp_path / "recipe.yaml"
        path.write_text(
            "defaults: [base/evaluate, model/tiny, cluster/cpu]\ninputs: {tasks: x}\n"
            f"evaluate: {{models: {names}}}\n"
        )
        cfg = load_recipe(path)
    else:
        cfg = load(tmp_path, "evaluate.models", names, way, "evaluate")[0]
    assert list(cfg.evaluate.models)[-3:] == ["7", "no", "1.50"]


def test_merged_keys_and_anchors_are_read_as_before(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "defaults: [base/grpo, model/tiny, cluster/cpu]\ninputs: {tasks: x}\n"
        "grpo: {max_tokens_per_micro_batch: 512, optim: &o {lr: 1e-5}, validation: {samples: 1}}\n"
    )
    assert load_recipe(path).grpo.optim.lr == 1e-5


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("seed:\n\tgrpo: 1\n", "recipe.yaml:2: not valid YAML: .*; indent with spaces, not tabs$"),
        ("inputs: {tasks: @x/y}\n", "recipe.yaml:1: .*'@'.*; put the value in quotes$"),
        ("runs_folder: `here`\n", "; put the value in quotes$"),
        (
            "name: a: b\n",
            "; indent by two spaces a level, and put a text with ': ' in quotes$",
        ),
        ("rollout: {gpus: [1, 2}\n", "; close the bracket on the line before$"),
        ("name: *mine\n", "; put a text that begins with \\* in quotes$"),
    ],
)
def test_invalid_yaml_is_refused_with_a_remedy(tmp_path, text, says):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=says):
        load_recipe(path)
