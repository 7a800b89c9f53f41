# SPDX-License-Identifier: Apache-2.0
"""One of two ranks that save and load: run by test_checkpoints.py."""

import json
import os
import sys
from pathlib import Path


class Weight:
    """One weight of a session's model; its value is the step of the checkpoint."""

    def __init__(self):
        from reasongrm_nemo.megatron.platform import load_platform

        platform = load_platform("cpu")
        from reasongrm_nemo.grpo.actor import GRPOActor
        from reasongrm_nemo.megatron import session as sessions
        from reasongrm_nemo.recipe.load import load_recipe, recipes_root, resolve_path

        sessions.quiet_libraries()
        settings = ["cluster.devices_per_node=2", "cluster.tensor_parallel=2"]
        recipe = load_recipe(recipes_root() / "tiny" / "1_grpo_zero.yaml", settings)
        model = resolve_path(recipe.model.hf_path, "")
        self.session = sessions.start(platform, GRPOActor, recipe, recipe.grpo.optim, 10, model)
        self.tensor = next(self.session.model.core_module().parameters())

    def fill(self, value):
        import torch

        with torch.no_grad():
            self.tensor.fill_(value)

    def loaded(self, checkpoints):
        self.fill(-1.0)
        state = checkpoints.load_latest(self.session.model, self.session.scheduler)
        return state["step"], self.tensor.mean().item()

    def save(self, checkpoints, step, score=None):
        self.fill(float(step))
        checkpoints.save(step, self.session.model, self.session.scheduler, {"step": step}, score)


def save_asynchronously(weight, checkpoints):
    """Changes made after an asynchronous save has begun are not in the checkpoint."""
    figures = {}
    weight.save(checkpoints, 1)
    weight.fill(7.0)
    figures["before it is whole"] = checkpoints.latest() is None
    checkpoints.finish()
    figures["asynchronous"] = weight.loaded(checkpoints)
    weight.save(checkpoints, 2)
    while checkpoints.latest().name != "step_000002":
        checkpoints.poll()
    figures["polled"] = weight.loaded(checkpoints)
    return figures


def keep_the_best(weight, checkpoints, folder):
    figures = {}
    for step, score in enumerate([0.5, 0.9, 0.6, 0.9, 0.1, 0.2], 1):
        weight.save(checkpoints, step, score)
    figures["kept"] = sorted(path.name for path in folder.glob("step_*"))
    figures["best"] = checkpoints.best().name
    checkpoints.load_best_weights(weight.session.model)
    figures["best weights"] = weight.tensor.mean().item()
    figures["latest"] = weight.loaded(checkpoints)
    return figures


def fill_a_small_disk(weight, disk):
    """Save to a disk of 3 MB, which the first checkpoint fills."""
    import torch.distributed as dist

    from reasongrm_nemo.errors import StageFailed
    from reasongrm_nemo.megatron.checkpoints import Checkpoints

    figures = {"small": None}
    for asynchronous in (True, False):
        try:
            small = Checkpoints(disk / "checkpoints", keep=1, asynchronous=asynchronous)
            weight.save(small, 1)
            small.finish()
        except StageFailed as error:
            figures["small"] = str(error)
        dist.barrier()
        figures["left on the small disk"] = [str(path) for path in disk.rglob("*.distcp")]
    return figures


def fill_one_rank_s_disk(weight, checkpoints, folder):
    """The disk of only one rank fills up while the tensors are written."""
    import torch.distributed as dist

    from reasongrm_nemo.errors import StageFailed

    figures = {"failed": None}
    if dist.get_rank() == 1:
        import errno

        from megatron.core.dist_checkpointing.strategies import filesystem_async
        from torch.distributed.checkpoint import filesystem

        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        # with torch 2.6 megatron-core has its own reference; otherwise our wrapper calls torch's
        filesystem._write_item = filesystem_async._write_item = full
    checkpoints.asynchronous = True
    weight.save(checkpoints, 7)
    try:
        checkpoints.finish()
    except StageFailed as error:
        figures["failed"] = str(error)
    figures["after the failure"] = weight.loaded(checkpoints)
    figures["left behind"] = sorted(path.name for path in folder.glob(".step*"))
    return figures


def main(folder, small_disk):
    weight, folder = Weight(), Path(folder)
    from reasongrm_nemo.megatron.checkpoints import Checkpoints

    asynchronous = Checkpoints(folder / "asynchronous", keep=1, asynchronous=True)
    figures = save_asynchronously(weight, asynchronous)
    best = Checkpoints(folder / "best", keep=1, keep_best=2)
    figures |= keep_the_best(weight, best, folder / "best")
    figures |= fill_a_small_disk(weight, Path(small_disk))
    figures |= fill_one_rank_s_disk(weight, best, folder / "best")
    (folder / f"rank{os.environ['RANK']}.json").write_text(json.dumps(figures))


if __name__ == "__main__":
    main(*sys.argv[1:])
