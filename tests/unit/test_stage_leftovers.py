# SPDX-License-Identifier: Apache-2.0
"""A kill after a file is in place, before the partial file behind it is removed, leaves nothing behind."""

import shutil
from pathlib import Path

import pytest
from fake_pool import TINY, FakePool

from reasongrm_nemo.data import read_tasks
from reasongrm_nemo.stages import evaluate, generate, mine

BASE = "model.hf_path=asset:tiny_judge"


class Killed(BaseException):
    pass


def files(ctx):
    return {str(p.relative_to(ctx.work)): p.read_bytes() for p in ctx.work.rglob("*") if p.is_file()}


def killed_at_every_removal(monkeypatch, run):
    """Kill ``run(work)`` at each file removal in turn; resumed, it must end like an unbroken run."""
    whole = files(run("whole"))
    real, kills = Path.unlink, 0
    while True:
        waiting = kills

        def unlink(path, *args, **kwargs):
            nonlocal waiting
            if path.exists() and (waiting := waiting - 1) < 0:
                raise Killed
            real(path, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", unlink)
            try:
                run(f"cut{kills}")
                return kills
            except Killed:
                pass
        assert files(run(f"cut{kills}")) == whole
        kills += 1


@pytest.mark.parametrize("stage", ["generate", "scored", "mine"])
def test_a_kill_before_the_partial_file_is_removed(context, tasks, monkeypatch, tmp_path, stage):
    name, module, recipe = (
        ("mine", mine, "5_mine") if stage == "mine" else ("generate", generate, "2_generate")
    )
    words = [f"{name}.skip_tasks=0", f"{name}.max_tasks=6", f"{name}.samples=4", BASE]
    if stage == "scored":
        words.append(f"generate.scorer.hf_path={shutil.copytree(TINY, tmp_path / 'other')}")

    def run(work):
        ctx = context(recipe, *words, pool=FakePool(tasks), work=work)
        module.run(ctx)
        return ctx

    assert killed_at_every_removal(monkeypatch, run) == (3 if stage == "scored" else 1)


def test_a_kill_before_an_evaluation_s_paths_are_removed(context, tasks, monkeypatch, tmp_path):
    held_out = list(read_tasks(tmp_path / "runs" / "0_prepare" / "validation.jsonl"))[:3]
    for name in ("1_grpo_zero", "4_sft", "6_grpo_hard"):
        shutil.copytree(TINY, tmp_path / "runs" / name / "hf")

    def run(work):
        words = ["evaluate.settings=[{temperature: 1, samples: 1}]", "evaluate.max_tasks=3"]
        ctx = context("7_evaluate", *words, pool=FakePool(held_out), work=work)
        evaluate.run(ctx)
        return ctx

    assert killed_at_every_removal(monkeypatch, run) == 4 * 2  # for each model: the partial paths, the paths
