# SPDX-License-Identifier: Apache-2.0
"""From completions to samples: which groups are kept, how rewards are shaped, what is left out."""

import pytest
from omegaconf import OmegaConf

from reasongrm_nemo.data import JudgeTask
from reasongrm_nemo.grpo.groups import GroupJudge, rollout_figures, shaped_rewards, to_samples, weighed
from reasongrm_nemo.recipe.load import load_recipe, recipes_root
from reasongrm_nemo.rollout import Completion, Prompt

TASK = JudgeTask("t", "p", "test", [{"role": "user", "content": "?"}], "A", "chosen_first")


def config(**changes):
    cfg = load_recipe(recipes_root() / "tiny" / "1_grpo_zero.yaml").grpo
    return OmegaConf.merge(cfg, OmegaConf.create(changes))


def completion(length, finish="stop"):
    return Completion("t", 0, list(range(length)), [-0.5] * length, finish)


def group(texts, lengths, finishes=None, words=()):
    finishes = finishes or ["stop"] * len(texts)
    completions = [completion(n, f) for n, f in zip(lengths, finishes, strict=True)]
    waiting = iter(texts)

    class Tokenizer:
        opening = "\n"

        def decode(self, ids):
            return next(waiting)

    recipe = load_recipe(recipes_root() / "tiny" / "1_grpo_zero.yaml", words)
    return GroupJudge(Tokenizer(), recipe).group(TASK, Prompt("t", [7, 7], 0), completions)


RIGHT, WRONG = "</think>[[A]]", "</think>[[B]]"


def test_shaping_never_decides_which_groups_are_kept():
    """A group of wrong answers is skipped however much the lengths, and so the rewards, differ."""
    cfg = config(overlong={"buffer": 10, "penalty": 1.0})
    wrong = group([WRONG] * 3, [1, 95, 100])
    assert len(set(shaped_rewards([wrong], cfg, 100))) == 3
    assert not wrong.kept
    assert group([RIGHT, WRONG], [100, 100]).kept


def test_long_answers_lose_reward_and_advantage():
    cfg = config(overlong={"buffer": 10, "penalty": 0.5}, advantage={"std": False})
    kept = group([RIGHT, RIGHT, WRONG], [50, 95, 50])
    rewards = shaped_rewards([kept], cfg, 100)
    assert rewards == pytest.approx([1.0, 0.75, 0.0])
    advantages = [sample.advantage for sample in to_samples([kept], rewards, cfg)]
    mean = sum(rewards) / 3
    assert advantages == pytest.approx([r - mean for r in rewards])


def test_truncated_responses_are_left_out_of_the_loss_but_not_of_the_baseline():
    kept = group([RIGHT, WRONG, WRONG], [4, 10, 6], ["stop", "length", "stop"])
    plain = to_samples([kept], kept.rewards, config())
    masked = to_samples([kept], kept.rewards, config(mask_truncated=True))
    assert [s.weight for s in plain] == [1.0, 1.0, 1.0]
    assert [s.weight for s in masked] == [1.0, 0.0, 1.0]
    assert [s.advantage for s in masked] == [s.advantage for s in plain]
    assert [s.weight for s in weighed(masked, "token", 10)] == pytest.approx([0.1, 0.0, 0.1])


def test_the_end_of_turn_token_is_not_part_of_a_response_s_text():
    """Anywhere but last, the token is part of the text that the verdict is parsed from."""
    decoded = []

    class Tokenizer:
        opening = "\n"

        def decode(self, ids):
            decoded.append(ids)
            return RIGHT

    recipe = load_recipe(recipes_root() / "tiny" / "1_grpo_zero.yaml")
    answers = [([5, 2], "stop"), ([5, 6], "length"), ([2, 5], "length"), ([], "stop")]
    completions = [Completion("t", 0, ids, [-0.5] * len(ids), end) for ids, end in answers]
    GroupJudge(Tokenizer(), recipe).group(TASK, Prompt("t", [7, 7], 0), completions)
    assert decoded == [[5], [5, 6], [2, 5], []]


def test_a_steps_metrics_describe_its_rollouts():
    first = group([RIGHT, WRONG, "none"], [4, 10, 6], ["stop", "length", "stop"])
    second = group([RIGHT] * 3, [2, 2, 6])
    figures = rollout_figures([first, second])
    assert figures == pytest.approx(
        {
            "reward": 4 / 6,
            "accuracy": 4 / 6,
            "kept": 1,
            "groups": 2,
            "response_tokens": 5.0,
            "truncated": 1 / 6,
            "no_verdict": 2 / 6,  # including the truncated response
        }
    )


@pytest.fixture
def rewarded(monkeypatch):
    """A function that makes a group whose rewards come from the given function."""

    def make(function, texts):
        monkeypatch.setattr("reasongrm_nemo.rewards.hook.load_function", lambda name, key: function)
        return group(texts, [2] * len(texts), words=["grpo.reward=a:b"])

    return make


@pytest.mark.parametrize(("right", "wrong"), [(1, 0), (2, 0), (1, -1), (0, -1), (0, 1), (0.5, 0.5)])
def test_whatever_the_rewards_groups_are_kept_and_counted_by_right_and_wrong(right, wrong, rewarded):
    def reward(reading, task):
        return (right if reading.correct else wrong), reading.correct

    mixed = rewarded(reward, [RIGHT, WRONG, RIGHT, "none"])
    assert mixed.kept and mixed.rewards == [right, wrong, right, wrong]
    assert not rewarded(reward, [RIGHT] * 3).kept and not rewarded(reward, [WRONG] * 3).kept
    figures = rollout_figures([mixed])
    assert figures["accuracy"] == 0.5 and figures["reward"] == (right + wrong) / 2


def test_a_reward_without_right_and_wrong_keeps_groups_whose_rewards_differ(rewarded):
    def length(reading, task):
        return float(len(reading.text))

    some = rewarded(length, [RIGHT, RIGHT + " ", WRONG])
    assert some.kept and not rewarded(length, [RIGHT, WRONG]).kept
    assert rollout_figures([some])["accuracy"] == pytest.approx(2 / 3), "by the verdicts then"


def test_a_group_with_one_undecided_answer_is_kept_by_its_rewards(rewarded):
    def unsure(reading, task):
        return 0.0, None if reading.verdict is None else reading.correct

    assert not rewarded(unsure, [RIGHT, WRONG, "none"]).kept
