# SPDX-License-Identifier: Apache-2.0
"""Whether trainer and sampler run the same policy: two figures of each step, acted on before its update."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from omegaconf import DictConfig

from reasongrm_nemo.errors import StageFailed
from reasongrm_nemo.rollout import Completion


class Disagreement(StageFailed):
    """Trainer and sampler are not of one policy; the trainer saves, without the step's update, and ends."""


class Agreement:
    """Holds a step's mean log-prob gap, and the age of the weights that sampled it, against the recipe.

    Args:
        recipe: resolved, of stage ``grpo``.
    """

    def __init__(self, recipe: DictConfig) -> None:
        self._cfg, self._max_lag = recipe.grpo.log_prob_gap, recipe.grpo.max_lag
        self._dtypes = f"model.dtype {recipe.model.dtype} and rollout.dtype {recipe.rollout.dtype}"
        self._exact = recipe.model.dtype == recipe.rollout.dtype == "fp32"
        self._temperature = recipe.rollout.temperature

    def check_age(self, step: int, age: int | None) -> None:
        """That a step's rollouts are of weights no older than the recipe lets them be.

        Args:
            step: counted from 1, for the message.
            age: see ``ages``.

        Raises:
            Disagreement: they are older.
        """
        if age is not None and age > self._max_lag:
            raise Disagreement(
                f"step {step}: a server sampled with weights {age} step{'s' * (age > 1)} old, and "
                f"grpo.max_lag is {self._max_lag}: it did not get the weights that were pushed; nothing was "
                f"trained on its answers, which are in rollouts/ ({_file(step)})"
            )

    def check_gap(self, step: int, metrics: dict[str, Any], age: int | None) -> str | None:
        """That the trainer's log-probs are the sampler's, as near as their dtypes let them be.

        Args:
            step: counted from 1, for the message.
            metrics: of the step's first update, with ``log_prob_error_mean`` and ``_max``.
            age: of the weights that sampled; older ones are another policy, so there the gap may be larger.

        Returns:
            A warning, or None.

        Raises:
            Disagreement: the mean is past the bound at which the recipe wants to stop.
        """
        gap = metrics["log_prob_error_mean"]
        kinds = ["fp32" if self._exact else "bf16"] + (["lagged"] if age else [])
        for what in ("stop", "warn"):
            kind = max(kinds, key=lambda kind: self._cfg[what][kind])
            # a difference of logits is one of log-probs by 1 / temperature
            bound = self._cfg[what][kind] / min(self._temperature, 1.0)
            if gap > bound:
                said = (
                    f"step {step}: the trainer's log-probs differ from vLLM's by {gap:.2g} nats a token (the "
                    f"largest by {metrics['log_prob_error_max']:.2g}), more than "
                    f"grpo.log_prob_gap.{what}.{kind} {self._cfg[what][kind]:g}; likely causes: "
                    f"rope (model.rope, rope_theta in config.json), another model's tokenizer or chat "
                    f"template, dtype ({self._dtypes}), temperature (rollout.temperature "
                    f"{self._temperature:g}), stale weights in a server"
                )
                if what == "stop":
                    raise Disagreement(
                        f"{said}; nothing was trained on these rollouts, which are in rollouts/ "
                        f"({_file(step)}: remove it to sample anew), and the same command goes on from the "
                        "checkpoint"
                    )
                return said
        return None


def ages(completions: Iterable[Completion], step: int) -> list[int]:
    """How many steps old the weights were that sampled each of a step's completions, where that is known.

    Args:
        completions: of the step.
        step: the steps done before it, which is the version of the weights that it starts from.
    """
    return [step - c.weight_version for c in completions if c.weight_version is not None]


def _file(step: int) -> str:
    return f"step_{step - 1:06d}.jsonl"
