# SPDX-License-Identifier: Apache-2.0
"""n reasoning paths a task from a served model, written as they arrive, resumed by task.

What generate, mine and evaluate have in common.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reasongrm_nemo.data import JsonlAppender, JudgeTask, ReasoningPath, derive_seed, read_jsonl, write_jsonl
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files import sync_directory
from reasongrm_nemo.rollout import Prompt, Sampling
from reasongrm_nemo.rollout.to_path import reasoning_path
from reasongrm_nemo.stages.context import StageContext
from reasongrm_nemo.tokenization import JudgeTokenizer, load_tokenizer, prompt_ids, stop_token_ids

# A sample's seed is its prompt's plus its number; the room above is for the number.
_SEEDS = 2**31 - 2**16


@dataclass(frozen=True)
class Ask:
    """What is asked of which model.

    Attributes:
        model_dir: Hugging Face folder.
        model: its name in the records.
        samples: paths a task.
        temperature: 0 is greedy.
        purpose: what the seeds are derived for; two asks of one purpose draw the same.
        label: shown beside the progress.
        keep_token_ids: put the tokens into the records.
    """

    model_dir: Path
    model: str
    samples: int
    temperature: float
    purpose: str
    label: str
    keep_token_ids: bool = False


def sample_paths(ctx: StageContext, tasks: Sequence[JudgeTask], ask: Ask, out: Path) -> list[JudgeTask]:
    """Write the paths of all tasks to `out`, in the tasks' order, and return the tasks that were asked.

    Paths are appended, and synced, as they arrive, to a file beside `out`; a stage that was killed goes on
    with the tasks that are not whole in it. Tasks whose prompt is too long are dropped, counted.

    Raises:
        UserError: every prompt is too long.
        RolloutServerLost: the server was lost twice.
    """
    cfg = ctx.cfg
    tokenizer = load_tokenizer(ask.model_dir)
    prompts: dict[str, list[int]] = {}
    for task in tasks:
        ids = prompt_ids(tokenizer, task.messages, cfg.judge.response_prefix)
        if len(ids) <= cfg.judge.max_prompt_tokens:
            prompts[task.id] = ids
    kept = [task for task in tasks if task.id in prompts]
    ctx.drop("prompt longer than judge.max_prompt_tokens", len(tasks) - len(kept))
    if not kept:
        raise UserError(
            f"all {len(tasks)} prompts are longer than judge.max_prompt_tokens {cfg.judge.max_prompt_tokens}"
        )
    if out.exists():
        return kept
    aside = out.with_name(out.name + ".partial")
    finished = _finished(aside, ask.samples)
    waiting = [task for task in kept if task.id not in finished]
    if waiting:
        _sample(ctx, kept, waiting, prompts, tokenizer, ask, aside)
    _put_in_order(aside, out, {task.id: i for i, task in enumerate(kept)})
    return kept


def _sample(
    ctx: StageContext,
    kept: Sequence[JudgeTask],
    waiting: Sequence[JudgeTask],
    prompts: Mapping[str, list[int]],
    tokenizer: JudgeTokenizer,
    ask: Ask,
    aside: Path,
) -> None:
    cfg = ctx.cfg
    sampling = Sampling(
        n=ask.samples,
        max_tokens=cfg.rollout.max_response_tokens,
        temperature=ask.temperature,
        top_p=cfg.rollout.top_p,
        top_k=cfg.rollout.top_k,
        stop_token_ids=tuple(stop_token_ids(tokenizer, ask.model_dir)),
    )
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
                reasoning_path(each, task, tokenizer, cfg.judge.policy, ask.model, ask.keep_token_ids)
                for each in answer
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
    """The tasks with all their paths in a partial file, which is left with those alone."""
    if not path.exists():
        return set()
    JsonlAppender(path).close()  # drops a torn end
    counts = Counter(record.task_id for record in read_jsonl(path, ReasoningPath))
    whole = {task for task, count in counts.items() if count == samples}
    if len(whole) < len(counts):
        write_jsonl(path, (record for record in read_jsonl(path, ReasoningPath) if record.task_id in whole))
    return whole


def _put_in_order(aside: Path, out: Path, order: Mapping[str, int]) -> None:
    """Copy lines by (task, sample), so that the order of arrival leaves no trace; texts stay on disk."""
    places: list[tuple[int, int, int, int]] = []
    offset = 0
    with aside.open("rb") as source:
        for line in source:
            record = json.loads(line)
            if record["task_id"] in order:
                places.append((order[record["task_id"]], record["sample"], offset, len(line)))
            offset += len(line)
        sorted_file = out.with_name(out.name + ".tmp")
        with sorted_file.open("wb") as target:
            for _, _, start, length in sorted(places):
                source.seek(start)
                target.write(source.read(length))
            target.flush()
            os.fsync(target.fileno())
    os.replace(sorted_file, out)
    sync_directory(out.parent)
    aside.unlink()
