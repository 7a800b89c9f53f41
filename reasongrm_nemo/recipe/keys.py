# SPDX-License-Identifier: Apache-2.0
"""The range of each key by itself, and whether the key is part of an artefact's identity.

A key's type, default and the reason for it are in the bases under `recipes/base/`. A key that is not listed
here takes any value of its type and is part of the identity. Checks across keys are in `checks/`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Any

from reasongrm_nemo.judge.settings import TEMPERATURE, TOP_K_MOST, fits_temperature
from reasongrm_nemo.models.families import FAMILIES


@dataclass(frozen=True)
class Rule:
    """The values that a key may take.

    Attributes:
        words: completes the sentence "it must be ...".
        fits: whether a value of one of `types` is allowed.
        types: the exact types; null is also allowed if the key is null in its base.
        null: whether null is allowed even if the base has another value.
        choices: the allowed values, if they are enumerated.
    """

    words: str
    fits: Callable[[Any], bool] = lambda value: True
    types: tuple[type, ...] = (int, float)
    null: bool = False
    choices: tuple[str, ...] = ()

    def allows(self, value: Any) -> bool:
        """Whether the rule allows the value; null is always allowed here and checked against the base."""
        return value is None or (type(value) in self.types and self.fits(value))


@dataclass(frozen=True)
class Key:
    """A key's rule (None: any value of its type), and whether the key is part of an artefact's identity."""

    rule: Rule | None = None
    counts: bool = True


def _is_day(value: str) -> bool:
    try:
        return date.fromisoformat(value).isoformat() == value
    except ValueError:
        return False


def _one_of(*names: str) -> Key:
    return Key(Rule("", names.__contains__, (str,), choices=names))


def _fast(rule: Rule | None = None) -> Key:
    """A key that affects where and how fast a stage runs, but not its result."""
    return Key(rule, counts=False)


TEXT = Rule("text", types=(str,))
FROM_0, FROM_1 = Rule("0 or more", lambda it: it >= 0), Rule("1 or more", lambda it: it >= 1)
FROM_1_OR_NULL = Rule("a whole number from 1, or null", lambda it: it >= 1, (int,), null=True)
ABOVE_0 = Rule("above 0", lambda it: it > 0)
ABOVE_0_OR_NULL = Rule("a number above 0, or null", lambda it: it > 0)
FROM_0_OR_NULL = Rule("a number from 0, or null", lambda it: it >= 0)
ABOVE_1_OR_NULL = Rule("a number above 1, or null", lambda it: it > 1)
SHARE = Rule("from 0 to 1", lambda it: 0 <= it <= 1)
SOME_SHARE = Rule("above 0 and at most 1", lambda it: 0 < it <= 1)
BELOW_1 = Rule("from 0 to below 1", lambda it: 0 <= it < 1)
HEAT = Rule(TEMPERATURE, fits_temperature)
TOP_K = Rule(
    f"1 or more, or -1 for no limit, and at most {TOP_K_MOST}", lambda it: 1 <= it <= TOP_K_MOST or it == -1
)
DAY = Rule("a day as YYYY-MM-DD, or null", _is_day, (str,))

_COMMON = {
    "name": Key(TEXT),
    "runs_dir": Key(TEXT),
    "model.hf_path": _fast(TEXT),  # an input: its contents are hashed instead
    "model.megatron_path": Key(TEXT),
    "model.architecture": _one_of(*FAMILIES),
    "model.max_model_len": Key(FROM_1),
    "model.dtype": _one_of("fp32", "bf16"),
    "model.rope.type": _one_of("yarn", "linear"),
    "model.rope.factor": Key(ABOVE_1_OR_NULL),
    "model.rope.original_max_position_embeddings": Key(FROM_1_OR_NULL),
    "model.recompute": _fast(_one_of("none", "full").rule),
    "model.log_prob_chunk": _fast(FROM_1),
    "judge.max_prompt_tokens": Key(FROM_1),
    "judge.date": Key(DAY),
    "tracking.wandb_project": Key(TEXT),
    "tracking.mlflow_experiment": Key(TEXT),
    "tracking.mlflow_uri": Key(TEXT),
    "checkpoints.keep_best": Key(FROM_0),
}
_ROLLOUT = {
    "dtype": _one_of("fp32", "bf16"),
    "temperature": Key(HEAT),
    "top_p": Key(SOME_SHARE),
    "top_k": Key(TOP_K),
    "max_response_tokens": Key(FROM_1),
    "max_num_seqs": _fast(FROM_1),
    "kv_cache_gib": _fast(ABOVE_0),
    "enforce_eager": _fast(),
    "stall_timeout_s": _fast(FROM_1),
    "start_timeout_s": _fast(FROM_1),
    "concurrency": _fast(FROM_1),
    "servers": _fast(FROM_1),
    "nodes": _fast(FROM_0),
    "tensor_parallel": _fast(FROM_1),
    "gpus": _fast(),
    "gpu_memory_utilization": _fast(SOME_SHARE),
    "sleep": _fast(),
    "straggler_timeout_s": _fast(ABOVE_0_OR_NULL),
    "threads": _fast(FROM_1_OR_NULL),
    "port": _fast(FROM_1_OR_NULL),
    "extra_env": _fast(),
}
# The gradient does not depend on the parallel layout, so a run may resume with another one.
_CLUSTER = {
    "platform": _one_of("cpu", "gpu"),
    "launcher": _fast(_one_of("auto", "local", "slurm").rule),
    "nodes": _fast(FROM_1),
    "devices_per_node": _fast(FROM_1),
    "tensor_parallel": _fast(FROM_1),
    "pipeline_parallel": _fast(FROM_1),
    "layers_in_first_stage": _fast(FROM_1_OR_NULL),
    "layers_in_last_stage": _fast(FROM_1_OR_NULL),
    "sequence_parallel": _fast(),
    "weight_transfer": _fast(_one_of("gloo", "nccl", "ipc").rule),
    "offload_optimizer": _fast(),
    "threads_per_rank": _fast(FROM_1),
    "trainer_python": _fast(TEXT),
    "rollout_python": _fast(TEXT),
}
_PLAN = {
    "config": Key(TEXT),
    "device_memory_gib": Key(ABOVE_0_OR_NULL),
    "reserve_gib": Key(FROM_0),
    "server_reserve_gib": Key(FROM_0),
    "asleep_gib": Key(FROM_0),
    "host_memory_gib": Key(ABOVE_0_OR_NULL),
    "disk_gib": Key(FROM_0_OR_NULL),
    "tflops": Key(ABOVE_0_OR_NULL),
    "mfu": Key(SOME_SHARE),
    "bandwidth_gb_s": Key(ABOVE_0_OR_NULL),
    "bandwidth_share": Key(SOME_SHARE),
    "decode_overhead_ms": Key(FROM_0),
    "refit_gb_s": Key(ABOVE_0),
    "offload_gb_s": Key(ABOVE_0),
    "prompt_tokens": Key(FROM_1),
    "tasks": Key(FROM_1_OR_NULL),
    "responses.median": Key(ABOVE_0),
    "responses.sigma": Key(FROM_0),
    "responses.alike": Key(SHARE),
}
_COLUMNS = ("prompt", "system", "chosen", "rejected", "a", "b", "label", "reference", "id", "source")
_PREPARE = {
    "source": Key(TEXT),
    "kind": _one_of("pairs", "questions"),
    **{f"columns.{name}": Key(TEXT) for name in _COLUMNS},
    "max_chars": Key(FROM_1),
    "decontaminate_words": Key(FROM_1),
    "max_tasks": Key(FROM_1_OR_NULL),
    "validation_fraction": Key(BELOW_1),
    "max_validation": Key(FROM_1_OR_NULL),
    "model_package": Key(TEXT),
    "tiny_judge.train": Key(FROM_0),
    "tiny_judge.validation": Key(FROM_0),
}
_TRAINING = {
    "max_tokens_per_micro_batch": _fast(FROM_1),
    "optim.lr": Key(FROM_0),
    "optim.eps": Key(ABOVE_0),
    "optim.weight_decay": Key(FROM_0),
    "optim.warmup_steps": Key(FROM_0),
    "optim.schedule": _one_of("constant", "cosine"),
    "optim.min_lr": Key(FROM_0),
    "validation.every": Key(FROM_0),
    "validation.patience": Key(FROM_0),
    "validation.export": _one_of("last", "best"),
    "save_every": _fast(FROM_1),
    "keep_checkpoints": _fast(FROM_1),
}
_GRPO = {
    **_TRAINING,
    "steps": Key(FROM_1_OR_NULL),
    "epochs": Key(FROM_1_OR_NULL),
    "prompts_per_step": Key(FROM_1),
    "global_batch": Key(FROM_1_OR_NULL),
    "optimizer_steps": Key(FROM_1),
    "max_lag": Key(FROM_0),
    "skip_tasks": Key(FROM_0),
    "max_tasks": Key(FROM_1_OR_NULL),
    "clip_low": Key(BELOW_1),
    "clip_high": Key(FROM_0),
    "clip_dual": Key(ABOVE_1_OR_NULL),
    "loss_aggregation": _one_of("token", "sequence", "constant"),
    "kl_coefficient": Key(FROM_0),
    "kl_in": _one_of("loss", "reward"),
    "kl_estimator": _one_of("k1", "k2", "k3"),
    "entropy_coefficient": Key(FROM_0),
    "importance.correction": _one_of("none", "truncated", "masked"),
    "importance.low": Key(FROM_0),
    # a run that a gap stopped may resume with a higher limit
    **{
        f"log_prob_gap.{act}.{kind}": _fast(ABOVE_0)
        for act in ("warn", "stop")
        for kind in ("fp32", "bf16", "lagged")
    },
    "overlong.buffer": Key(FROM_0),
    "overlong.penalty": Key(FROM_0),
    "refill_rounds": Key(FROM_0),
    "advantage.baseline": _one_of("mean", "leave_one_out"),
    "advantage.eps": Key(FROM_0),
    "validation.max_tasks": Key(FROM_1_OR_NULL),
    "validation.samples": Key(FROM_1),
    "validation.temperature": Key(HEAT),
}
_SFT = {**_TRAINING, "epochs": Key(FROM_1), "batch_size": Key(FROM_1), "validation.fraction": Key(FROM_0)}
_ASKING = {"samples": Key(FROM_1), "skip_tasks": Key(FROM_0), "max_tasks": Key(FROM_1_OR_NULL)}
_FILTER = {
    "strategy": _one_of("r_star", "random", "shortest", "all"),
    "top_k": Key(FROM_1),
    "min_r_star": Key(SHARE),
    "min_self_consistency": Key(SHARE),
    "min_validity": Key(SHARE),
    "extremes": Key(FROM_0),
}
_EVALUATE = {
    "max_tasks": Key(FROM_1_OR_NULL),
    "max_items": Key(FROM_1_OR_NULL),
    "policy": _one_of("paper", "last", "strict_last", "rm_r1", "rewardbench"),
    "path_modes": _one_of("tiny_judge"),
    "note": Key(TEXT),
}
_BLOCKS = {
    "rollout": _ROLLOUT,
    "cluster": _CLUSTER,
    "plan": _PLAN,
    "prepare": _PREPARE,
    "grpo": _GRPO,
    "generate": {**_ASKING, "scorer.hf_path": Key(TEXT)},
    "filter": _FILTER,
    "sft": _SFT,
    "mine": {**_ASKING, "max_per_source": Key(FROM_1_OR_NULL)},
    "evaluate": _EVALUATE,
}
KEYS: dict[str, Key] = _COMMON | {
    f"{block}.{name}": key for block, keys in _BLOCKS.items() for name, key in keys.items()
}
_FAST = tuple(name for name, key in KEYS.items() if not key.counts)


def may_be_null(key: str) -> bool:
    """Whether a key allows null even though its base has a number."""
    rule = KEYS.get(key, Key()).rule
    return rule is not None and rule.null


def counts(key: str) -> bool:
    """Whether a dotted key affects the result, not only where and how fast the stage runs."""
    return not any(key == name or key.startswith(f"{name}.") for name in _FAST)
