# SPDX-License-Identifier: Apache-2.0
"""Recipes: inheritance, unknown keys, types, overrides, checks across fields."""

import pytest
from own_recipes import EVALUATE, GRPO, refusal, writer

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.recipe.load import (
    artefacts_elsewhere,
    artefacts_read,
    has_key,
    input_paths,
    load_recipe,
    recipes_root,
    require_path,
    resolve_path,
)


@pytest.fixture
def recipe(tmp_path):
    return writer(tmp_path)


def test_a_recipe_holds_every_key_and_its_own_values_win(recipe):
    cfg = load_recipe(recipe(GRPO))
    assert cfg.stage == "grpo"
    assert cfg.model.hf_path == "asset:tiny_judge"  # model/tiny
    assert cfg.cluster.platform == "cpu"  # cluster/cpu
    assert cfg.grpo.max_tokens_per_micro_batch == 4096  # the recipe's own
    assert cfg.grpo.optim.lr == 1e-6  # the paper's, from the base
    assert cfg.grpo.prompts_per_step * cfg.grpo.samples_per_prompt == 256  # the paper's
    assert cfg.name == "1_stage" and cfg.runs_dir == "runs/mine"


def test_later_defaults_win_over_earlier_ones(recipe):
    recipe("rollout: {max_num_seqs: 7}\nseed: 5\n", "a.yaml")
    text = GRPO.replace("cluster/cpu]", "cluster/cpu, mine/a]")
    path = recipe(text)
    # makes the temporary folder a recipes root; what is missing there comes from the shipped one
    (path.parent.parent / "base").mkdir()
    cfg = load_recipe(path)
    assert (cfg.rollout.max_num_seqs, cfg.seed) == (7, 5)


def test_the_result_is_read_only(recipe):
    cfg = load_recipe(recipe(GRPO))
    with pytest.raises(Exception, match="read-only"):
        cfg.seed = 3


@pytest.mark.parametrize(
    ("body", "line", "key", "near"),
    [
        ("gpro: {steps: 3}", 5, "gpro", "grpo"),
        ("model: {hfpath: x}", 5, "model.hfpath", "model.hf_path"),
        ("rollout:\n  temprature: 1.0", 6, "rollout.temprature", "rollout.temperature"),
        (
            "judge:\n  policy: strict_last\n  max_prompt_token: 3",
            7,
            "judge.max_prompt_token",
            "max_prompt_tokens",
        ),
        ("sft: {epochs: 2}", 5, "sft", "f"),
    ],
)
def test_an_unknown_key_is_refused_with_file_line_and_nearest(recipe, body, line, key, near):
    path = recipe(GRPO + body + "\n")
    message = refusal(path)
    assert message.startswith(f'{path}:{line}: unknown key "{key}"')
    if len(near) > 1:
        assert near in message.split("did you mean")[1]


def test_an_unknown_key_on_the_command_line_is_refused(recipe):
    message = refusal(recipe(GRPO), "grpo.optim.learning_rate=1")
    assert message.startswith('command line: unknown key "grpo.optim.learning_rate"')
    assert "did you mean" in refusal(recipe(GRPO), "grpo.step=3")


def test_a_key_of_another_stage_is_unknown(recipe):
    assert not has_key(recipe(GRPO), "sft.epochs")
    assert has_key(recipe(GRPO), "grpo.optim.lr")
    assert has_key(recipe(GRPO), "rollout.extra_env.OMP_NUM_THREADS")
    assert not has_key(recipe(GRPO), "grpo.steps.more")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("grpo.prompts_per_step=many", "grpo.prompts_per_step must be a whole number, not 'many'"),
        ("grpo.prompts_per_step=1.5", "grpo.prompts_per_step must be a whole number, not 1.5"),
        ("grpo.prompts_per_step=true", "grpo.prompts_per_step must be a whole number, not True"),
        ("grpo.prompts_per_step=null", "grpo.prompts_per_step must be a whole number, not null"),
        ("grpo.prompts_per_step=", "grpo.prompts_per_step must be a whole number, not null"),
        ("grpo.shuffle=1", "grpo.shuffle must be true or false, not 1"),
        ("grpo.optim.lr=fast", "grpo.optim.lr must be a number, not 'fast'"),
        ("grpo.optim.betas=0.9", "grpo.optim.betas must be a list, not 0.9"),
        ("grpo.optim.betas=[0.9,x]", "grpo.optim.betas[1] must be a number, not 'x'"),
        ("judge.template=3", "judge.template must be text, not 3"),
        ("rollout=3", "rollout must be a mapping, not 3"),
        ("grpo.prompts_per_step={a: 1}", "grpo.prompts_per_step must be a single value, not a mapping"),
        ("grpo.max_tasks=[1]", "grpo.max_tasks must be a single value, not [1]"),
    ],
)
def test_a_wrong_type_is_refused_with_the_key(recipe, override, says):
    assert refusal(recipe(GRPO), override) == f"command line: {says}"


def test_a_wrong_type_in_a_file_names_the_line(recipe):
    path = recipe(GRPO + "seed: one\n")
    assert refusal(path) == f"{path}:5: seed must be a whole number, not 'one'"


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("grpo.optim.lr=3e-4", 3e-4),
        ("grpo.optim.lr=1", 1.0),
        ("grpo.optim.betas=[0.9,0.98]", [0.9, 0.98]),
        ("grpo.max_tasks=12", 12),
        ("grpo.max_tasks=null", None),
        ("judge.response_prefix='<think>\\n'", "<think>\\n"),
        ('judge.response_prefix="<think>\\n"', "<think>\n"),
        ("inputs.tasks=a=b.jsonl", "a=b.jsonl"),
        ("rollout.extra_env.SOME_THING=x", "x"),
    ],
)
def test_overrides_are_read_as_yaml(recipe, override, value):
    cfg = load_recipe(recipe(GRPO), [override])
    node = cfg
    for part in override.split("=")[0].split("."):
        node = node[part]
    assert node == value
    assert type(node) is type(value) or isinstance(value, list)


@pytest.mark.parametrize("value", ["&a {optim: *a}", "[" * 2000 + "]" * 2000])
def test_an_endless_override_is_not_yaml(recipe, value):
    says = "is not a YAML value; if it is text, quote it for YAML as well: 'grpo=\"...\"'"
    assert refusal(recipe(GRPO), f"grpo={value}").endswith(says)


def test_the_stage_is_that_of_the_base(recipe):
    says = "command line: stage is sft, but the recipe inherits base/grpo; add base/sft to its defaults"
    assert refusal(recipe(GRPO), "stage=sft") == says


@pytest.mark.parametrize("word", ["grpo.steps", "=3", "grpo..steps=3", "grpo.=3"])
def test_a_malformed_override_is_refused(recipe, word):
    assert f'"{word}" is not an override; expected key=value' in refusal(recipe(GRPO), word)


def test_a_required_key_without_a_value_is_named(recipe):
    path = recipe("defaults: [base/grpo, model/tiny, cluster/cpu]\n")
    assert (
        refusal(path) == f"{path}: inputs.tasks is required; give it in the recipe or as inputs.tasks=VALUE"
    )
    assert load_recipe(path, ["inputs.tasks=x", "grpo.max_tokens_per_micro_batch=512"]).inputs.tasks == "x"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [1\n", "not valid YAML"),
        ("- 1\n", "a recipe must be a mapping"),
        ("seed: 1\nseed: 2\n", "duplicate key seed"),
        ("a: !!python/object/apply:os.system ['true']\n", "could not determine a constructor"),
        ("defaults: [base/grop]\n", 'did you mean "base/grpo"?'),
        ("defaults: base/grpo\n", "defaults is a list"),
        ("seed: 1\n", "inherits no base"),
        ("", "inherits no base"),
        ("defaults: [base/grpo]\nseed: ${nope}\n", "'nope' not found"),
        ("defaults: [base/grpo]\nruns_dir: ${oc.env:NOPE}\n", "'NOPE' not found\" (key runs_dir)"),
        ("defaults: [base/grpo]\nname: ${nope}\n", "'nope' not found (key name)"),
        ("defaults: [base/grpo]\nname: ${nope\n", "not valid YAML: no viable alternative"),
        ("grpo: &a {optim: *a}\n", "an alias contains itself"),
        (GRPO + "stage: sft\n", "stage is sft, but the recipe inherits base/grpo; add base/sft"),
        (
            "defaults: [base/common]\nstage: grpo\nmodel: {hf_path: x}\n",
            "stage is grpo, but the recipe inherits only base/common",
        ),
    ],
)
def test_a_recipe_that_cannot_be_read_says_why(recipe, text, says):
    path = recipe(text)
    message = refusal(path)
    assert says in message and str(path) in message and "\n" not in message


def test_bytes_that_are_not_text_are_refused(recipe):
    path = recipe("")
    path.write_bytes(b"\xff\xfe\x00")
    assert "is not UTF-8 text (byte 1): save it as UTF-8" in refusal(path)


def test_a_missing_recipe_names_the_nearest_file(recipe):
    path = recipe(GRPO, "1_grpo_zero.yaml")
    assert 'did you mean "1_grpo_zero.yaml"?' in refusal(path.with_name("1_grpo_zeroo.yaml"))
    assert "does not exist" in refusal(path.parent / "no" / "such" / "folder.yaml")


def test_a_circle_of_defaults_is_refused(recipe):
    path = recipe("defaults: [mine/1_stage]\n")
    (path.parent.parent / "base").mkdir()
    assert "inherits itself" in refusal(path)


def test_a_wall_time_may_be_written_as_yaml_reads_it(recipe):
    for word in ("03:45:00", "'03:45:00'", "1:00:00:00", "600"):
        load_recipe(recipe(GRPO), [f"checkpoints.checkpoint_must_save_by={word}"])


def test_evaluation_takes_any_models_and_strict_settings(recipe):
    words = ["evaluate.models.more=@x/hf", "evaluate.settings=[{temperature: 1, samples: 3}]"]
    cfg = load_recipe(recipe(EVALUATE), words)
    assert list(cfg.evaluate.models) == ["base", "zero", "more"]
    assert cfg.evaluate.models.base == {"hf_path": "asset:tiny_judge"}
    assert cfg.evaluate.settings == [{"temperature": 1.0, "top_p": None, "top_k": None, "samples": 3}]
    assert 'unknown key "temp"' in refusal(recipe(EVALUATE), "evaluate.settings=[{temp: 1, samples: 3}]")
    assert "no two may be alike" in refusal(
        recipe(EVALUATE), "evaluate.settings=[{temperature: 1, samples: 3}, {temperature: 1.0, samples: 1}]"
    )
    assert "no two alike" in refusal(recipe(EVALUATE), "evaluate.settings=[]")
    assert 'the name "a/b"' in refusal(recipe(EVALUATE), "evaluate.models.a/b=x")
    assert "lacks samples" in refusal(recipe(EVALUATE), "evaluate.settings=[{temperature: 1}]")
    assert "is empty" in refusal(recipe(EVALUATE.split("evaluate:\n")[0]))


@pytest.mark.parametrize(
    ("words", "rows"),
    [
        (["evaluate.models.base=null"], {"zero": "@1_grpo_zero/hf"}),
        (["evaluate.models={a: x}"], {"a": "x"}),
        (["evaluate.models={a: {hf_path: x, policy: last}}", "evaluate.models.b=y"], {"a": "x", "b": "y"}),
        (["evaluate.models={a: x, b: null}"], {"a": "x"}),
        (["evaluate.models.zero=x"], {"base": "asset:tiny_judge", "zero": "x"}),
    ],
)
def test_an_override_replaces_removes_or_adds_models(recipe, words, rows):
    models = load_recipe(recipe(EVALUATE), words).evaluate.models
    assert {name: entry.hf_path for name, entry in models.items()} == rows


def test_an_override_replaces_or_extends_the_servers_environment(recipe):
    inherited = recipe(EVALUATE + "rollout: {extra_env: {A: 1.10, B: x}}\n")
    assert load_recipe(inherited, ["rollout.extra_env={C: y}"]).rollout.extra_env == {"C": "y"}
    added = load_recipe(inherited, ["rollout.extra_env.C=y"]).rollout.extra_env
    assert added == {"A": "1.10", "B": "x", "C": "y"}


def test_inputs_by_name(recipe):
    paths = input_paths(load_recipe(recipe(EVALUATE)))
    assert paths["models.zero"] == ("evaluate.models.zero", "@1_grpo_zero/hf")
    assert paths["tasks"] == ("inputs.tasks", "@0_prepare/validation.jsonl")
    prepare = "defaults: [base/prepare, model/tiny]\nprepare: {source: "
    assert "source" not in input_paths(load_recipe(recipe(prepare + "tiny_judge}")))
    sft = load_recipe(recipes_root() / "tiny" / "4_sft.yaml", ["model.megatron_path=m"])
    assert input_paths(sft)["megatron"] == ("model.megatron_path", "m")
    assert "megatron" not in input_paths(load_recipe(recipes_root() / "tiny" / "4_sft.yaml"))
    assert input_paths(load_recipe(recipe(prepare + "a.jsonl}")))["source"] == ("prepare.source", "a.jsonl")


def test_an_artefact_of_another_runs_folder(recipe, tmp_path, monkeypatch):
    """The artefact is found beside the run's own folder, whatever the working directory."""
    elsewhere = tmp_path / "runs" / "qwq_32b" / "3_filter"
    elsewhere.mkdir(parents=True)
    (elsewhere / "a:b.jsonl").touch()
    monkeypatch.chdir(tmp_path)
    for runs_dir in ("runs/llama", tmp_path / "runs" / "llama"):
        assert require_path("@qwq_32b:3_filter/a:b.jsonl", runs_dir, "k") == elsewhere / "a:b.jsonl"
    assert resolve_path("@3_filter/a:b.jsonl", "runs/x").parts == ("runs", "x", "3_filter", "a:b.jsonl")
    with pytest.raises(
        UserError, match=r"^k: .* which \S+/runs/qwq does not have; run stage 3_filter first \(of qwq\)"
    ):
        require_path("@qwq:3_filter/examples.jsonl", "runs/llama", "k")
    body = "defaults: [base/sft, model/tiny, cluster/cpu]\nruns_dir: runs/llama\n"
    cfg = load_recipe(recipe(body + 'inputs: {examples: "@qwq_32b:3_filter/a:b.jsonl"}'))
    assert artefacts_elsewhere(cfg) == {elsewhere}
    assert artefacts_read(cfg) == set()


def test_paths(tmp_path):
    assert resolve_path("@1_grpo_zero/hf", "runs/x").parts == ("runs", "x", "1_grpo_zero", "hf")
    assert resolve_path("asset:tiny_judge", "runs").parts[-2:] == ("assets", "tiny_judge")
    with pytest.raises(UserError, match=r'^prepare.source: .*preference.jsonl .*"preferences.jsonl"'):
        require_path("asset:examples/preference.jsonl", "runs", "prepare.source")
    (tmp_path / "pairs.jsonl").write_text("")
    with pytest.raises(
        UserError, match=r'^prepare.source: .*pair.jsonl does not exist \(did you mean "pairs.jsonl"\?\)'
    ):
        require_path(str(tmp_path / "pair.jsonl"), tmp_path, "prepare.source")
    with pytest.raises(
        UserError, match=r"^model.hf_path: @1_zero/hf is in artefact 1_zero, .* run stage 1_zero first"
    ):
        require_path("@1_zero/hf", tmp_path, "model.hf_path")
    (tmp_path / "1_zero").mkdir()
    with pytest.raises(UserError, match=r"^model.hf_path: .*1_zero/hf does not exist"):
        require_path("@1_zero/hf", tmp_path, "model.hf_path")
