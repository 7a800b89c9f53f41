# SPDX-License-Identifier: Apache-2.0
"""Checks across a recipe's keys, made before anything heavy starts. Each refusal names the key."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from reasongrm_nemo import rope
from reasongrm_nemo.architecture import Architecture, Layout
from reasongrm_nemo.checks_training import check_grpo, check_long_run
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.placement import servers_per_node

STAGES = ("prepare", "grpo", "generate", "filter", "sft", "mine", "evaluate")
GENERATED_SOURCES = ("tiny_judge",)
CHOICES: dict[str, tuple[str | None, ...]] = {
    "stage": STAGES,
    "model.architecture": (None, "qwen2", "qwen3", "llama"),
    "model.rope.type": (None, "yarn", "linear"),
    "model.dtype": ("fp32", "bf16"),
    "model.recompute": ("none", "full"),
    "judge.policy": ("strict_last", "rm_r1", "rewardbench"),
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
    "evaluate.policy": ("paper", "rm_r1", "rewardbench"),
}
# Whole numbers from 1, by block; a block that the recipe lacks is left out.
AT_LEAST_ONE: dict[str, tuple[str, ...]] = {
    "prepare": ("max_chars", "decontaminate_words"),
    "model": ("max_model_len", "log_prob_chunk"),
    "judge": ("max_prompt_tokens",),
    "rollout": ("max_response_tokens", "max_num_seqs", "concurrency", "servers", "tensor_parallel"),
    "cluster": ("nodes", "devices_per_node", "tensor_parallel", "pipeline_parallel", "threads_per_rank"),
    "grpo": (
        "steps",
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
    "grpo": ("max_tasks", "global_batch", "validation.max_tasks"),
    "generate": ("max_tasks",),
    "mine": ("max_tasks", "max_per_source"),
    "evaluate": ("max_tasks", "max_items"),
}
NOT_NEGATIVE: dict[str, tuple[str, ...]] = {
    "rollout": ("temperature", "nodes"),
    "prepare": ("tiny_judge.train", "tiny_judge.validation", "validation_fraction"),
    "grpo": (
        "skip_tasks",
        "clip_low",
        "clip_high",
        "kl_coefficient",
        "entropy_coefficient",
        "importance.low",
        "overlong.buffer",
        "overlong.penalty",
        "refill_rounds",
        "max_lag",
        "validation.every",
        "validation.temperature",
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
}


def made_or_fetched(source: str) -> bool:
    """Whether `prepare.source` is no path: generated, or a data set's name on a hub."""
    return source in GENERATED_SOURCES or source.startswith("hf://")


def near(name: str, known: Iterable[str]) -> str:
    """' (did you mean "x"?)' for the nearest known name, or nothing."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f' (did you mean "{match[0]}"?)' if match else ""


def _of(cfg: DictConfig, table: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, Any]]:
    for block, names in table.items():
        for key in (f"{block}.{name}" for name in names if block in cfg):
            yield key, OmegaConf.select(cfg, key)


def check_recipe(cfg: DictConfig, recipe: str, origin: Mapping[str, str]) -> None:
    """Everything that can be known from the recipe alone.

    Args:
        cfg: the resolved recipe.
        recipe: its path, for the message.
        origin: dotted key -> "file:line" of where its value was set last.

    Raises:
        UserError: the first thing found wrong.
    """

    def refuse(key: str, why: str) -> None:
        raise UserError(f"{origin.get(key, recipe)}: {key} {why}")

    for key, known in CHOICES.items():
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
    if not _NAME.fullmatch(cfg.name):
        refuse("name", f'is "{cfg.name}"; names are made of letters, digits, "_", "-" and "."')
    for name, value in cfg.inputs.items():
        if value is not None and not isinstance(value, str):
            refuse(f"inputs.{name}", f"is {value!r}; it must be a path")
    if not 0 < cfg.rollout.top_p <= 1:
        refuse("rollout.top_p", f"is {cfg.rollout.top_p}; it must be above 0 and at most 1")
    if cfg.model.trust_remote_code:
        refuse("model.trust_remote_code", "is true; this project runs no code that comes with a checkpoint")

    room = cfg.judge.max_prompt_tokens + cfg.rollout.max_response_tokens
    if cfg.stage in ("grpo", "generate", "mine", "evaluate") and room > cfg.model.max_model_len:
        refuse(
            "model.max_model_len",
            f"is {cfg.model.max_model_len}, less than "
            f"judge.max_prompt_tokens {cfg.judge.max_prompt_tokens} + "
            f"rollout.max_response_tokens {cfg.rollout.max_response_tokens} = {room}",
        )
    _check_rope(cfg.model, refuse)
    cluster = cfg.cluster
    world = cluster.nodes * cluster.devices_per_node
    parallel = cluster.tensor_parallel * cluster.pipeline_parallel
    if world % parallel:
        refuse(
            "cluster.tensor_parallel",
            f"{cluster.tensor_parallel} × cluster.pipeline_parallel {cluster.pipeline_parallel} does not "
            f"divide the {world} devices "
            f"(cluster.nodes {cluster.nodes} × cluster.devices_per_node {cluster.devices_per_node})",
        )
    if cluster.sequence_parallel and cluster.tensor_parallel == 1:
        refuse(
            "cluster.sequence_parallel", "is true with cluster.tensor_parallel 1; it needs tensor parallelism"
        )
    if cluster.platform == "cpu" and cluster.weight_transfer != "gloo":
        refuse(
            "cluster.weight_transfer",
            f"is {cluster.weight_transfer} on cluster.platform cpu; only gloo works there",
        )
    if cfg.stage in ("grpo", "sft"):
        check_long_run(cfg, refuse)
    _check_servers(cfg, refuse)
    if cluster.platform == "cpu" and cluster.offload_optimizer:
        refuse("cluster.offload_optimizer", "is true on cluster.platform cpu; only a GPU's memory needs it")
    if cluster.platform == "gpu" and cfg.stage in ("grpo", "sft") and cfg.model.dtype != "bf16":
        refuse(
            "model.dtype",
            f"is {cfg.model.dtype} on cluster.platform gpu; its optimizer trains bf16 weights from fp32 ones",
        )
    if "grpo" in cfg:
        check_grpo(cfg, refuse, world // parallel)
    if cfg.stage == "sft" and cfg.sft.max_tokens_per_micro_batch < cfg.model.max_model_len:
        refuse(
            "sft.max_tokens_per_micro_batch",
            f"is {cfg.sft.max_tokens_per_micro_batch}, less than "
            f"model.max_model_len {cfg.model.max_model_len}: one full sequence must fit",
        )
    if cfg.stage == "prepare" and cfg.prepare.model_package and cfg.model.hf_path:
        refuse(
            "model.hf_path",
            "is given beside prepare.model_package; the package's model is the one measured: set one",
        )
    if cfg.stage == "prepare" and cfg.prepare.kind == "questions" and cfg.prepare.source in GENERATED_SOURCES:
        refuse("prepare.kind", f"is questions, and prepare.source {cfg.prepare.source} makes pairs")
    if cfg.stage == "prepare" and not all(isinstance(path, str) for path in cfg.prepare.decontaminate):
        refuse("prepare.decontaminate", f"is {list(cfg.prepare.decontaminate)}; it must be a list of paths")
    if cfg.stage == "prepare" and not 0 <= cfg.prepare.validation_fraction < 1:
        refuse(
            "prepare.validation_fraction",
            f"is {cfg.prepare.validation_fraction}; it must be from 0 to below 1",
        )
    if cfg.stage in ("generate", "mine", "evaluate"):
        _check_shards(cfg.stage, cfg[cfg.stage], refuse)
    if cfg.stage == "mine":
        for band in cfg.mine.bands:
            numbers = [*band] if isinstance(band, ListConfig) else []
            real = all(isinstance(each, (int, float)) for each in numbers)
            if len(numbers) != 2 or not real or not 0 <= numbers[0] <= numbers[1] <= 1:
                refuse("mine.bands", f"has the band {band}; each is [low, high] with 0 <= low <= high <= 1")
    if cfg.stage == "filter":
        for name in ("min_r_star", "min_self_consistency", "min_validity"):
            if cfg.filter[name] > 1:
                refuse(f"filter.{name}", f"is {cfg.filter[name]}; it must be from 0 to 1")
    if cfg.stage == "evaluate":
        _check_evaluate(cfg, refuse)
    if cfg.stage in ("grpo", "generate") and cfg.rollout.temperature == 0:
        refuse("rollout.temperature", f"is 0; {cfg.stage} needs samples that differ")


def _check_servers(cfg: DictConfig, refuse: Any) -> None:
    own, cluster = cfg.rollout, cfg.cluster
    if own.sleep and cluster.platform == "cpu":
        refuse("rollout.sleep", "is true on cluster.platform cpu; vLLM's sleep mode exists on GPUs alone")
    if not 0 < own.gpu_memory_utilization <= 1:
        refuse(
            "rollout.gpu_memory_utilization",
            f"is {own.gpu_memory_utilization}; it must be above 0 and at most 1",
        )
    limit = own.straggler_timeout_s
    if limit is not None and (isinstance(limit, (bool, str)) or limit <= 0):
        refuse("rollout.straggler_timeout_s", f"is {limit!r}; it must be above 0, or null")
    on_a_node = servers_per_node(cfg)
    wanted = on_a_node * own.tensor_parallel
    if own.gpus and len(set(own.gpus)) != wanted:
        nodes = own.nodes or cluster.nodes
        on = f", on {nodes} nodes {on_a_node} each," if nodes > 1 else ""
        refuse(
            "rollout.gpus",
            f"names {len(set(own.gpus))} different GPUs; rollout.servers {own.servers}{on} × "
            f"rollout.tensor_parallel {own.tensor_parallel} needs {wanted}",
        )
    if own.nodes and cluster.launcher == "local":
        refuse(
            "rollout.nodes", f"is {own.nodes} with cluster.launcher local; only a Slurm job has other nodes"
        )
    if own.nodes and own.servers < own.nodes:
        refuse(
            "rollout.nodes", f"is {own.nodes}, more than the rollout.servers {own.servers}: some would idle"
        )
    if own.nodes and cluster.weight_transfer == "ipc":
        refuse(
            "rollout.nodes",
            f"is {own.nodes}, and cluster.weight_transfer ipc needs trainer and server on one GPU; take nccl",
        )
    if own.nodes:
        return
    if cfg.stage != "grpo" or cluster.platform == "cpu" or cluster.weight_transfer == "gloo":
        return
    trained = set(range(cluster.devices_per_node))  # the GPUs of the trainer's ranks
    served = set(own.gpus or range(wanted))
    if cluster.weight_transfer == "nccl" and served & trained:
        refuse(
            "cluster.weight_transfer",
            f"is nccl, and GPUs {_listed(served & trained)} would hold a trainer's rank and a server's "
            "worker, which NCCL refuses; give the servers others by rollout.gpus, or take ipc",
        )
    if cluster.weight_transfer == "ipc" and served - trained:
        refuse(
            "cluster.weight_transfer",
            f"is ipc, and GPUs {_listed(served - trained)} of the servers have no trainer's rank "
            f"(cluster.devices_per_node {cluster.devices_per_node}); take nccl, or others by rollout.gpus",
        )


def _check_shards(stage: str, own: DictConfig, refuse: Any) -> None:
    if own.shard is not None and not SHARD.fullmatch(str(own.shard)):
        refuse(f"{stage}.shard", f"is {own.shard!r}; it must be i/n, such as 3/7, or null")
    if own.shard is not None:
        index, count = map(int, own.shard.split("/"))
        if not 1 <= index <= count:
            refuse(f"{stage}.shard", f"is {own.shard}; shards are counted from 1/{count} to {count}/{count}")
        if own.shards:
            refuse(
                f"{stage}.shards", f"is given beside {stage}.shard; shards are put together in a run apart"
            )
    if not all(isinstance(path, str) for path in own.shards):
        refuse(f"{stage}.shards", f"is {list(own.shards)}; it must be a list of paths")


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(numbers)))


def _check_rope(model: DictConfig, refuse: Any) -> None:
    own = model.rope
    if own.type is None:
        return
    for key in ("factor", "original_max_position_embeddings"):
        if own[key] is None:
            refuse(f"model.rope.{key}", f"is null; model.rope.type {own.type} needs it")
    if own.factor <= 1:
        refuse("model.rope.factor", f"is {own.factor}; it must be above 1")
    reach = round(own.factor * own.original_max_position_embeddings)
    if model.max_model_len > reach:
        refuse(
            "model.max_model_len",
            f"is {model.max_model_len}, past the {reach} positions that model.rope gives "
            f"(its factor {own.factor} × {own.original_max_position_embeddings})",
        )


def _check_evaluate(cfg: DictConfig, refuse: Any) -> None:
    own = cfg.evaluate
    if all(path is None for path in cfg.inputs.values()):
        refuse("inputs", f"has nothing to judge; give at least one of {', '.join(cfg.inputs)}")
    if not own.models:
        refuse("evaluate.models", "is empty; name at least one model, such as base: ${model.hf_path}")
    for key, what in (("models", "a Hugging Face folder"), ("logs", "a folder of verdict logs")):
        for name, path in own[key].items():
            if not _NAME.fullmatch(str(name)):
                refuse(
                    f"evaluate.{key}",
                    f'has the name "{name}"; names are made of letters, digits, "_", "-" and "."',
                )
            if not isinstance(path, str):
                refuse(f"evaluate.{key}.{name}", f"is {path!r}; it must be the path of {what}")
    if taken := own.models.keys() & own.logs.keys():
        refuse("evaluate.logs", f"has the name {min(taken)} of evaluate.models too; rows need other names")
    for i, setting in enumerate(own.settings):
        if setting.samples < 1 or setting.temperature < 0:
            refuse(f"evaluate.settings[{i}]", "needs samples of 1 or more and a temperature of 0 or more")
    temperatures = [setting.temperature for setting in own.settings]
    if not temperatures or len(set(temperatures)) < len(temperatures):
        refuse(
            "evaluate.settings",
            f"has the temperatures {temperatures}; it needs at least one, and no two alike",
        )


def check_model(cfg: DictConfig, hf_config: Mapping[str, Any], where: str) -> None:
    """What a checkpoint's config.json must agree with, known once the checkpoint is there.

    Args:
        cfg: the recipe.
        hf_config: the parsed config.json.
        where: its path, for the message.

    Raises:
        UserError: naming the recipe's key and the checkpoint's figure.
    """
    architecture = hf_config.get("model_type")
    if cfg.model.architecture is not None and architecture != cfg.model.architecture:
        raise UserError(f"model.architecture is {cfg.model.architecture}, but {where} says {architecture}")
    stated = {**hf_config, **rope.overrides(hf_config, cfg.model.rope)}
    limit = stated.get("max_position_embeddings", 0)
    if limit and cfg.model.max_model_len > limit:
        raise UserError(
            f"model.max_model_len is {cfg.model.max_model_len}, past "
            f"max_position_embeddings {limit} of {where} (model.rope can extend it)"
        )
    heads = hf_config.get("num_attention_heads", 0)
    kv_heads, ffn = hf_config.get("num_key_value_heads") or heads, hf_config.get("intermediate_size", 0)
    layout = Layout.of_cluster(cfg.cluster)
    if name := layout.undivided(heads, kv_heads, ffn):
        raise UserError(
            f"cluster.tensor_parallel is {layout.tensor}, which does not divide {name} of {where}"
        )
    if layout.stages(hf_config.get("num_hidden_layers", 0)) is None:
        raise UserError(
            f"cluster.pipeline_parallel is {layout.pipeline}, which does not divide "
            f"num_hidden_layers {hf_config.get('num_hidden_layers')} of {where}"
        )
    # what is only served may be any model that vLLM knows
    if cfg.stage in ("grpo", "sft"):
        Architecture.from_config(hf_config, where, cfg.model.rope)


_ABSENT = object()
_NAME = re.compile(r"\w[\w.-]*")
SHARD = re.compile(r"\d{1,6}/\d{1,6}")
