# SPDX-License-Identifier: Apache-2.0
"""A folder of recipes: order, ranges, overrides, how staleness spreads, one server for all stages."""

import json
from typing import ClassVar

import pytest

from reasongrm_nemo.errors import StageFailed, UserError
from reasongrm_nemo.files.locks import RunsLock
from reasongrm_nemo.recipe.load import recipes_root
from reasongrm_nemo.run import pipeline
from reasongrm_nemo.run.console import Console
from reasongrm_nemo.run.pipeline import find_stage, load_all, recipe_files, run_pipeline
from reasongrm_nemo.stages import filter as filter_stage
from reasongrm_nemo.stages import mine as mine_stage
from reasongrm_nemo.stages import prepare as prepare_stage

ROOT = recipes_root()
PREPARE = "defaults: [base/prepare]\nmodel: {hf_path: asset:tiny_judge}\nprepare: {source: tiny_judge}\n"
FILTER = 'defaults: [base/filter]\ninputs: {paths: "@0_prepare/out.txt", tasks: "@0_prepare/more.txt"}\n'
MINE = """
defaults: [base/mine, cluster/cpu]
inputs: {tasks: "@3_filter/out.txt"}
model: {hf_path: "@0_prepare/hf"}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    folder = tmp_path / "demo"
    folder.mkdir()
    for name, text in (("0_prepare", PREPARE), ("3_filter", FILTER), ("10_mine", MINE)):
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    (folder / "notes.yaml").write_text("not a recipe", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def stages(monkeypatch):
    """Three stand-in stages that write what they read; `ran` lists them in the order they ran."""
    ran = []

    def make(name):
        def run(ctx):
            ran.append(name)
            read = [path.read_text() for key, path in sorted(ctx.inputs.items()) if path.is_file()]
            (ctx.work / "out.txt").write_text(
                f"{name} {run.says} {ctx.cfg.seed * run.seeded} {''.join(read)}"
            )
            (ctx.work / "more.txt").write_text("more")
            (ctx.work / "hf").mkdir(exist_ok=True)
            (ctx.work / "hf" / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
            if run.rolls_out:
                ctx.rollouts()
            if run.fails:
                raise StageFailed("no further")

        run.says, run.seeded, run.fails, run.rolls_out = "", 1, False, False
        return run

    runs = {"prepare": make("prepare"), "filter": make("filter"), "mine": make("mine")}
    monkeypatch.setattr(prepare_stage, "run", runs["prepare"])
    monkeypatch.setattr(filter_stage, "run", runs["filter"])
    monkeypatch.setattr(mine_stage, "run", runs["mine"])
    runs["ran"] = ran
    return runs


def go(folder, **options):
    options.setdefault("console", Console(quiet=True))
    return run_pipeline(folder, **options)


def test_stages_run_in_numeric_order_not_alphabetical(folder, stages):
    outcomes = go(folder)
    assert stages["ran"] == ["prepare", "filter", "mine"]
    assert [outcome.name for outcome in outcomes] == ["0_prepare", "3_filter", "10_mine"]
    assert outcomes[0].path.parts == ("runs", "demo", "0_prepare")


def test_a_second_run_does_nothing(folder, stages):
    go(folder)
    assert all(outcome.skipped for outcome in go(folder))
    assert len(stages["ran"]) == 3


def test_an_upstream_change_spreads_as_far_as_it_matters(folder, stages):
    go(folder)
    stages["ran"].clear()
    stages["prepare"].says = "something else"
    stages["filter"].says = "other"
    go(folder, overrides=["0_prepare:prepare.both_orders=true"])
    assert stages["ran"] == ["prepare", "filter", "mine"]


def test_an_upstream_change_with_the_same_result_stops_there(folder, stages):
    stages["prepare"].seeded = 0
    go(folder)
    stages["ran"].clear()
    go(folder, overrides=["0_prepare:seed=5"])
    assert stages["ran"] == ["prepare"]


def test_a_range_of_stages(folder, stages):
    go(folder, last="3_filter")
    assert stages["ran"] == ["prepare", "filter"]
    go(folder, first="10")
    assert stages["ran"] == ["prepare", "filter", "mine"]
    with pytest.raises(UserError, match="--from 10 comes after --to filter"):
        go(folder, first="10", last="filter")


def test_a_range_whose_inputs_are_missing_says_so(folder, stages):
    with pytest.raises(UserError, match=r"^inputs.paths: @0_prepare/out.txt .* run stage 0_prepare first"):
        go(folder, first="filter")
    assert stages["ran"] == []


def test_stages_by_name_number_or_kind(folder):
    files = recipe_files(folder)
    assert [find_stage(files, word, "--from") for word in ("3_filter", "3", "filter", "10_mine")] == [
        1,
        1,
        1,
        2,
    ]
    with pytest.raises(UserError, match=r'--to "fliter" is not a stage .*did you mean "3_filter"'):
        find_stage(files, "fliter", "--to")


def test_a_failure_keeps_finished_stages_and_the_next_run_goes_on(folder, stages):
    stages["filter"].fails = True
    with pytest.raises(StageFailed, match=r"^no further$"):
        go(folder)
    stages["filter"].fails = False
    outcomes = go(folder)
    assert stages["ran"] == ["prepare", "filter", "filter", "mine"]
    assert [outcome.skipped for outcome in outcomes] == [True, False, False]


def test_every_recipe_is_checked_before_any_runs(folder, stages):
    (folder / "11_bad.yaml").write_text("defaults: [base/filter]\nfliter: {}\n")
    with pytest.raises(UserError, match='unknown key "fliter"'):
        go(folder)
    (folder / "11_bad.yaml").write_text(FILTER.replace("@0_prepare/out", "@2_generate/out"))
    with pytest.raises(
        UserError, match=r"11_bad.yaml: inputs.paths is @2_generate/out.txt, but no earlier recipe"
    ):
        go(folder)
    (folder / "11_bad.yaml").write_text(FILTER + "name: 3_filter\n")
    with pytest.raises(UserError, match="name 3_filter is used by two recipes"):
        go(folder)
    (folder / "11_bad.yaml").write_text(FILTER + "runs_dir: elsewhere\n")
    with pytest.raises(UserError, match="share one runs_dir"):
        go(folder)
    (folder / "11_bad.yaml").rename(folder / "3_again.yaml")
    with pytest.raises(UserError, match="have the same number"):
        go(folder)
    assert stages["ran"] == []


def test_overrides_go_where_their_key_is_known(folder, stages):
    outcomes = go(folder, overrides=["seed=4", "filter.compare_random=false", "3:seed=9"])
    assert [outcome.manifest["seed"] for outcome in outcomes] == [4, 9, 4]
    assert outcomes[1].manifest["recipe"]["filter"]["compare_random"] is False


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("grpo.stepz=3", 'unknown key "grpo.stepz"'),
        ("sead=3", 'did you mean "seed"'),
        ("seed", "expected key=value"),
        ("4_sft:seed=3", 'override for "4_sft" is not a stage'),
        ("3_filter:filter.stratgy=all", 'unknown key "filter.stratgy"'),
    ],
)
def test_overrides_that_fit_nowhere_are_refused(folder, stages, word, says):
    with pytest.raises(UserError) as caught:
        go(folder, overrides=[word])
    assert says in str(caught.value)
    assert stages["ran"] == []


def test_folders_without_a_pipeline_are_refused(folder, tmp_path):
    with pytest.raises(UserError, match=r'demoo does not exist \(did you mean "demo"\?\)'):
        recipe_files(tmp_path / "demoo")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no recipes named"):
        recipe_files(tmp_path / "empty")


def test_two_pipelines_do_not_collide(folder, stages, tmp_path):
    with RunsLock(tmp_path / "runs" / "demo"), pytest.raises(UserError, match="in use by another run"):
        go(folder)
    assert stages["ran"] == []


class FakePool:
    """Records the models asked for instead of serving them."""

    made: ClassVar[list] = []

    def __init__(self, log_dir, console):
        self.asked, self.closed = [], False
        FakePool.made.append(self)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.closed = True

    def get(self, cfg, model_dir):
        self.asked.append(model_dir.name)


@pytest.mark.parametrize("fails", [False, True])
def test_one_server_is_shared_started_when_needed_and_ended(folder, stages, monkeypatch, fails):
    monkeypatch.setattr(pipeline, "RolloutPool", FakePool)
    FakePool.made.clear()
    stages["mine"].rolls_out, stages["mine"].fails = True, fails
    if fails:
        with pytest.raises(StageFailed):
            go(folder)
    else:
        go(folder)
    (pool,) = FakePool.made
    assert pool.asked == ["hf"] and pool.closed


def test_an_override_for_all_does_not_replace_another_stages_artefact():
    files = recipe_files(ROOT / "qwq_32b")
    hf_paths = {cfg.name: cfg.model.hf_path for cfg in load_all(files, ["model.hf_path=/data/QwQ-32B"])}
    assert hf_paths["1_grpo_zero"] == hf_paths["4_sft"] == hf_paths["7_evaluate"] == "/data/QwQ-32B"
    assert hf_paths["2_generate"] == "@1_grpo_zero/hf"
    assert hf_paths["5_mine"] == hf_paths["6_grpo_hard"] == "@4_sft/hf"
    (mine,) = (cfg for cfg in load_all(files, ["5_mine:model.hf_path=other"]) if cfg.name == "5_mine")
    assert mine.model.hf_path == "other", "said for one stage it holds"


def test_an_override_that_would_replace_several_artefacts_must_name_its_stage():
    files = recipe_files(ROOT / "qwq_32b")
    with pytest.raises(UserError, match=r"inputs.tasks .* you mean, such as 1_grpo_zero:inputs.tasks=mine"):
        load_all(files, ["inputs.tasks=mine.jsonl"])


def test_a_pipeline_first_names_the_keys_that_limit_its_tasks(folder, stages, capsys):
    run_pipeline(folder, Console(plain=True), overrides=["prepare.max_tasks=48", "mine.max_tasks=16"])
    first = capsys.readouterr().err.splitlines()[0]
    assert first == (
        "tasks are limited by 0_prepare:prepare.max_tasks=48, 10_mine:mine.max_tasks=16; "
        "a maximum of null takes all"
    )
    run_pipeline(folder, Console(plain=True), overrides=["0_prepare:prepare.max_tasks=null"])
    assert "limited" not in capsys.readouterr().err


def test_grpo_steps_are_counted_as_tasks_too():
    limits = pipeline._limits(load_all(recipe_files(ROOT / "smollm2"), []))
    assert "0_prepare:prepare.max_tasks=48" in limits and "1_grpo_zero:grpo.steps=3 (12 tasks)" in limits


def test_a_megatron_checkpoint_for_all_is_the_base_and_not_what_another_stage_made():
    """Such an override once silently replaced LRM-SFT as the start and the reference of the last GRPO."""
    files = recipe_files(ROOT / "qwq_32b")
    paths = {cfg.name: cfg.model.megatron_path for cfg in load_all(files, ["model.megatron_path=/data/m"])}
    assert {name for name, path in paths.items() if path} == {"1_grpo_zero", "4_sft"}
    named = load_all(files, ["6_grpo_hard:model.megatron_path=@sft_megatron"])
    assert [cfg.name for cfg in named if cfg.model.megatron_path] == ["6_grpo_hard"]
    with pytest.raises(UserError, match=r"no stage here.*, such as 6_grpo_hard:model.megatron_path=/data/m"):
        load_all([file for file in files if file.stem == "6_grpo_hard"], ["model.megatron_path=/data/m"])


def test_a_megatron_checkpoint_of_a_model_not_made_yet_is_refused_before_anything_runs(tmp_path):
    words = [f"runs_dir={tmp_path}", "6_grpo_hard:model.megatron_path=/data/m"]
    with pytest.raises(UserError, match=r"is /data/m, which cannot .* model.hf_path @4_sft/hf, because that"):
        run_pipeline(ROOT / "tiny", Console(quiet=True), overrides=words)
