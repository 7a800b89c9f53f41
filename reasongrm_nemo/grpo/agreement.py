# SPDX-License-Identifier: Apache-2.0
"""Checks before each update that trainer and sampler run the same policy: weight age and log-prob gap."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from omegaconf import DictConfig

from reasongrm_nemo.errors import StageFailed
from reasongrm_nemo.rollout import Completion


class Disagreement(StageFailed):
    """Trainer and sampler run different policies; the trainer skips the update, saves and stops."""


class Agreement:
    """Compares a step's mean log-prob gap and the age of its sampling weights with the recipe's limits.

    Args:
        recipe: resolved recipe of stage ``grpo``.
    """

    def __init__(self, recipe: DictConfig) -> None:
        self._cfg, self._max_lag = recipe.grpo.log_prob_gap, recipe.grpo.max_lag
        self._dtypes = f"model.dtype {recipe.model.dtype} and rollout.dtype {recipe.rollout.dtype}"
        self._exact = recipe.model.dtype == recipe.rollout.dtype == "fp32"
        self._temperature = recipe.rollout.temperature

    def check_age(self, step: int, age: int | None) -> None:
        """Check that a step's rollouts were sampled with weights at most ``grpo.max_lag`` steps old.

        Args:
            step: counted from 1, for the message.
            age: age of the oldest sampling weights, see ``ages``.

        Raises:
            Disagreement: the weights are older.
        """
        if age is not None and age > self._max_lag:
            raise Disagreement(
                f"step {step}: a server sampled with weights {age} step{'s' * (age > 1)} old, and "
                f"grpo.max_lag is {self._max_lag}: it did not receive the weights that were pushed; its "
                f"responses were not used for training and are in rollouts/ ({_file(step)})"
            )

    def check_gap(self, step: int, metrics: dict[str, Any], age: int | None) -> str | None:
        """Check that the trainer's log-probs match the sampler's within the recipe's bounds for their dtypes.

        Args:
            step: counted from 1, for the message.
            metrics: metrics of the step's first update, with ``log_prob_error_mean`` and ``_max``.
            age: age of the sampling weights in steps; if not 0, the bounds for ``lagged`` apply too.

        Returns:
            A warning, or None.

        Raises:
            Disagreement: the mean gap exceeds ``grpo.log_prob_gap.stop``.
        """
        gap = metrics["log_prob_error_mean"]
        kinds = ["fp32" if self._exact else "bf16"] + (["lagged"] if age else [])
        for action in ("stop", "warn"):
            kind = max(kinds, key=lambda kind: self._cfg[action][kind])
            # an error in the logits grows by 1 / temperature in the log-probs
            bound = self._cfg[action][kind] / min(self._temperature, 1.0)
            if gap > bound:
                message = (
                    f"step {step}: the trainer's log-probs differ from vLLM's by {gap:.2g} nats per token on "
                    f"average (at most {metrics['log_prob_error_max']:.2g}), more than "
                    f"grpo.log_prob_gap.{action}.{kind} {self._cfg[action][kind]:g}; likely causes: "
                    f"rope (model.rope, rope_theta in config.json), another model's tokenizer or chat "
                    f"template, dtype ({self._dtypes}), temperature (rollout.temperature "
                    f"{self._temperature:g}), stale weights in a server"
                )
                if action == "stop":
                    raise Disagreement(
                        f"{message}; these rollouts were not used for training and are in rollouts/ "
                        f"({_file(step)}: remove that file to sample again); the same command resumes from "
                        "the checkpoint"
                    )
                return message
        return None


def ages(completions: Iterable[Completion], step: int) -> list[int]:
    """Age in steps of the weights behind each completion of a step, skipping those without a version.

    Args:
        completions: the step's completions.
        step: number of steps done before this one, which is also the version of its starting weights.
    """
    return [step - c.weight_version for c in completions if c.weight_version is not None]


def _file(step: int) -> str:
    return f"step_{step - 1:06d}.jsonl"
