# SPDX-License-Identifier: Apache-2.0
"""The keys that a trainer reads: ``dry_trainers.py RECIPE MODEL_FOLDER WORK`` prints them as a JSON list.

The model of the first and the last pipeline stage is built and stepped on fake tensors, then the recipe's
trainer runs with stand-ins for what needs weights: its loop, schedule, groups, validation.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from omegaconf import DictConfig, OmegaConf

sys.path.append(str(Path(__file__).parents[1]))
from keys_read import keys_read
from made_up_inputs import write_inputs

_STEPS = 2  # that GRPO's loop runs


def main(path: str, folder: str, work: str) -> None:
    """Print the keys that the ranks at both ends of the pipeline and the trainer read."""
    from reasongrm_nemo.megatron.platform import load_platform

    load_platform("cpu")
    from reasongrm_nemo.megatron import session

    session.quiet_libraries()
    from reasongrm_nemo.recipe.load import load_recipe

    recipe = load_recipe(path)
    orders = [(OmegaConf.to_container(recipe), folder, work, end) for end in ("first", "last")]
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        print("keys:", json.dumps(sorted(set().union(*pool.imap(_keys, orders, chunksize=1)))))


def _keys(order: Any) -> set[str]:
    from reasongrm_nemo.plan.simulation.fake_rank import simulate_rank
    from reasongrm_nemo.plan.simulation.simulate import Request, rank_of_stage

    recipe, folder, work, end = OmegaConf.create(order[0]), *map(Path, order[1:3]), order[3]
    read: set[str] = set()
    last = rank_of_stage(recipe.cluster, recipe.cluster.pipeline_parallel - 1)
    with keys_read(read):
        simulate_rank(Request(recipe, folder, 0 if end == "first" else last))
        if end == "first":
            inputs = {name: str(file) for name, file in write_inputs(recipe, work).items()}
            (work / "artefact").mkdir()
            run_dry(recipe, inputs | {"work": str(work / "artefact")})
    return read


def run_dry(recipe: DictConfig, inputs: Mapping[str, str]) -> None:
    """Make the recipe's trainer as its ``main`` does; a GRPO trainer then runs some steps.

    Args:
        recipe: resolved.
        inputs: made-up files by name, with ``model`` (a folder with a tokenizer) and ``work``.
    """
    {"grpo": _grpo, "sft": _sft}[recipe.stage](recipe, {name: Path(path) for name, path in inputs.items()})


def _grpo(recipe: DictConfig, inputs: dict[str, Path]) -> None:
    from reasongrm_nemo.data.jsonl import read_tasks
    from reasongrm_nemo.grpo.order import with_steps
    from reasongrm_nemo.grpo.trainer import GRPOTrainer
    from reasongrm_nemo.grpo.validation import Validation
    from reasongrm_nemo.models.tokenization import load_tokenizer, stop_token_ids

    tokenizer = load_tokenizer(inputs["model"], recipe.judge.date)
    stop_tokens = stop_token_ids(tokenizer, inputs["model"])
    tasks = list(read_tasks(inputs["tasks"]))
    tasks = tasks[recipe.grpo.skip_tasks :] or tasks
    tasks = tasks if recipe.grpo.max_tasks is None else tasks[: recipe.grpo.max_tasks]
    recipe = with_steps(recipe, len(tasks))
    cfg = recipe.grpo
    run = _run(recipe, inputs, cfg)
    trainer = GRPOTrainer(
        _session(recipe, inputs, cfg.optim, cfg.steps * cfg.optimizer_steps),
        recipe,
        tasks,
        tokenizer,
        stop_tokens,
        _Source(tokenizer),  # type: ignore[arg-type]
        run.checkpoints,
        run.metrics,
        Validation.of_recipe(recipe, inputs, stop_tokens),
        run.reason_to_stop,
    )
    shorter: Any = OmegaConf.create(OmegaConf.to_container(recipe))
    shorter.grpo.steps = min(cfg.steps, _STEPS)
    trainer.recipe, trainer.cfg = shorter, shorter.grpo
    trainer.fit()


def _sft(recipe: DictConfig, inputs: dict[str, Path]) -> None:
    from reasongrm_nemo.sft.data import read_samples
    from reasongrm_nemo.sft.steps import step_count
    from reasongrm_nemo.sft.trainer import make_trainer

    cfg = recipe.sft
    samples, held_out = read_samples(inputs["examples"], recipe, inputs["model"])
    session = _session(recipe, inputs, cfg.optim, step_count(len(samples), cfg))
    make_trainer(session, recipe, samples, held_out, _run(recipe, inputs, cfg))


def _run(recipe: DictConfig, inputs: dict[str, Path], cfg: DictConfig) -> Any:
    from reasongrm_nemo.megatron.training_run import TrainingRun
    from reasongrm_nemo.processes.work_order import WorkOrder

    run = TrainingRun(WorkOrder(recipe, inputs["work"], inputs["model"], {}), cfg)
    assert cfg.validation.export in ("last", "best")  # read when training ends
    run.checkpoints = _Checkpoints()  # type: ignore[assignment]
    return run


def _session(recipe: DictConfig, inputs: dict[str, Path], optim: DictConfig, steps: int) -> Any:
    import torch

    from reasongrm_nemo.megatron.schedule import make_scheduler
    from reasongrm_nemo.models.architecture import Architecture

    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=optim.lr)
    scheduler = make_scheduler(optimizer, steps, optim)
    architecture = Architecture.from_folder(inputs["model"])
    return SimpleNamespace(
        model=_Model(), optimizer=optimizer, scheduler=scheduler, architecture=architecture
    )


class _Checkpoints:
    longest_save_s = 0.0

    def load_latest(self, model: Any, scheduler: Any) -> None:
        return None

    def save(self, *arguments: Any) -> None:
        pass

    def poll(self) -> None:
        pass

    def finish(self) -> None:
        pass


class _Model:
    """Scores everything 0 and learns nothing."""

    def __init__(self) -> None:
        from reasongrm_nemo.megatron.timers import Timers

        self.timers = Timers()
        self.cfg = SimpleNamespace(global_batch_size=0)

    def get_loss_and_metrics(
        self, batch: dict[str, Any], forward_only: bool
    ) -> tuple[float, dict[str, float]]:
        names = ("loss", "clip_share", "kl", "entropy", "log_prob_error_mean", "log_prob_error_max", "packed")
        return 0.0, dict.fromkeys(names, 0.0)

    def get_inference_log_probs(self, samples: Any) -> list[list[float]]:
        return [[0.0] * sample.response_length for sample in samples]

    get_init_policy_logprobs = get_inference_log_probs

    def clip_gradients(self, limit: float) -> float:
        return 1.0

    def __getattr__(self, name: str) -> Any:
        if name in ("prepare_for_training", "finish_training", "keep_reference"):
            return lambda: None
        if name in ("prepare_for_training_step", "finish_training_step"):
            return lambda: None
        raise AttributeError(name)


class _Source:
    def __init__(self, tokenizer: Any) -> None:
        self._answers = [tokenizer.encode(text) for text in ("short.</think>[[A]]", "long.</think>[[B]]")]

    def begin(self, part: Any) -> None:
        pass

    push = pause = sleep = lambda self, *_: None

    def losses(self) -> int:
        return 0

    def collect(self, part: Any) -> list[list[Any]]:
        from reasongrm_nemo.rollout import Completion

        chosen = [self._answers[sample % 2] for sample in range(part.sampling.n)]
        return [
            [Completion(p.id, i, list(ids), [-0.5] * len(ids), "stop") for i, ids in enumerate(chosen)]
            for p in part.prompts
        ]


if __name__ == "__main__":
    main(*sys.argv[1:])
