# SPDX-License-Identifier: Apache-2.0
"""What counts towards a stage's key besides the recipe's values."""

import pytest
from fake_pool import RECIPES

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.recipe.load import load_recipe
from reasongrm_nemo.run.console import Console
from reasongrm_nemo.run.manifest import identity, what_changed
from reasongrm_nemo.run.stage import is_done, run_stage

TEMPLATE = "description: mine\nuser: |\n  {question} {answer_a} {answer_b} %s\n"


# -- the judge's template --------------------------------------------------------------------------------


@pytest.fixture
def template(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(TEMPLATE % "Which?")
    return path


def of(recipe, *overrides):
    return identity(load_recipe(RECIPES / f"{recipe}.yaml", overrides), {})


def test_an_edited_template_reruns_prepare(template, tmp_path):
    small = ["prepare.tiny_judge.train=4", "prepare.tiny_judge.validation=2"]
    words = [f"judge.template={template}", f"runs_dir={tmp_path}/runs", *small]
    cfg = load_recipe(RECIPES / "0_prepare.yaml", words)
    assert not run_stage(cfg, Console(quiet=True), pool=None).skipped
    assert run_stage(cfg, Console(quiet=True), pool=None).skipped and is_done(cfg)
    template.write_text(TEMPLATE % "Which one is better?")
    assert not is_done(cfg)
    outcome = run_stage(cfg, Console(quiet=True), pool=None)
    assert not outcome.skipped
    assert "Which one is better?" in (outcome.path / "tasks.jsonl").read_text()


def test_a_template_s_wording_counts_where_prompts_are_made_from_it(template):
    asks = [
        ("0_prepare", True),
        ("2_generate", False),
        ("7_evaluate", False),  # held-out tasks come with their prompts
        ("7_evaluate inputs.rmb=x", True),
    ]
    words = [f"judge.template={template}"]
    old = [of(*recipe.split(), *words) for recipe, _ in asks]
    template.write_text((TEMPLATE % "Which?").replace("mine", "the same wording"))
    assert old == [of(*recipe.split(), *words) for recipe, _ in asks]
    template.write_text(TEMPLATE % "Which one?")
    for (recipe, counts), before in zip(asks, old, strict=True):
        changed = what_changed(before, of(*recipe.split(), *words))
        assert changed == ("input judge.template changed" if counts else "")


def test_templates_of_the_package_do_not_change_the_key():
    assert "input judge.template" not in of("0_prepare")


@pytest.mark.parametrize("recipe", ["0_prepare", "7_evaluate inputs.rmb=x"])
def test_a_template_that_cannot_be_read_is_refused_with_the_recipe(recipe, tmp_path):
    for name, says in ((f"{tmp_path}/none.yaml", "cannot be read"), ("tinny", "did you mean 'tiny'")):
        with pytest.raises(UserError, match=rf"^command line: judge\.template .*{says}"):
            of(*recipe.split(), f"judge.template={name}")
    of("2_generate", f"judge.template={tmp_path}/none.yaml")


# -- the order of rows -----------------------------------------------------------------------------------

EVALUATE = """
defaults: [base/evaluate, model/tiny, cluster/cpu]
inputs: {rmb: x}
evaluate:
  models: {%s}
  logs: {%s}
"""


def test_the_order_of_models_and_logs_is_part_of_an_evaluation(tmp_path):
    """The order decides the table's rows, and the other models are compared with the first."""

    def keys(models, logs):
        path = tmp_path / "7_evaluate.yaml"
        path.write_text(EVALUATE % (models, logs))
        cfg = load_recipe(path)
        # as `context._inputs` has them: by name, in any order
        names = sorted([*(f"models.{m}" for m in cfg.evaluate.models), *cfg.evaluate.logs])
        return identity(cfg, {name: {"sha256": name} for name in names})

    first = keys("one: x, two: y", "a: u, b: v")
    assert first == keys("one: elsewhere, two: y", "a: u, b: v")  # a path is not content
    moved = keys("two: y, one: x", "a: u, b: v")
    assert what_changed(first, moved) == "evaluate.models ['one', 'two'] → ['two', 'one']"
    moved = keys("one: x, two: y", "b: v, a: u")
    assert what_changed(first, moved) == "evaluate.logs ['a', 'b'] → ['b', 'a']"
