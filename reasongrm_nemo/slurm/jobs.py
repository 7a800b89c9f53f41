# SPDX-License-Identifier: Apache-2.0
"""The chain of Slurm jobs that launch/pipeline.sh submits for a folder of recipes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.processes.secret_values import is_secret
from reasongrm_nemo.recipe import load
from reasongrm_nemo.recipe.yaml_files import command_line
from reasongrm_nemo.run.converted import stands
from reasongrm_nemo.run.manifest import HashCache
from reasongrm_nemo.run.pipeline import assign, find_part, load_assigned, recipe_files
from reasongrm_nemo.run.stage import is_done
from reasongrm_nemo.stage_kinds import kind_of

_MEGATRON, _HF = "base_megatron", "reasongrm_hf"


@dataclass(frozen=True)
class Job:
    """One job of the chain.

    Attributes:
        name: the name of the job's artefact; jobs for shards have other names.
        template: launch/<template>.sbatch.
        done: the output exists and none of its inputs will be rebuilt.
        arguments: the template's arguments.
        array: the job's --array, for a job array with all or some of `shards` tasks.
        shards: number of shards in all.
        nodes: the job's --nodes; None: the template's.
    """

    name: str
    template: str
    done: bool
    arguments: Sequence[str] = field(default_factory=list)
    array: str | None = None
    shards: int = 1
    nodes: int | None = None


def pipeline_jobs(
    folder: Path, overrides: Sequence[str], shards: int, first: str | None, last: str | None, convert: bool
) -> dict[str, Any]:
    """The jobs from `first` to `last`, in order; each depends on the one before it.

    Args:
        folder: the folder of numbered recipes.
        overrides: as for `reasongrm pipeline`.
        shards: tasks of each job array.
        first: the first recipe to run; None: from the beginning.
        last: the last recipe to run; None: to the end.
        convert: convert the base model to a Megatron checkpoint before training, and the last checkpoint to a
            Hugging Face folder for evaluation.

    Returns:
        `runs_dir` and `jobs`, as plain data.

    Raises:
        UserError: a recipe is wrong.
    """
    files = recipe_files(folder)
    part = find_part(files, first, last)
    given = assign(files, overrides)
    recipes = load_assigned(given)
    runs_dir = Path(recipes[0].runs_dir).absolute()
    # the first training's initial model, from which others may start too
    base = next((cfg.model.hf_path for cfg in recipes if kind_of(cfg).on_policy), "")
    convert = convert and bool(base)
    cache = HashCache()
    jobs: list[Job] = []
    trained = [cfg.name for cfg in recipes if kind_of(cfg).on_policy]
    _refuse_secrets(word for words in given.values() for word in words)
    for path, cfg in list(zip(files, recipes, strict=True))[part]:
        words = given[path]
        begins = kind_of(cfg).trains and cfg.model.hf_path == base
        if convert and begins and cfg.model.megatron_path is None:
            source = load.resolve_path(base, runs_dir).absolute()
            target = runs_dir / _MEGATRON
            if all(job.name != _MEGATRON for job in jobs):
                arguments = [str(source), str(target), "--recipe", str(path)]
                jobs.append(Job(_MEGATRON, "convert_to_megatron", stands(target, source, cache), arguments))
            words = [*words, f"model.megatron_path=@{_MEGATRON}"]
        if convert and trained and "evaluate" in cfg and "final" in cfg.evaluate.models:
            source, target = runs_dir / trained[-1], runs_dir / _HF
            done = trained[-1] not in _to_be_made(jobs) and stands(target, source / "hf", cache)
            jobs.append(Job(_HF, "convert_to_hf", done, [str(source), str(target)]))
            words = [*words, f"evaluate.models.final=@{_HF}"]
        cfg = load.load_recipe(path, words)
        jobs += _stage_jobs(path, cfg, words, shards, bool(load.artefacts_read(cfg) & _to_be_made(jobs)))
    return {"runs_dir": str(runs_dir), "jobs": [asdict(job) for job in jobs]}


def _refuse_secrets(words: Iterable[str]) -> None:
    """Refuse secrets among the overrides: every user of the cluster can see the arguments of sbatch."""
    for word in words:
        for name, value in command_line([word]).variables().items():
            key = f"rollout.extra_env.{name}"
            if is_secret(name, value) and not str(value).startswith("${"):
                raise UserError(
                    f"{key} looks like a secret, and every user of the cluster can see a job's arguments: "
                    f"export the variable, and write {key}='${{oc.env:NAME}}' here or in the recipe"
                )


def as_lines(chain_of_jobs: Mapping[str, Any]) -> list[str]:
    """The result of `pipeline_jobs` for a shell: the runs folder, then a line of tab-separated words per job.

    Raises:
        UserError: an argument contains a tab or a newline.
    """
    for word in (word for job in chain_of_jobs["jobs"] for word in job["arguments"]):
        if "\t" in word or "\n" in word:
            raise UserError(
                f"{word!r} contains a tab or a newline, which no job can be given; set the key in the recipe"
            )
    lines = [chain_of_jobs["runs_dir"]]
    for job in chain_of_jobs["jobs"]:
        state = "done" if job["done"] else "todo"
        words = [job["name"], job["template"], state, job["array"] or "-", str(job["shards"])]
        words.append(str(job["nodes"] or "-"))
        lines.append("\t".join([*words, *job["arguments"]]))
    return lines


def _to_be_made(jobs: Iterable[Job]) -> set[str]:
    return {job.name for job in jobs if not job.done}


def _stage_jobs(
    path: Path, cfg: DictConfig, words: Sequence[str], shards: int, outdated: bool
) -> Iterable[Job]:
    """A stage's jobs; none is done if the stage is `outdated` because its inputs will be rebuilt."""
    arguments = [str(path), *words]
    kind = kind_of(cfg)
    template = path.stem.partition("_")[2] if kind.on_policy else cfg.stage
    done = not outdated and is_done(cfg)
    if not kind.sharded:
        rollout_nodes = cfg.rollout.nodes if kind.on_policy else 0
        nodes = cfg.cluster.nodes + rollout_nodes if kind.trains else None
        return [Job(cfg.name, template, done, arguments, nodes=nodes)]
    if shards == 1 or not load.has_key(path, f"{cfg.stage}.shard"):
        return [Job(cfg.name, template, done, arguments, "1")]
    names = [f"{path.stem}.{index}of{shards}" for index in range(1, shards + 1)]
    listed = ",".join(f'"@{name}"' for name in names)
    # the key of a merged artefact includes its shards
    merging = load.load_recipe(path, [*words, f"{cfg.stage}.shards=[{listed}]"])
    merged = done or (not outdated and is_done(merging))
    missing = [
        index
        for index, name in enumerate(names, 1)
        if not merged
        and (
            outdated or not _shard_done(path, [*words, f"name={name}"], f"{cfg.stage}.shard={index}/{shards}")
        )
    ]
    array = ",".join(map(str, missing)) or None
    return [
        Job(f"{cfg.name}.shards", template, not missing, arguments, array, shards),
        Job(cfg.name, "merge", merged, [cfg.stage, str(shards), *arguments]),
    ]


def _shard_done(path: Path, words: Sequence[str], shard: str) -> bool:
    return is_done(load.load_recipe(path, [*words, shard]))
