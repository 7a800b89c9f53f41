# SPDX-License-Identifier: Apache-2.0
"""The outcome reward and the mining of hard cases."""

from reasongrm_nemo.rewards.mining import HardCase, mine_hard_cases, to_hard_tasks
from reasongrm_nemo.rewards.outcome import outcome_reward

__all__ = ["HardCase", "mine_hard_cases", "outcome_reward", "to_hard_tasks"]
