# SPDX-License-Identifier: Apache-2.0
"""The date that a chat template is given: one per run, and part of the key only if a template asks for it."""

import json
import shutil
from datetime import date

import pytest
from fake_pool import RECIPES, TINY, FakePool

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.models.tokenization import load_tokenizer
from reasongrm_nemo.recipe.load import load_recipe
from reasongrm_nemo.run import run_date
from reasongrm_nemo.run.console import Console
from reasongrm_nemo.run.manifest import identity
from reasongrm_nemo.run.stage import is_done, run_stage

ASKS = (
    "{{ strftime_now('%d %b %Y') }}\n{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)


@pytest.fixture
def clock(monkeypatch):
    """Sets today's date."""

    class Day(date):
        now = date(2026, 3, 31)

        @classmethod
        def today(cls):
            return cls.now

    monkeypatch.setattr(run_date, "date", Day)
    return Day


@pytest.fixture
def model(tmp_path):
    """The tiny judge with a template that asks for the date."""
    folder = shutil.copytree(TINY, tmp_path / "model")
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": ASKS}))
    return folder


def generate(tmp_path, model, *words):
    given = [f"runs_dir={tmp_path / 'runs'}", f"model.hf_path={model}", "generate.skip_tasks=0"]
    return load_recipe(RECIPES / "2_generate.yaml", [*given, "generate.max_tasks=3", *words])


def run(cfg, tasks):
    pool = FakePool(tasks)
    return run_stage(cfg, Console(quiet=True), pool), pool


def prompts(pool):
    """The prompts that the server received, as text."""
    tokenizer = load_tokenizer(TINY)
    return [tokenizer.decode(prompt.token_ids) for prompt in pool.prompts]


def test_a_run_keeps_its_first_date(tmp_path, tasks, model, clock):
    first, pool = run(generate(tmp_path, model), tasks)
    assert prompts(pool) and all(text.startswith("31 Mar 2026") for text in prompts(pool))
    assert (
        first.manifest["recipe"]["judge"]["date"] == "2026-03-31" == first.manifest["identity"]["judge.date"]
    )
    clock.now = date(2026, 4, 1)
    assert is_done(generate(tmp_path, model))
    assert run(generate(tmp_path, model), tasks)[0].skipped
    second, pool = run(generate(tmp_path, model, "name=another"), tasks)
    assert all(text.startswith("31 Mar 2026") for text in prompts(pool))
    assert second.manifest["recipe"]["judge"]["date"] == "2026-03-31"


def test_a_recipe_may_set_the_date(tmp_path, tasks, model, clock):
    outcome, pool = run(generate(tmp_path, model, "judge.date=2024-07-26"), tasks)
    assert all(text.startswith("26 Jul 2024") for text in prompts(pool))
    assert not is_done(generate(tmp_path, model, "judge.date=2024-07-27"))
    assert outcome.manifest["recipe"]["judge"]["date"] == "2024-07-26"


def test_an_unfinished_stage_keeps_its_date(tmp_path, tasks, model, clock):
    class Killed(FakePool):
        def get(self, cfg, model_dir):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stage(generate(tmp_path, model), Console(quiet=True), Killed(tasks))
    clock.now = date(2026, 4, 1)
    outcome, pool = run(generate(tmp_path, model), tasks)
    assert outcome.manifest["recipe"]["judge"]["date"] == "2026-03-31"
    assert len(outcome.manifest["timings"]["sessions"]) == 2
    assert all(text.startswith("31 Mar 2026") for text in prompts(pool))


def test_artefacts_copied_to_another_folder_keep_their_date(tmp_path, tasks, model, clock):
    run(generate(tmp_path, model), tasks)
    clock.now = date(2026, 4, 1)
    moved = tmp_path / "moved"
    shutil.copytree(tmp_path / "runs", moved, ignore=shutil.ignore_patterns(".*"))
    assert is_done(generate(tmp_path, model, f"runs_dir={moved}"))


def test_a_run_on_another_run_s_artefact_takes_its_date(tmp_path, tasks, model, clock):
    run(generate(tmp_path, model), tasks)
    clock.now = date(2026, 4, 1)
    words = [f"runs_dir={tmp_path / 'more'}", "inputs.tasks=@runs:0_prepare/tasks.jsonl"]
    # 0_prepare has no manifest to take a date from
    assert run_date.dated(generate(tmp_path, model, *words)).judge.date == "2026-04-01"
    words[1] = "inputs.tasks=@runs:2_generate/paths.jsonl"
    assert run_date.dated(generate(tmp_path, model, *words)).judge.date == "2026-03-31"


def test_shards_with_different_dates_are_not_merged(tmp_path, tasks, model, clock):
    given = f"inputs.tasks={tmp_path / 'runs' / '0_prepare' / 'tasks.jsonl'}"
    run(generate(tmp_path, model, given, "generate.shard=1/2", f"runs_dir={tmp_path / 'one'}"), tasks)
    clock.now = date(2026, 4, 1)
    run(generate(tmp_path, model, given, "generate.shard=2/2", f"runs_dir={tmp_path / 'two'}"), tasks)
    shards = [f"{tmp_path / name / '2_generate'}" for name in ("one", "two")]
    with pytest.raises(UserError, match=r"judge\.date 2026-03-31 → 2026-04-01"):
        run(generate(tmp_path, model, f"generate.shards=[{','.join(shards)}]"), tasks)


def test_the_date_counts_only_where_a_template_asks(tmp_path, model, clock):
    def key(folder, *words):
        cfg = generate(tmp_path, folder, *words)
        return identity(run_date.dated(cfg), {"model": {"sha256": "x", "path": str(folder)}})

    assert key(model)["judge.date"] == "2026-03-31"
    assert "judge.date" not in key(TINY, "judge.date=2024-07-26")


def test_a_second_process_takes_the_first_ones_date(tmp_path, model, clock, monkeypatch):
    """Two stages start at once in an empty folder, around midnight."""
    cfg = generate(tmp_path, model)
    assert run_date.dated(cfg, keep=True).judge.date == "2026-03-31"
    clock.now = date(2026, 4, 1)
    kept = iter([None, "2026-03-31"])  # missing when the second process looks, there when it writes
    monkeypatch.setattr(run_date, "_kept", lambda runs_dir: next(kept))
    assert run_date.dated(cfg, keep=True).judge.date == "2026-03-31"


def test_a_date_file_without_a_date_is_refused(tmp_path, model):
    cfg = generate(tmp_path, model)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / ".date").write_text("yesterday")
    with pytest.raises(UserError, match=r"\.date holds no date"):
        run_date.dated(cfg)


@pytest.mark.parametrize("value", ["26 July 2024", "2024-13-01", "20240726", "3", "2024-07-26T10:00"])
def test_an_invalid_date_is_refused_with_the_recipe(tmp_path, model, value):
    with pytest.raises(UserError, match=r"judge\.date is .*YYYY-MM-DD"):
        generate(tmp_path, model, f"judge.date={value}")


def test_a_date_in_a_file_needs_no_quotes(tmp_path):
    path = tmp_path / "0_prepare.yaml"
    lines = ["defaults: [base/prepare, model/tiny, cluster/cpu]", "prepare: {source: tiny_judge}"]
    path.write_text("\n".join([*lines, "judge: {date: 2024-07-26}"]))
    assert load_recipe(path).judge.date == "2024-07-26"
