# SPDX-License-Identifier: Apache-2.0
"""What a key may hold, whatever the others say."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from typing import Any

from omegaconf import DictConfig, OmegaConf

from reasongrm_nemo.judge.settings import TEMPERATURE, TOP_K_MOST, fits_temperature
from reasongrm_nemo.models.families import FAMILIES
from reasongrm_nemo.recipe.checks.refusal import Refuse, near
from reasongrm_nemo.stage_kinds import KINDS

NAME = re.compile(r"\w[\w.-]*")
CHOICES: dict[str, tuple[str | None, ...]] = {
    "model.architecture": (None, *FAMILIES),
    "model.rope.type": (None, "yarn", "linear"),
    "model.dtype": ("fp32", "bf16"),
    "model.recompute": ("none", "full"),
    "rollout.dtype": ("fp32", "bf16"),
    "cluster.platform": ("cpu", "gpu"),
    "cluster.launcher": ("auto", "local", "slurm"),
    "cluster.weight_transfer": ("gloo", "nccl", "ipc"),
    "grpo.kl_estimator": ("k1", "k2", "k3"),
    "grpo.kl_in": ("loss", "reward"),
    "grpo.loss_aggregation": ("token", "sequence", "constant"),
    "grpo.importance.correction": ("none", "truncated", "masked"),
    "grpo.advantage.baseline": ("mean", "leave_one_out"),
    "grpo.optim.schedule": ("constant", "cosine"),
    "grpo.validation.export": ("last", "best"),
    "sft.validation.export": ("last", "best"),
    "sft.optim.schedule": ("constant", "cosine"),
    "prepare.kind": ("pairs", "questions"),
    "filter.strategy": ("r_star", "random", "shortest", "all"),
    "evaluate.path_modes": (None, "tiny_judge"),
    "evaluate.policy": ("paper", "last", "strict_last", "rm_r1", "rewardbench"),
}
# Whole numbers from 1, by block; a block that the recipe lacks is left out.
AT_LEAST_ONE: dict[str, tuple[str, ...]] = {
    "prepare": ("max_chars", "decontaminate_words"),
    "model": ("max_model_len", "log_prob_chunk"),
    "judge": ("max_prompt_tokens",),
    "plan": ("prompt_tokens",),
    "rollout": (
        "max_response_tokens",
        "max_num_seqs",
        "stall_timeout_s",
        "start_timeout_s",
        "concurrency",
        "servers",
        "tensor_parallel",
    ),
    "cluster": ("nodes", "devices_per_node", "tensor_parallel", "pipeline_parallel", "threads_per_rank"),
    "grpo": (
        "prompts_per_step",
        "optimizer_steps",
        "max_tokens_per_micro_batch",
        "save_every",
        "keep_checkpoints",
        "validation.samples",
    ),
    "generate": ("samples",),
    "filter": ("top_k",),
    "sft": ("epochs", "batch_size", "max_tokens_per_micro_batch", "save_every", "keep_checkpoints"),
    "mine": ("samples",),
}
AT_LEAST_ONE_OR_NULL: dict[str, tuple[str, ...]] = {
    "prepare": ("max_tasks", "max_validation"),
    "model": ("rope.original_max_position_embeddings",),
    "rollout": ("port", "threads"),
    "cluster": ("layers_in_first_stage", "layers_in_last_stage"),
    "grpo": ("steps", "epochs", "max_tasks", "global_batch", "validation.max_tasks"),
    "generate": ("max_tasks",),
    "mine": ("max_tasks", "max_per_source"),
    "evaluate": ("max_tasks", "max_items"),
    "plan": ("tasks",),
}
NOT_NEGATIVE: dict[str, tuple[str, ...]] = {
    "rollout": ("nodes",),
    "prepare": ("tiny_judge.train", "tiny_judge.validation", "validation_fraction"),
    "grpo": (
        "skip_tasks",
        "clip_low",
        "clip_high",
        "kl_coefficient",
        "entropy_coefficient",
        "importance.low",
        "advantage.eps",
        "overlong.buffer",
        "overlong.penalty",
        "refill_rounds",
        "max_lag",
        "validation.every",
        "validation.patience",
        "optim.lr",
        "optim.min_lr",
        "optim.weight_decay",
        "optim.warmup_steps",
    ),
    "generate": ("skip_tasks",),
    "filter": ("min_r_star", "min_self_consistency", "min_validity", "extremes"),
    "checkpoints": ("keep_best",),
    "sft": (
        "validation.every",
        "validation.fraction",
        "validation.patience",
        "optim.lr",
        "optim.min_lr",
        "optim.weight_decay",
        "optim.warmup_steps",
    ),
    "mine": ("skip_tasks",),
    "plan": ("reserve_gib", "server_reserve_gib", "asleep_gib", "decode_overhead_ms", "responses.sigma"),
}
GAP_KINDS = ("fp32", "bf16", "lagged")
# Other numbers: what one must be, in words and as a test. Null gets here only where a base has it.
RANGES: dict[str, tuple[Callable[[Any], bool], dict[str, tuple[str, ...]]]] = {
    "above 0": (
        lambda it: it > 0,
        {
            "rollout": ("kv_cache_gib",),
            "grpo": (
                "optim.eps",
                *(f"log_prob_gap.warn.{kind}" for kind in GAP_KINDS),
                *(f"log_prob_gap.stop.{kind}" for kind in GAP_KINDS),
            ),
            "sft": ("optim.eps",),
            "plan": ("refit_gb_s", "offload_gb_s", "responses.median"),
        },
    ),
    TEMPERATURE: (
        fits_temperature,
        {"rollout": ("temperature",), "grpo": ("validation.temperature",)},
    ),
    f"1 or more, or -1 for no limit, and at most {TOP_K_MOST}": (
        lambda it: 1 <= it <= TOP_K_MOST or it == -1,
        {"rollout": ("top_k",)},
    ),
    "above 0 and at most 1": (
        lambda it: 0 < it <= 1,
        {"rollout": ("top_p", "gpu_memory_utilization"), "plan": ("mfu", "bandwidth_share")},
    ),
    "from 0 to 1": (lambda it: 0 <= it <= 1, {"plan": ("responses.alike",)}),
    "a number above 0, or null": (
        lambda it: it > 0,
        {
            "rollout": ("straggler_timeout_s",),
            "plan": ("device_memory_gib", "host_memory_gib", "tflops", "bandwidth_gb_s"),
        },
    ),
    "a number from 0, or null": (lambda it: it >= 0, {"plan": ("disk_gib",)}),
    "a number above 1, or null": (
        lambda it: it > 1,
        {"model": ("rope.factor",), "grpo": ("clip_dual",)},
    ),
}
# Keys whose base is null or required and that hold text.
TEXT: dict[str, tuple[str, ...]] = {
    "model": ("hf_path", "megatron_path"),
    "cluster": ("trainer_python", "rollout_python"),
    "tracking": ("wandb_project", "mlflow_experiment", "mlflow_uri"),
    "plan": ("config",),
    "prepare": (
        "source",
        "model_package",
        *(
            f"columns.{name}"
            for name in (
                "prompt",
                "system",
                "chosen",
                "rejected",
                "a",
                "b",
                "label",
                "reference",
                "id",
                "source",
            )
        ),
    ),
    "generate": ("scorer.hf_path",),
    "evaluate": ("note",),
}


def check_values(cfg: DictConfig, refuse: Refuse) -> None:
    """Choices, and the least that numbers may be; blocks and keys that the recipe lacks are left out."""
    for key, known in {"stage": tuple(KINDS), **CHOICES}.items():
        value = OmegaConf.select(cfg, key, default=_ABSENT)
        if value is not _ABSENT and value not in known:
            names = [str(name) for name in known if name is not None]
            refuse(key, f'is "{value}"; it can be {", ".join(names)}{near(str(value), names)}')
    for key, value in _of(cfg, AT_LEAST_ONE):
        if value < 1:
            refuse(key, f"is {value}; it must be 1 or more")
    for key, value in _of(cfg, NOT_NEGATIVE):
        if value < 0:
            refuse(key, f"is {value}; it must be 0 or more")
    for key, value in _of(cfg, AT_LEAST_ONE_OR_NULL):
        if value is not None and (type(value) is not int or value < 1):
            refuse(key, f"is {value!r}; it must be a whole number from 1, or null")
    texts = [("name", cfg.name), ("runs_dir", cfg.runs_dir), *_of(cfg, TEXT)]
    for key, value in texts:
        if value is not None and not isinstance(value, str):
            refuse(key, f"is {value!r}; it must be text")
    for words, (fits, table) in RANGES.items():
        for key, value in _of(cfg, table):
            if value is not None and (type(value) not in (int, float) or not fits(value)):
                refuse(key, f"is {value!r}; it must be {words}")
    day = cfg.judge.date
    if day is not None and not _is_day(day):
        refuse("judge.date", f"is {day!r}; it must be a day as YYYY-MM-DD, or null")
    if not NAME.fullmatch(cfg.name):
        refuse("name", f'is "{cfg.name}"; names are made of letters, digits, "_", "-" and "."')
    for name, value in cfg.inputs.items():
        if value is not None and not isinstance(value, str):
            refuse(f"inputs.{name}", f"is {value!r}; it must be a path")
    if cfg.model.trust_remote_code:
        refuse("model.trust_remote_code", "is true; this project runs no code that comes with a checkpoint")


def may_be_null(key: str) -> bool:
    """Whether null is among the values of a whole number's key, even where its base has a number."""
    block, _, name = key.partition(".")
    return name in AT_LEAST_ONE_OR_NULL.get(block, ())


def _is_day(value: Any) -> bool:
    try:
        return date.fromisoformat(value).isoformat() == value
    except (TypeError, ValueError):
        return False


def _of(cfg: DictConfig, table: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, Any]]:
    for block, names in table.items():
        for key in (f"{block}.{name}" for name in names if block in cfg):
            yield key, OmegaConf.select(cfg, key)


_ABSENT = object()
