# SPDX-License-Identifier: Apache-2.0
"""Every recipe in the checkout loads and says what was run; every base key has a comment that says why."""

import json
import re
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.judge import load_template
from reasongrm_nemo.judge.settings import DEFAULT_TEMPLATE
from reasongrm_nemo.recipe.checks import check_model
from reasongrm_nemo.recipe.load import load_recipe, recipes_root, require_path
from reasongrm_nemo.run.pipeline import load_all, recipe_files
from reasongrm_nemo.stage_kinds import KINDS

ROOT = recipes_root()
PARTS = ("base", "model", "cluster", "loss")
RECIPES = sorted(path for path in ROOT.rglob("*.yaml") if path.parent.name not in PARTS)
PIPELINES = sorted({path.parent for path in RECIPES if re.match(r"\d+_", path.name)})


def test_there_are_recipes():
    assert len(RECIPES) >= 16 and len(PIPELINES) >= 2


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_recipe_loads_and_its_header_says_what_was_run(path):
    cfg = load_recipe(path)
    load_template(cfg.judge.template or DEFAULT_TEMPLATE)
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert re.match(r"# (executed: .+|validated, never run on hardware)", first), first


@pytest.mark.parametrize("folder", PIPELINES, ids=lambda folder: folder.name)
def test_a_pipeline_loads_as_a_whole(folder):
    recipes = load_all(recipe_files(folder), ["seed=7"])
    assert {cfg.seed for cfg in recipes} == {7}
    assert {cfg.runs_dir for cfg in recipes} == {f"runs/{folder.name}"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_recipe_states_only_what_differs_from_its_defaults(path, tmp_path):
    """No value repeats one that the defaults already give."""
    body = yaml.safe_load(path.read_text(encoding="utf-8"))
    overrides = {key: value for key, value in body.items() if key != "defaults"}
    bare = tmp_path / path.name
    bare.write_text(yaml.safe_dump({"defaults": body["defaults"]}), encoding="utf-8")
    words = [f"{key}={'null' if value is None else value}" for key, value in _required(overrides)]
    cfg = load_recipe(bare, words)
    for key, value in _leaves(overrides):
        if (key, value) in _required(overrides):
            continue
        node = cfg
        for part in key.split("."):
            node = node[part]
        assert node != value, f"{key} is {value} in the defaults already"


def _leaves(data, prefix=""):
    for key, value in data.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _required(overrides):
    """Keys that the bare recipe cannot be loaded without, or that only make sense together."""
    return [
        (key, value)
        for key, value in _leaves(overrides)
        if key.startswith(("inputs.", "model.", "evaluate.models", "prepare.source", "prepare.model_package"))
        or key.endswith("max_tokens_per_micro_batch")
    ]


BASES = sorted((ROOT / "base").glob("*.yaml"))


def test_every_stage_has_a_base():
    assert {path.stem for path in BASES} == {*KINDS, "common"}


@pytest.mark.parametrize("path", BASES, ids=lambda path: path.stem)
def test_every_base_key_has_a_comment(path):
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        opens_a_block = line.rstrip().endswith(":")
        obvious = re.match(r"\s*(stage|defaults|- \{|nodes|devices_per_node|min_lr)\b", line) or "- {" in line
        if line.strip() and not line.lstrip().startswith("#") and not opens_a_block and not obvious:
            assert "#" in line, f"{path}:{number}: {line}"


@pytest.mark.parametrize(
    ("name", "aggregation", "clip_high", "std"),
    [("grpo", "sequence", 0.2, True), ("dapo", "token", 0.28, True), ("dr_grpo", "constant", 0.2, False)],
)
def test_a_named_loss_is_the_formula_of_its_paper(name, aggregation, clip_high, std, tmp_path):
    path = tmp_path / "1_grpo.yaml"
    path.write_text(f"defaults: [base/grpo, loss/{name}, model/tiny, cluster/cpu]\ninputs: {{tasks: t}}\n")
    cfg = load_recipe(path).grpo
    assert (cfg.loss_aggregation, cfg.clip_low, cfg.clip_high) == (aggregation, 0.2, clip_high)
    assert (cfg.advantage.baseline, cfg.advantage.std, cfg.clip_dual) == ("mean", std, None)


def test_a_recipe_without_a_named_loss_runs_grpo_s_loss(tmp_path):
    """Shao et al. 2024, eq. 3, as docs/training.md and recipes/qwq_32b say."""
    path = tmp_path / "1_grpo.yaml"
    both = []
    for parts in ("base/grpo", "base/grpo, loss/grpo"):
        path.write_text(f"defaults: [{parts}, model/tiny, cluster/cpu]\ninputs: {{tasks: t}}\n")
        both.append(load_recipe(path).grpo)
    assert both[0] == both[1] and both[0].loss_aggregation == "sequence"
    for stage in ("1_grpo_zero", "6_grpo_hard"):
        assert load_recipe(ROOT / "qwq_32b" / f"{stage}.yaml").grpo.loss_aggregation == "sequence"


def test_the_paper_s_values_are_the_defaults():
    grpo = load_recipe(ROOT / "tiny" / "1_grpo_zero.yaml", ["grpo.optim.lr=1e-6"])
    assert grpo.grpo.clip_low == grpo.grpo.clip_high == 0.2 and grpo.grpo.kl_coefficient == 0
    common = yaml.safe_load((ROOT / "base" / "common.yaml").read_text(encoding="utf-8"))
    assert common["judge"]["max_prompt_tokens"] == 8192
    assert common["rollout"]["max_response_tokens"] == 57344
    assert common["rollout"]["temperature"] == 1.0
    for stage, key in (("grpo", "samples_per_prompt"), ("generate", "samples"), ("mine", "samples")):
        assert yaml.safe_load((ROOT / "base" / f"{stage}.yaml").read_text(encoding="utf-8"))[stage][key] == 8
    sft = yaml.safe_load((ROOT / "base" / "sft.yaml").read_text(encoding="utf-8"))["sft"]
    assert sft["batch_size"] == 256 and sft["optim"]["lr"] == 1e-6


def test_no_recipe_names_a_path_of_one_machine():
    for path in [*RECIPES, *BASES]:
        assert not re.search(r"(?<![\w.])/(home|work|tmp|root)/", path.read_text(encoding="utf-8")), path


def test_the_root_is_the_checkout_s():
    assert Path(__file__).resolve().parents[2] / "recipes" == ROOT


def test_qwq_on_the_papers_cluster_fits_its_shape_and_context():
    """The recipe's rope allows 65,536 positions; without that rope they are refused."""
    path = ROOT / "qwq_32b" / "1_grpo_zero.yaml"
    cfg = load_recipe(path)
    config = json.loads((require_path("asset:configs/qwq_32b/config.json", ".", "plan.config")).read_text())
    check_model(cfg, config, "config.json")
    plain = load_recipe(path, ["model.rope.type=null"])
    with pytest.raises(UserError, match="past max_position_embeddings 40960"):
        check_model(plain, config, "config.json")
    with pytest.raises(UserError, match="pipeline_parallel is 4, which does not divide num_hidden_layers 63"):
        check_model(cfg, config | {"num_hidden_layers": 63}, "config.json")
    with pytest.raises(UserError, match=r"model\.max_model_len is 65536, past the 36045 positions"):
        load_recipe(path, ["model.rope.factor=1.1"])


def test_recipes_and_examples_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = recipe_files(Path("recipes/smollm2"))
    assert [path.parent for path in files] == [ROOT / "smollm2"] * 8
    cfg = load_recipe("recipes/smollm2/0_prepare.yaml")
    assert cfg.runs_dir == "runs/smollm2"
    assert require_path(cfg.prepare.source, cfg.runs_dir, "prepare.source").is_file()
    with pytest.raises(UserError, match=r"recipes/smollm does not exist"):
        recipe_files(Path("recipes/smollm"))


def test_a_recipe_in_the_current_folder_takes_precedence_over_a_shipped_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "recipes" / "smollm2" / "0_mine.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("")
    assert recipe_files(Path("recipes/smollm2")) == [Path("recipes/smollm2/0_mine.yaml")]


def test_the_paper_s_run_states_the_paper_s_values():
    """Section 4.3: learning rate 1e-6, global batch 256, prompts 8,192, responses 57,344, 4 × 8 GPUs."""
    for stage in ("1_grpo_zero", "4_sft", "6_grpo_hard"):
        cfg = load_recipe(ROOT / "qwq_32b" / f"{stage}.yaml")
        assert cfg[cfg.stage].optim.lr == 1e-6
        assert cfg.judge.max_prompt_tokens == 8192 and cfg.rollout.max_response_tokens == 57344
        assert cfg.model.max_model_len == 65536
        assert (cfg.cluster.nodes, cfg.cluster.devices_per_node) == (4, 8)
        if cfg.stage == "grpo":
            assert cfg.grpo.prompts_per_step * cfg.grpo.samples_per_prompt == 256
        else:
            assert cfg.sft.batch_size == 256


@pytest.mark.parametrize("model", sorted(path.name for path in (ROOT / "ablation").iterdir()))
def test_the_arms_of_table_3_differ_only_in_the_choice_of_paths(model):
    random, r_star, evaluate = load_all(recipe_files(ROOT / "ablation" / model), [])
    apart = {
        key
        for key, value in _leaves(OmegaConf.to_container(random))
        if OmegaConf.select(r_star, key) != value
    }
    assert apart == {"name", "inputs.examples"}
    assert random.inputs.examples == "@qwq_32b:3_filter/examples_random.jsonl"
    assert r_star.inputs.examples == "@qwq_32b:3_filter/examples.jsonl"
    assert list(evaluate.evaluate.models) == ["base", "random", "r_star"]
