# SPDX-License-Identifier: Apache-2.0
"""Memory of a real optimizer step on one rank: ``memory_worker.py RECIPE HF_FOLDER OUT.json [KEY=VALUE]...``.

Counted from the live tensors, and from the kernel's resident set (VmHWM, reset before the step).
"""

import ctypes
import json
import sys
from pathlib import Path

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # of malloc.h


def resident(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024


def main(recipe_path, hf_path, out, *overrides):
    from reasongrm_nemo.megatron.platform import load_platform

    platform = load_platform("cpu")
    import torch

    from reasongrm_nemo.grpo.actor import GRPOActor
    from reasongrm_nemo.megatron import session as sessions
    from reasongrm_nemo.megatron.activations import micro_batch
    from reasongrm_nemo.megatron.micro_batches import Sample
    from reasongrm_nemo.megatron.storages import LiveStorages
    from reasongrm_nemo.recipe.load import load_recipe

    libc = ctypes.CDLL("libc.so.6")
    for option in (_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX):  # the forker keeps what is freed
        libc.mallopt(option, 65536)  # return freed memory at once where possible
    sessions.quiet_libraries()
    recipe = load_recipe(recipe_path, overrides)
    session = sessions.start(platform, GRPOActor, recipe, recipe.grpo.optim, 10, Path(hf_path))
    actor, optimizer = session.model, session.optimizer
    actor.grpo = recipe.grpo

    def step(rows, length):
        generator = torch.Generator().manual_seed(rows)
        tokens = torch.randint(0, 200, (rows, length), generator=generator).tolist()
        samples = [Sample(tuple(t), 1, 1.0, {"rollout": (0.0,) * (length - 1)}, 1e-6) for t in tokens]
        optimizer.zero_grad()
        actor.prepare_for_training_step()
        actor.get_loss_and_metrics({"samples": samples, "tokens": rows * length}, forward_only=False)
        actor.finish_training_step()
        actor.clip_gradients(recipe.grpo.optim.clip_grad)
        optimizer.step()

    step(1, 8)  # creates states; libraries load what they need once
    optimizer.zero_grad()
    parameters = list(actor.core_module().parameters())
    moments = [v for s in optimizer.state.values() for v in s.values() if torch.is_tensor(v) and v.dim()]
    states = {"weights": sum(p.nbytes for p in parameters), "optimizer": sum(m.nbytes for m in moments)}
    rows = 2 * micro_batch(recipe)[0]  # gradients exist when the second micro-batch runs
    libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM to the present VmRSS
    resting = resident("VmRSS")
    step(rows, recipe.model.max_model_len)
    most = resident("VmHWM")
    optimizer.zero_grad()
    with LiveStorages([*parameters, *moments]) as live:
        step(rows, recipe.model.max_model_len)
    figures = states | {
        "counted": live.peak,  # including gradients, which the step creates
        "resident": most - resting,
    }
    Path(out).write_text(json.dumps(figures))


if __name__ == "__main__":
    main(*sys.argv[1:])
