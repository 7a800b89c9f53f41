# SPDX-License-Identifier: Apache-2.0
"""One of two ranks that save and load: run by test_checkpoints.py."""

import json
import os
import sys
from pathlib import Path


def main(folder, small_disk):
    from reasongrm_nemo.megatron.platform import load_platform

    platform = load_platform("cpu")
    import torch
    import torch.distributed as dist

    from reasongrm_nemo.errors import StageFailed
    from reasongrm_nemo.grpo.actor import GRPOActor
    from reasongrm_nemo.megatron import session as sessions
    from reasongrm_nemo.megatron.checkpoints import Checkpoints
    from reasongrm_nemo.recipe.load import load_recipe, recipes_root, resolve_path

    sessions.quiet_libraries()
    settings = ["cluster.devices_per_node=2", "cluster.tensor_parallel=2"]
    recipe = load_recipe(recipes_root() / "tiny" / "1_grpo_zero.yaml", settings)
    model = resolve_path(recipe.model.hf_path, "")
    session = sessions.start(platform, GRPOActor, recipe, recipe.grpo.optim, 10, model)
    folder = Path(folder)
    weight = next(session.model.core_module().parameters())
    figures = {}

    def fill(value):
        with torch.no_grad():
            weight.fill_(value)

    def loaded(checkpoints):
        fill(-1.0)
        state = checkpoints.load_latest(session.model, session.scheduler)
        return state["step"], weight.mean().item()

    def save(checkpoints, step, score=None):
        fill(float(step))
        checkpoints.save(step, session.model, session.scheduler, {"step": step}, score)

    # what changes after an asynchronous save began is not in it
    checkpoints = Checkpoints(folder / "asynchronous", keep=1, asynchronous=True)
    save(checkpoints, 1)
    fill(7.0)
    figures["before it is whole"] = checkpoints.latest() is None
    checkpoints.finish()
    figures["asynchronous"] = loaded(checkpoints)
    save(checkpoints, 2)
    while checkpoints.latest().name != "step_000002":
        checkpoints.poll()
    figures["polled"] = loaded(checkpoints)

    checkpoints = Checkpoints(folder / "best", keep=1, keep_best=2)
    for step, score in enumerate([0.5, 0.9, 0.6, 0.9, 0.1, 0.2], 1):
        save(checkpoints, step, score)
    figures["kept"] = sorted(path.name for path in (folder / "best").glob("step_*"))
    figures["best"] = checkpoints.best().name
    checkpoints.load_best_weights(session.model)
    figures["best weights"] = weight.mean().item()
    figures["latest"] = loaded(checkpoints)

    # a disk of 3 MB, which the first checkpoint fills
    figures["small"] = None
    for asynchronous in (True, False):
        try:
            small = Checkpoints(Path(small_disk) / "checkpoints", keep=1, asynchronous=asynchronous)
            save(small, 1)
            small.finish()
        except StageFailed as error:
            figures["small"] = str(error)
        dist.barrier()
        figures["left on the small disk"] = [str(path) for path in Path(small_disk).rglob("*.distcp")]

    # the disk of one rank alone fills up while the tensors are written
    if dist.get_rank() == 1:
        import errno

        from torch.distributed.checkpoint import filesystem

        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        filesystem._write_item = full
    checkpoints.asynchronous = True
    save(checkpoints, 7)
    try:
        checkpoints.finish()
        figures["failed"] = None
    except StageFailed as error:
        figures["failed"] = str(error)
    figures["after the failure"] = loaded(checkpoints)
    figures["left behind"] = sorted(path.name for path in (folder / "best").glob(".step*"))
    (folder / f"rank{os.environ['RANK']}.json").write_text(json.dumps(figures))


if __name__ == "__main__":
    main(*sys.argv[1:])
