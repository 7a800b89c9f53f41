# SPDX-License-Identifier: Apache-2.0
"""Checks of the stages that train."""

from __future__ import annotations

import re

from omegaconf import DictConfig

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.processes.stop_requests import parse_duration
from reasongrm_nemo.recipe.checks.refusal import Refuse

FUNCTION = re.compile(r"\w[\w.]*:\w+")


def check_long_run(cfg: DictConfig, refuse: Refuse) -> None:
    """Check when a training stage saves, validates and stops, and its optimizer's betas."""
    options, stage = cfg[cfg.stage], cfg.stage
    betas = list(options.optim.betas)
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        refuse(f"{stage}.optim.betas", f"is {betas}; it must be two numbers from 0 to below 1")
    limit = cfg.checkpoints.checkpoint_must_save_by
    if limit is not None:
        try:
            some = type(limit) in (int, str) and parse_duration(limit) > 0
        except UserError as error:
            refuse("checkpoints.checkpoint_must_save_by", f"is {error}")
        if not some:
            refuse("checkpoints.checkpoint_must_save_by", f"is {limit!r}; it must be a time above 0, or null")
    if not options.validation.every:
        for key, value in (("patience", 0), ("export", "last")):
            if options.validation[key] != value:
                refuse(f"{stage}.validation.{key}", f"needs {stage}.validation.every above 0")
        if cfg.checkpoints.keep_best:
            refuse("checkpoints.keep_best", f"needs {stage}.validation.every above 0")
        return
    if options.save_every % options.validation.every:
        refuse(
            f"{stage}.validation.every",
            f"is {options.validation.every}; it must divide {stage}.save_every {options.save_every}",
        )
    if cfg.checkpoints.keep_best and options.save_every != options.validation.every:
        refuse(
            "checkpoints.keep_best",
            f"is {cfg.checkpoints.keep_best}, but {stage}.save_every {options.save_every} leaves validations "
            f"without a checkpoint; make it {options.validation.every}, as {stage}.validation.every",
        )
    if options.validation.export == "best" and not cfg.checkpoints.keep_best:
        refuse(f"{stage}.validation.export", "is best, which needs checkpoints.keep_best above 0")


def check_grpo(cfg: DictConfig, refuse: Refuse) -> None:
    """Check batch sizes, limits and the loss of GRPO."""
    grpo, cluster = cfg.grpo, cfg.cluster
    if grpo.validation.every and cfg.inputs.validation is None:
        refuse("inputs.validation", "is null; grpo.validation.every needs held-out tasks")
    _check_extent(grpo, refuse)
    if grpo.reward != "outcome" and not FUNCTION.fullmatch(grpo.reward):
        refuse("grpo.reward", f'is "{grpo.reward}"; it can be outcome or module:function')
    if grpo.samples_per_prompt < 2:
        refuse("grpo.samples_per_prompt", f"is {grpo.samples_per_prompt}; a group needs 2 samples or more")
    product = grpo.prompts_per_step * grpo.samples_per_prompt
    if grpo.global_batch is not None and grpo.global_batch != product:
        refuse(
            "grpo.global_batch",
            f"is {grpo.global_batch}, but grpo.prompts_per_step {grpo.prompts_per_step} × "
            f"grpo.samples_per_prompt {grpo.samples_per_prompt} = {product}; "
            "make them agree or leave it null",
        )
    if grpo.prompts_per_step % grpo.optimizer_steps:
        refuse(
            "grpo.optimizer_steps",
            f"is {grpo.optimizer_steps}; it must divide grpo.prompts_per_step {grpo.prompts_per_step}",
        )
    if grpo.max_lag:
        _check_lag(cfg, refuse)
    ranks = cluster.nodes * cluster.devices_per_node
    data_parallel = ranks // (cluster.tensor_parallel * cluster.pipeline_parallel)
    if product < data_parallel:
        refuse(
            "grpo.prompts_per_step",
            f"gives {product} sequences a step, fewer than the {data_parallel} data-parallel ranks",
        )
    room = cfg.judge.max_prompt_tokens + cfg.rollout.max_response_tokens
    if grpo.max_tokens_per_micro_batch < room:
        refuse(
            "grpo.max_tokens_per_micro_batch",
            f"is {grpo.max_tokens_per_micro_batch}, less than one full sequence "
            f"(judge.max_prompt_tokens + rollout.max_response_tokens = {room})",
        )
    for kind, bound in grpo.log_prob_gap.warn.items():
        if bound > grpo.log_prob_gap.stop[kind]:
            refuse(
                f"grpo.log_prob_gap.warn.{kind}",
                f"is {bound}, more than grpo.log_prob_gap.stop.{kind} {grpo.log_prob_gap.stop[kind]}",
            )
    if grpo.importance.high <= grpo.importance.low:
        refuse("grpo.importance.high", f"is {grpo.importance.high}, not above low {grpo.importance.low}")
    if grpo.overlong.buffer > cfg.rollout.max_response_tokens:
        refuse(
            "grpo.overlong.buffer",
            f"is {grpo.overlong.buffer}, more than rollout.max_response_tokens, "
            f"{cfg.rollout.max_response_tokens}",
        )
    _check_formulas(cfg, refuse)


def check_sft(cfg: DictConfig, refuse: Refuse) -> None:
    """Check that validation has examples and that a full sequence fits a micro-batch."""
    sft = cfg.sft
    if sft.validation.every and not 0 < sft.validation.fraction < 1:
        refuse("sft.validation.fraction", f"is {sft.validation.fraction}; it must be between 0 and 1")
    if sft.max_tokens_per_micro_batch < cfg.model.max_model_len:
        refuse(
            "sft.max_tokens_per_micro_batch",
            f"is {sft.max_tokens_per_micro_batch}, less than "
            f"model.max_model_len {cfg.model.max_model_len}: one full sequence must fit",
        )


def _check_extent(grpo: DictConfig, refuse: Refuse) -> None:
    """Check that exactly one of grpo.steps and grpo.epochs is given."""
    if grpo.steps is None and grpo.epochs is None:
        refuse("grpo.steps", "is null, and so is grpo.epochs; give one of them")
    if grpo.steps is not None and grpo.epochs is not None:
        refuse(
            "grpo.epochs",
            f"is {grpo.epochs} beside grpo.steps {grpo.steps}; give one, and null for the other",
        )
    if grpo.epochs is not None and grpo.refill_rounds:
        refuse(
            "grpo.epochs",
            f"is {grpo.epochs} with grpo.refill_rounds, where a step takes as many tasks as it needs; "
            "give grpo.steps",
        )


def _check_formulas(cfg: DictConfig, refuse: Refuse) -> None:
    """Refuse settings under which the loss is not the formula it is named after."""
    rollout, grpo = cfg.rollout, cfg.grpo
    for key, off in (("top_p", 1), ("top_k", -1)):
        if rollout[key] != off:
            refuse(
                f"rollout.{key}",
                f"is {rollout[key]}; GRPO's ratios are of the whole distribution, and narrowed sampling "
                f"draws from another: leave it at {off} in stage grpo",
            )
    if grpo.kl_in == "loss" and grpo.kl_estimator == "k1":
        refuse(
            "grpo.kl_estimator",
            "is k1 with grpo.kl_in loss, where its gradient does not depend on the reference; take k2 or "
            "k3, or grpo.kl_in reward",
        )


def _check_lag(cfg: DictConfig, refuse: Refuse) -> None:
    why = f"is {cfg.grpo.max_lag}, but "
    if cfg.grpo.refill_rounds:
        refuse("grpo.max_lag", why + "with grpo.refill_rounds the next step's tasks are not known before")
    if cfg.rollout.sleep:
        refuse("grpo.max_lag", why + "with rollout.sleep the servers sleep while a step trains")
    if cfg.grpo.importance.correction != "none":
        refuse(
            "grpo.max_lag",
            why + "grpo.importance.correction has nothing to correct: the ratio is against vLLM's log-probs",
        )
