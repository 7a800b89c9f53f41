# SPDX-License-Identifier: Apache-2.0
"""Refuses sampling settings that vLLM would reject, or silently change, at the first request."""

from __future__ import annotations

from omegaconf import DictConfig

from reasongrm_nemo.recipe.checks.refusal import Refuse
from reasongrm_nemo.stage_kinds import kind_of

MOST_SAMPLES = 16384
"""Limit per request: vLLM's VLLM_MAX_N_SEQUENCES."""


def check_draws(key: str, samples: int, temperature_key: str, temperature: float, refuse: Refuse) -> None:
    """Refuse identical samples, or too many for one request.

    Args:
        key: key of ``samples``, for the message.
        samples: samples per prompt.
        temperature_key: key of ``temperature``, for the message.
        temperature: 0 is greedy.
        refuse: raises the error.
    """
    if samples > MOST_SAMPLES:
        refuse(key, f"is {samples}; vLLM draws at most {MOST_SAMPLES} samples of a prompt")
    if samples > 1 and temperature == 0:
        refuse(
            key,
            f"is {samples} with {temperature_key} 0: greedy answers are all the same, and vLLM refuses more "
            "than one; take 1 sample, or a temperature above 0",
        )


def check_sampling(cfg: DictConfig, refuse: Refuse) -> None:
    """Check samples per prompt, in validation too; `check_settings` does it for evaluate."""
    rollout = cfg.rollout
    if kind_of(cfg).on_policy:
        grpo, held_out = cfg.grpo, cfg.grpo.validation
        check_draws("grpo.samples_per_prompt", grpo.samples_per_prompt, "rollout.temperature", 1, refuse)
        key = "grpo.validation.samples"
        at = "grpo.validation.temperature"
        if held_out.every:
            check_draws(key, held_out.samples, at, held_out.temperature, refuse)
    if (samples := cfg[cfg.stage].get("samples")) is not None:
        check_draws(f"{cfg.stage}.samples", samples, "rollout.temperature", rollout.temperature, refuse)
    if kind_of(cfg).distinct and rollout.temperature == 0:
        refuse("rollout.temperature", f"is 0; {cfg.stage} needs samples that differ")
