# SPDX-License-Identifier: Apache-2.0
"""A new stage takes a kind, a module and a base recipe: three files, and no change elsewhere."""

import runpy
from pathlib import Path

import pytest
from fake_pool import FakePool

from reasongrm_nemo import plan, stages
from reasongrm_nemo.data import read_jsonl
from reasongrm_nemo.data.records import ReasoningPath
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.processes import placement
from reasongrm_nemo.recipe.load import input_paths, load_recipe
from reasongrm_nemo.run.console import Console
from reasongrm_nemo.run.manifest import identity
from reasongrm_nemo.run.stage import is_done, run_stage
from reasongrm_nemo.slurm.jobs import pipeline_jobs
from reasongrm_nemo.stage_kinds import KINDS, Kind

ROOT = Path(__file__).parents[2]
HOUSE = runpy.run_path(str(ROOT / "scripts" / "house.py"))
COUNT = Kind(("count",), paths=("more",))
COUNT_MODULE = """
def run(ctx):
    paths = [ctx.inputs["tasks"], ctx.inputs["more"]]
    lines = sum(len(path.read_text().splitlines()) for path in paths)
    (ctx.work / "count.txt").write_text(str(lines * ctx.cfg.count.times))
    return {"lines": lines}
"""
COUNT_BASE = """
defaults: [base/common]
stage: count
inputs: {tasks: "???"}
model: {hf_path: null}
count: {times: 1, more: "???"}
"""
ASK = Kind(
    ("model", "judge", "rollout", "cluster", "ask"), paths=("shards",), limits=("max_tasks",), after_shards=()
)
ASK_MODULE = """
from reasongrm_nemo.stages.sampling import Ask, rollout_sampling, sample_paths, shard_files
from reasongrm_nemo.stages.tasks import load_tasks

def run(ctx):
    cfg, settings = ctx.cfg, ctx.cfg.ask
    tasks = load_tasks(ctx.inputs["tasks"], 0, settings.max_tasks)
    ask = Ask(
        model_dir=ctx.inputs["model"], model=cfg.model.hf_path, samples=settings.samples,
        policy=cfg.judge.policy, response_prefix="", sampling=rollout_sampling(cfg),
        purpose="ask", label="answers",
    )
    asked = sample_paths(ctx, tasks, ask, ctx.work / "answers.jsonl", settings.shard, shard_files(ctx))
    return {"tasks": len(asked)}
"""
ASK_BASE = """
defaults: [base/common]
stage: ask
inputs: {tasks: "???"}
ask: {samples: 2, max_tasks: null, shard: null, shards: []}
"""


@pytest.fixture
def add_stage(tmp_path, monkeypatch):
    """``add_stage(name, kind, module, base)`` writes a stage's files; returns a folder for its recipes."""
    modules, base = tmp_path / "modules", tmp_path / "recipes" / "base"
    modules.mkdir()
    base.mkdir(parents=True)
    monkeypatch.setattr(stages, "__path__", [*stages.__path__, str(modules)])

    def add(name, kind, module, text):
        monkeypatch.setitem(KINDS, name, kind)
        (modules / f"{name}.py").write_text(module)
        (base / f"{name}.yaml").write_text(text)
        return tmp_path / "recipes" / "demo"

    (base.parent / "demo").mkdir()
    return add


def test_a_stage_that_neither_trains_nor_samples(add_stage, tasks, tmp_path):
    folder = add_stage("count", COUNT, COUNT_MODULE, COUNT_BASE)
    recipe = folder / "1_count.yaml"
    recipe.write_text(
        'defaults: [base/count]\ninputs: {tasks: "@0_prepare/tasks.jsonl"}\n'
        'count: {more: "@0_prepare/validation.jsonl"}\n'
    )
    words = [f"runs_dir={tmp_path / 'runs'}"]
    cfg = load_recipe(recipe, words)
    assert input_paths(cfg)["more"] == ("count.more", "@0_prepare/validation.jsonl")
    outcome = run_stage(cfg, Console(quiet=True), FakePool())
    assert (outcome.path / "count.txt").read_text() == str(len(tasks) + 10)
    assert set(identity(cfg, {})) == {"stage", "seed", "count.times", "count.more"}
    assert is_done(cfg) and not is_done(load_recipe(recipe, [*words, "count.times=2"]))
    assert plan.plan(cfg) is None
    (job,) = pipeline_jobs(folder, words, 3, None, None, False)["jobs"]
    assert job["template"] == "count" and job["done"] and job["nodes"] is None
    with pytest.raises(UserError, match=r'count\.tims.*did you mean "count\.times"'):
        load_recipe(recipe, [*words, "count.tims=2"])


def test_a_stage_that_samples(add_stage, tasks, tmp_path):
    folder = add_stage("ask", ASK, ASK_MODULE, ASK_BASE)
    recipe = folder / "1_ask.yaml"
    recipe.write_text(
        'defaults: [base/ask, model/tiny, cluster/cpu]\ninputs: {tasks: "@0_prepare/tasks.jsonl"}\n'
        "ask: {max_tasks: 6}\n"
    )
    words = [f"runs_dir={tmp_path / 'runs'}"]
    cfg = load_recipe(recipe, words)
    pool = FakePool(tasks)
    whole = run_stage(cfg, Console(quiet=True), pool)
    answers = list(read_jsonl(whole.path / "answers.jsonl", ReasoningPath))
    assert [path.task_id for path in answers] == [task.id for task in tasks[:6] for _ in range(2)]
    assert whole.manifest["identity"]["ask.max_tasks"] == 6
    assert "rollout.servers" not in whole.manifest["identity"]
    placed = placement.find(cfg, {})
    assert not placed.slurm and len(placed.spots) == cfg.rollout.servers
    for index in (1, 2):
        run_stage(
            load_recipe(recipe, [*words, f"name=s{index}", f"ask.shard={index}/2"]), Console(quiet=True), pool
        )
    together = load_recipe(
        recipe, [*words, "name=both", "ask.shards=['@s1/answers.jsonl','@s2/answers.jsonl']"]
    )
    both = run_stage(together, Console(quiet=True), pool)
    assert (both.path / "answers.jsonl").read_bytes() == (whole.path / "answers.jsonl").read_bytes()
    jobs = pipeline_jobs(folder, [*words, "ask.max_tasks=7"], 2, None, None, False)["jobs"]
    assert [(job["template"], job["array"]) for job in jobs] == [("ask", "1,2"), ("merge", None)]
    with pytest.raises(UserError, match=r"^command line: ask\.shard is 3/2; shards are counted from 1/2"):
        load_recipe(recipe, [*words, "ask.shard=3/2"])


@pytest.mark.parametrize(
    ("kind", "most"), [("a stage that does not (filter)", 3), ("a stage that samples (mine)", 5)]
)
def test_a_stage_is_named_in_few_modules(kind, most):
    named = HOUSE["files_named"](ROOT, HOUSE["KINDS"][kind])
    assert "reasongrm_nemo/stage_kinds.py" in named
    assert len(named) <= most, named


def test_no_module_asks_for_a_stage_by_name():
    """Except the summary of a run, which shows the report of evaluate."""
    assert {fact.split(":")[0] for fact in HOUSE["stage_facts"](ROOT)} <= {"reasongrm_nemo/report/summary.py"}
