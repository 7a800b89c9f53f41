# SPDX-License-Identifier: Apache-2.0
"""Rewards: the outcome or a user's function, shaping, and the mining of hard cases."""

from reasongrm_nemo.rewards.hook import OUTCOME, Reward, Rewarder
from reasongrm_nemo.rewards.mining import (
    HardCase,
    choose_hard,
    find_hard,
    hard_task,
    mine_hard_cases,
    to_hard_tasks,
)
from reasongrm_nemo.rewards.outcome import outcome_reward
from reasongrm_nemo.rewards.shaping import overlong_penalty

__all__ = [
    "OUTCOME",
    "HardCase",
    "Reward",
    "Rewarder",
    "choose_hard",
    "find_hard",
    "hard_task",
    "mine_hard_cases",
    "outcome_reward",
    "overlong_penalty",
    "to_hard_tasks",
]
