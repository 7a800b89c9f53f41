# SPDX-License-Identifier: Apache-2.0
"""Samples n reasoning paths per task from a served model, for generate, mine and evaluate.

Paths are written as they arrive, and a killed stage resumes with the unfinished tasks.

Seeds depend only on the task. The merged files of all shards (`merge_paths`) are therefore identical, byte
for byte, to the file of an unsharded run.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, cast

from msgspec.structs import replace
from omegaconf import DictConfig

from reasongrm_nemo.data import (
    JsonlAppender,
    ReasoningPath,
    SampledPath,
    derive_seed,
    read_jsonl,
    write_jsonl,
)
from reasongrm_nemo.data.jsonl import encode
from reasongrm_nemo.data.token_probs import TokenProbs, merge_token_probs, unpack, write_token_probs
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.lines import open_packed, parse_line
from reasongrm_nemo.files.writes import sync_directory
from reasongrm_nemo.judge import JudgeSampling, begun_by
from reasongrm_nemo.judge.open_answers import Equivalence, exact
from reasongrm_nemo.models.tokenization import (
    JudgeTokenizer,
    MessagesRefused,
    load_tokenizer,
    prompt_ids,
    stop_token_ids,
)
from reasongrm_nemo.rollout import Prompt, Sampling
from reasongrm_nemo.rollout.completion_to_path import reasoning_path
from reasongrm_nemo.rollout.reading import CompletionReader
from reasongrm_nemo.run.stage import StageContext
from reasongrm_nemo.stages.tasks import T, Task, take_shard

REFUSED_TURNS = "task whose turns the chat template refuses"
PROBS = "probs.parquet"
"""Name of the file of token probabilities in the folder of a file of paths."""

# A sample's seed is its prompt's seed plus its index, and must stay below 2**31.
_SEEDS = 2**31 - 2**16


@dataclass(frozen=True)
class Ask:
    """The model to sample from, and how.

    Attributes:
        model_dir: Hugging Face folder.
        model: the model's name in the records.
        samples: number of paths per task.
        policy: policy for parsing verdicts.
        response_prefix: forced beginning of the response.
        sampling: sampling options.
        purpose: word that enters the seeds; the same purpose gives the same samples.
        label: label of the progress bar.
        keep_token_ids: keep token ids in the records.
        keep_probs: write every token's probability to the file `PROBS`.
        equivalent: returns whether an open answer is equivalent to its reference.
    """

    model_dir: Path
    model: str
    samples: int
    policy: str
    response_prefix: str
    sampling: JudgeSampling
    purpose: str
    label: str
    keep_token_ids: bool = False
    keep_probs: bool = False
    equivalent: Equivalence = exact


def rollout_sampling(cfg: DictConfig) -> JudgeSampling:
    """Sampling options of generate and mine, from the recipe's `rollout` block."""
    return JudgeSampling(cfg.rollout.temperature, cfg.rollout.top_p, cfg.rollout.top_k)


def sample_paths(
    ctx: StageContext,
    tasks: Sequence[T],
    ask: Ask,
    out: Path,
    shard: str | None = None,
    shards: Sequence[Path] = (),
) -> list[T]:
    """Write the paths of all tasks to `out`, in task order, and return the tasks that were sampled.

    Paths are appended to a partial file and synced as they arrive; a killed stage resumes with the tasks that
    are incomplete in that file. Tasks whose prompt is too long are dropped and counted.

    Args:
        ctx: the stage.
        tasks: all tasks.
        ask: the model and its sampling.
        out: the file to write.
        shard: "i/n": sample only the tasks of this shard; `out` is empty if the shard is.
        shards: files written by the shards of the same ask, to merge instead of sampling.

    Raises:
        UserError: every prompt is too long, or the shards are incomplete or overlap.
        RolloutServerLost: the server was lost twice.
    """
    cfg = ctx.cfg
    mine = take_shard(tasks, shard)
    tokenizer = load_tokenizer(ask.model_dir, cfg.judge.date)
    prompts = _prompts(ctx, mine, tokenizer, ask.response_prefix)
    kept = [task for task in mine if task.id in prompts]
    aside = out.with_name(out.name + ".partial")
    if out.exists():
        aside.unlink(missing_ok=True)  # the stage may have been killed before removing this file
        return kept
    order = {task.id: i for i, task in enumerate(kept)}
    if shards:
        merge_paths(shards, out, order, ask.samples, ask.keep_probs)
        ctx.whole(*written(out, ask.keep_probs))
        return kept
    finished = _finished(aside, ask.samples)
    waiting = [task for task in kept if task.id not in finished]
    if waiting:
        _sample(ctx, kept, waiting, prompts, tokenizer, ask, aside)
    if not aside.exists():
        aside.touch()  # an empty shard
    put_in_order([aside], out, order, ask.keep_probs)
    ctx.whole(*written(out, ask.keep_probs))
    aside.unlink()
    return kept


def _prompts(
    ctx: StageContext, tasks: Sequence[Task], tokenizer: JudgeTokenizer, prefix: str
) -> dict[str, list[int]]:
    """Prompt tokens by task id; drops tasks that are too long or that the chat template refuses."""
    prompts: dict[str, list[int]] = {}
    refused, words, limit = 0, "", ctx.cfg.judge.max_prompt_tokens
    for task in tasks:
        try:
            ids = prompt_ids(tokenizer, task.messages, prefix)
        except MessagesRefused as refusal:
            refused, words = refused + 1, str(refusal)
            ctx.log.info("task %s is left out: %s", task.id, refusal)
            continue
        if len(ids) <= limit:
            prompts[task.id] = ids
    ctx.drop(REFUSED_TURNS, refused)
    ctx.drop("prompt longer than judge.max_prompt_tokens", len(tasks) - refused - len(prompts))
    if tasks and not prompts:
        if refused:
            raise UserError(f"none of the {len(tasks)} tasks can be put into a prompt: {words}")
        raise UserError(f"all {len(tasks)} prompts are longer than judge.max_prompt_tokens {limit}")
    return prompts


def shard_files(ctx: StageContext) -> list[Path]:
    """The paths.jsonl files of the recipe's `shards`; empty if the stage samples."""
    listed = ctx.cfg[ctx.cfg.stage].shards
    paths = [ctx.inputs[f"shards.{index}"] for index in range(len(listed))]
    return [path / "paths.jsonl" if path.is_dir() else path for path in paths]


def merge_paths(
    shards: Sequence[Path], out: Path, order: Mapping[str, int], samples: int, keep_probs: bool = False
) -> None:
    """Merge the files of shards to `out`, in task order.

    Args:
        shards: paths.jsonl files of the shards, in any order.
        out: the file to write.
        order: task id -> position, for every task that must be present.
        samples: number of paths per task.
        keep_probs: also merge the files of token probabilities.

    Raises:
        UserError: a path occurs twice, belongs to no task, or is missing.
    """
    seen: dict[str, set[int]] = {task: set() for task in order}
    for file in shards:
        for record in read_jsonl(file, ReasoningPath):
            samples_seen = seen.get(record.task_id)
            if samples_seen is None:
                raise UserError(f"{file} has a path of task {record.task_id}, which is not in this recipe")
            if record.sample in samples_seen or record.sample >= samples:
                raise UserError(
                    f"{file}: sample {record.sample} of task {record.task_id} occurs twice or exceeds the "
                    f"{samples} samples of the recipe; list every shard of one run once"
                )
            samples_seen.add(record.sample)
    missing = [task for task, samples_seen in seen.items() if len(samples_seen) < samples]
    if missing:
        raise UserError(
            f"the shards lack paths of {len(missing)} of {len(seen)} tasks, e.g. {missing[0]}; run the "
            "missing shards and list them too"
        )
    if keep_probs:
        merge_token_probs([file.with_name(PROBS) for file in shards], out.with_name(PROBS), order)
    put_in_order(shards, out, order)


def _sample(
    ctx: StageContext,
    kept: Sequence[Task],
    waiting: Sequence[Task],
    prompts: Mapping[str, list[int]],
    tokenizer: JudgeTokenizer,
    ask: Ask,
    aside: Path,
) -> None:
    cfg = ctx.cfg
    sampling = Sampling(
        n=ask.samples,
        max_tokens=cfg.rollout.max_response_tokens,
        **asdict(ask.sampling),
        stop_token_ids=tuple(stop_token_ids(tokenizer, ask.model_dir)),
    )
    begun = begun_by(tokenizer.opening + ask.response_prefix)
    reader = CompletionReader(tokenizer, ask.policy, bool(begun), ask.equivalent)
    by_id = {task.id: task for task in waiting}
    asked = [
        Prompt(task.id, prompts[task.id], derive_seed(cfg.seed, ask.purpose, task.id) % _SEEDS)
        for task in waiting
    ]
    rollouts = ctx.rollouts(ask.model_dir)
    started, tokens, right, count = time.monotonic(), 0, 0, 0
    progress = ctx.console.progress(ask.label, len(kept), "task", done=len(kept) - len(waiting))
    with JsonlAppender(aside) as file, progress:
        for answer in rollouts.stream(asked, sampling):
            task = by_id[answer[0].prompt_id]
            paths = [
                reasoning_path(
                    completion,
                    task,
                    tokenizer,
                    reader,
                    ask.model,
                    ask.keep_token_ids,
                    ask.keep_probs,
                    begun,
                    tokenizer.digest,
                )
                for completion in answer
            ]
            file.append(paths)
            tokens += sum(len(completion.token_ids) for completion in answer)
            right += sum(path.correct for path in paths)
            count += len(paths)
            ctx.stop_if_asked()
            pace = tokens / max(time.monotonic() - started, 1e-9)
            progress.advance(right=right / count, response_tokens=tokens / count, tokens_per_second=pace)
    ctx.log.info("%s: %d paths, %d tokens, %.1f s", ask.label, count, tokens, time.monotonic() - started)


def _finished(path: Path, samples: int) -> set[str]:
    """Return the complete tasks of a partial file, and remove all other tasks from the file."""
    if not path.exists():
        return set()
    JsonlAppender(path).close()  # drops a truncated last line
    counts = Counter(record.task_id for record in read_jsonl(path, SampledPath))
    whole = {task for task, count in counts.items() if count == samples}
    if len(whole) < len(counts):
        write_jsonl(path, (record for record in read_jsonl(path, SampledPath) if record.task_id in whole))
    return whole


def put_in_order(
    files: Sequence[Path], out: Path, order: Mapping[str, int], keep_probs: bool = False
) -> None:
    """Copy records sorted by (task, sample), independent of their order of arrival; texts stay on disk.

    Args:
        files: files of `ReasoningPath` or `SampledPath`, in any format that `read_jsonl` reads.
        out: file of `ReasoningPath` to write; written last.
        order: task id -> position; records of other tasks are left out.
        keep_probs: write the records' probabilities to the file `PROBS`.
    """
    places: list[tuple[int, int, int, int, int]] = []
    with ExitStack() as stack:
        sources = [stack.enter_context(_to_look_up(file, out.parent)) for file in files]
        for number, source in enumerate(sources):
            offset = 0
            for line in source:
                record = parse_line(line) if line.strip() else {}
                if record.get("task_id") in order:
                    places.append((order[record["task_id"]], record["sample"], number, offset, len(line)))
                offset += len(line)
        places.sort()

        def lines() -> Iterator[bytes]:
            for _, _, number, start, length in places:
                sources[number].seek(start)
                # strip a byte order mark, and add a missing line feed at the end of a file
                yield sources[number].read(length).removeprefix(BOM_UTF8).strip() + b"\n"

        if keep_probs:
            write_token_probs(out.with_name(PROBS), (_token_probs(line) for line in lines()))
        sorted_file = out.with_name(out.name + ".tmp")
        with sorted_file.open("wb") as target:
            for line in lines():
                target.write(_without_probs(line) if keep_probs else line)
            target.flush()
            os.fsync(target.fileno())
    os.replace(sorted_file, out)
    sync_directory(out.parent)


def written(out: Path, keep_probs: bool) -> list[Path]:
    """The files that `put_in_order` writes."""
    return [out, out.with_name(PROBS)] if keep_probs else [out]


def _to_look_up(file: Path, beside: Path) -> BinaryIO:
    """Open a file for seeking; unpack a compressed one to an unnamed temporary file in `beside`."""
    if file.suffix not in (".gz", ".zst"):
        return file.open("rb")
    plain = cast(BinaryIO, tempfile.TemporaryFile(dir=beside))  # noqa: SIM115 - the caller closes it
    with open_packed(file) as packed:
        shutil.copyfileobj(packed, plain, 1 << 20)
    plain.seek(0)
    return plain


def _token_probs(line: bytes) -> TokenProbs:
    path = SampledPath.from_dict(parse_line(line))
    probs = unpack(path.probs or "")
    cut = path.reasoning_tokens
    return TokenProbs(path.task_id, path.sample, probs[:cut], probs[cut:])


def _without_probs(line: bytes) -> bytes:
    return encode(replace(SampledPath.from_dict(parse_line(line)), probs=None))
