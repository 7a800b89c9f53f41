# SPDX-License-Identifier: Apache-2.0
"""A user's reward function: what it may return, what is refused, and that its source counts for the key."""

import sys
from types import SimpleNamespace

import pytest

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.recipe.load import load_recipe, recipes_root
from reasongrm_nemo.rewards import Reward, Rewarder
from reasongrm_nemo.run.manifest import identity

TASK = SimpleNamespace(id="t7", label="A")


@pytest.fixture
def hook(tmp_path, monkeypatch):
    """A function that writes a module with ``f(reading, task)`` of the given body and returns its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write(body, name="rewards_of_mine"):
        (tmp_path / f"{name}.py").write_text(f"def f(reading, task):\n    {body}\n")
        sys.modules.pop(name, None)
        return f"{name}:f"

    yield write
    sys.modules.pop("rewards_of_mine", None)


def reading(verdict):
    return SimpleNamespace(verdict=verdict, correct=verdict == "A", text="...")


def test_the_papers_reward_is_one_or_zero():
    rewarder = Rewarder("outcome")
    assert [rewarder(reading(v), TASK) for v in ("A", "B", None)] == [
        Reward(1.0, True),
        Reward(0.0, False),
        Reward(0.0, False),
    ]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("return 2 if reading.correct else 0, reading.correct", Reward(2.0, True)),
        ("return 0.25", Reward(0.25, None)),
        ("return 0.25, None", Reward(0.25, None)),
        ("import numpy; return numpy.float32(0.5), numpy.bool_(False)", Reward(0.5, False)),
    ],
)
def test_a_function_returns_a_number_and_optionally_whether_the_answer_is_right(hook, body, expected):
    """The module is found in the current folder."""
    assert Rewarder(hook(body))(reading("A"), TASK) == expected


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("return None", "returned None for task t7; it must return a finite number"),
        ("return float('nan')", "returned nan for task t7"),
        ("return 1.0, 'yes'", "returned \\(1.0, 'yes'\\) for task t7"),
        ("return 1, 2, 3", "returned \\(1, 2, 3\\) for task t7"),
        ("return reading.nothing", "failed on task t7: AttributeError: .*'nothing'"),
    ],
)
def test_anything_else_is_refused_in_one_sentence_with_the_task(hook, body, says):
    with pytest.raises(UserError, match=rf"^grpo\.reward: rewards_of_mine:f {says}"):
        Rewarder(hook(body))(reading("A"), TASK)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("no_such_module:f", "ModuleNotFoundError"),
        ("math:no_such_function", "AttributeError"),
        ("math:pi", "is float, not a function"),
        ("json:loads", "cannot be called with two arguments: too many positional arguments"),
        ("os:getcwd", "cannot be called with two arguments: too many positional arguments"),
    ],
)
def test_a_function_that_cannot_be_called_is_refused(name, says):
    with pytest.raises(UserError, match=rf"^grpo\.reward: {name} .*{says}"):
        Rewarder(name)


def test_an_edited_function_makes_another_artefact(hook):
    """Otherwise a resumed run would train on two rewards while its manifest names one."""

    def of(body):
        recipe = recipes_root() / "tiny" / "1_grpo_zero.yaml"
        return identity(load_recipe(recipe, [f"grpo.reward={hook(body)}"]), {})

    first, again, edited = of("return 0.5"), of("return 0.5"), of("return 0.25")
    assert first == again and first["input grpo.reward"] != edited["input grpo.reward"]
