# SPDX-License-Identifier: Apache-2.0
"""One rank of either platform on CPU, run by test_gpu_platform.py: ``HF_FOLDER PLATFORM TP PP OUT.json``.

``gpu`` is bf16 weights under NeMo's O2 and fp32 main weights in megatron-core's distributed optimizer: all
as on a GPU except for the layers (plain PyTorch's, or Transformer Engine's with a stand-in for its kernels)
and the optimizer's kernel.
"""

import json
import os
import sys
from pathlib import Path

import torch
from layers import load_platform
from small_models import layout


def the_platform(name):
    """The CPU platform, or the GPU's precision and optimizer on the CPU."""
    from reasongrm_nemo.megatron.platform import GPU

    if name == "cpu":
        return load_platform()
    return load_platform(name="gpu", optimizer=GPU.optimizer, amp_o2=True)


def start(hf_path, name, tensor, pipeline):
    """A session with GRPO's actor, and the recipe."""
    platform = the_platform(name)
    from megatron.core import fp8_utils
    from omegaconf import OmegaConf

    from reasongrm_nemo.grpo.actor import GRPOActor
    from reasongrm_nemo.megatron import session as sessions
    from reasongrm_nemo.recipe.load import load_recipe, recipes_root

    sessions.quiet_libraries()
    # megatron-core's optimizer groups parameters by the name of their type and knows only CUDA's
    plain_type = torch.Tensor.type
    torch.Tensor.type = lambda self, *new, **options: (
        plain_type(self, *new, **options)
        if new or options
        else plain_type(self).replace("torch.", "torch.cuda.")
    )
    # casts fp32 weights to fp8 with Transformer Engine; there are none, so it is called with empty lists
    fp8_utils._quantize_param_shard_impl = lambda *empty: None
    overrides = [
        f"cluster.platform={name}",
        f"model.dtype={'bf16' if name == 'gpu' else 'fp32'}",
        *layout(os.environ["WORLD_SIZE"], tensor, pipeline, int(tensor) > 1),
        f"cluster.offload_optimizer={name == 'gpu'}",
        "grpo.optim.lr=1e-3",
    ]
    recipe = load_recipe(recipes_root() / "tiny" / "1_grpo_zero.yaml", overrides)
    session = sessions.start(platform, GRPOActor, recipe, recipe.grpo.optim, 10, Path(hf_path))
    session.model.grpo = OmegaConf.create(OmegaConf.to_container(recipe.grpo))
    return session, recipe


def draw():
    """Samples of different lengths, each with an advantage."""
    from reasongrm_nemo.megatron.micro_batches import Sample

    generator = torch.Generator().manual_seed(0)
    samples = []
    for length in torch.randint(12, 60, (7,), generator=generator).tolist():
        ids = tuple(torch.randint(0, 99, (length,), generator=generator).tolist())
        advantage = torch.randn((), generator=generator).item()
        samples.append(Sample(ids, 4, advantage, {"rollout": (-3.0,) * (length - 4)}, 1e-2))
    return samples


class Run:
    """One rank's session and its optimizer steps."""

    def __init__(self, session, recipe):
        from megatron.core import parallel_state

        self.session, self.actor = session, session.model
        self.core, self.clip = session.model.core_module(), recipe.grpo.optim.clip_grad
        self.rank = parallel_state.get_data_parallel_rank()
        self.ranks = parallel_state.get_data_parallel_world_size()
        self.of_norms = None

    def gradient_of_norms(self):
        """Norm of the reduced gradient of all norms' weights, which every tensor-parallel rank has whole."""
        from megatron.core import parallel_state

        names = [n for n, _ in self.core.named_parameters() if n.endswith(("norm.weight", "norm_weight"))]
        norms = [self.core.get_parameter(name) for name in names]
        gradients = [p.main_grad if p.grad is None else p.grad for p in norms]
        square = torch.stack([g.float().norm() for g in gradients]).square().sum()
        torch.distributed.all_reduce(square, group=parallel_state.get_pipeline_model_parallel_group())
        return square.sqrt().item()

    def step(self, samples):
        """Loss and gradient norm of one optimizer step."""
        from reasongrm_nemo.megatron.balance import share

        actor = self.actor
        mine = [samples[i] for i in share([len(s.tokens) for s in samples], self.ranks)[self.rank]]
        actor.prepare_for_training()
        self.session.optimizer.zero_grad()
        actor.prepare_for_training_step()
        loss, _ = actor.get_loss_and_metrics({"samples": mine, "tokens": 100}, forward_only=False)
        actor.finish_training_step()
        self.of_norms = self.of_norms or self.gradient_of_norms()
        norm = actor.clip_gradients(self.clip)
        self.session.optimizer.step()
        actor.finish_training()
        return loss, norm

    def weights(self):
        return torch.cat([p.detach().float().flatten() for p in self.core.parameters()])

    def moved(self, before):
        """The largest change of a weight, over all ranks."""
        worst = (self.weights() - before).abs().max()
        torch.distributed.all_reduce(worst, op=torch.distributed.ReduceOp.MAX)
        return worst.item()


def three_steps(run, samples):
    figures = {"dtypes": sorted({str(p.dtype) for p in run.core.parameters()})}
    start = run.weights()
    run.actor.finish_training()
    figures["losses"], figures["norms"] = [], []
    for _ in range(3):
        loss, norm = run.step(samples)
        figures["losses"].append(loss)
        figures["norms"].append(norm)
        figures.setdefault("first_move", run.moved(start))
    return figures


def resume(run, samples, folder):
    """A checkpoint restores weights, fp32 weights and moments: the next step, repeated, is the same."""
    from reasongrm_nemo.megatron.checkpoints import Checkpoints

    checkpoints = Checkpoints(folder, 1)
    run.actor.prepare_for_training()
    checkpoints.save(3, run.actor, run.session.scheduler, {"step": 3})
    saved, next_norm = run.weights(), run.step(samples)[1]
    after = run.weights()
    checkpoints.load_latest(run.actor, run.session.scheduler)
    figures = {"restored": run.moved(saved)}
    figures["norm_again"] = abs(run.step(samples)[1] - next_norm) / next_norm
    figures["step_again"] = run.moved(after)
    return figures


def offload(run):
    """Whether all optimizer states go to the CPU and back, and how many there are per parameter."""
    from megatron.core import parallel_state

    from reasongrm_nemo.megatron.offload import _states

    optimizer = run.session.optimizer.mcore_optimizer
    states = list(_states(optimizer))
    count = sum(t.numel() for t in states)
    # on the CPU nothing really moves, so the requested moves are counted
    asked, plain_to = [], torch.Tensor.to
    torch.Tensor.to = lambda self, *where: asked.append((self.numel(), *where)) or plain_to(self, *where)
    run.actor.finish_training()
    figures = {"offloaded": sum(n for n, where in asked if where == "cpu") == count}
    asked.clear()
    run.actor.prepare_for_training()
    device = torch.cuda.current_device()
    figures["onloaded"] = sum(n for n, where in asked if where == device) == count
    torch.Tensor.to = plain_to
    share = torch.tensor(count / sum(p.numel() for p in run.core.parameters()))
    torch.distributed.all_reduce(share, group=parallel_state.get_data_parallel_group())
    figures["states"] = sorted({str(t.dtype) for t in states})
    figures["states_a_parameter"] = share.item()
    part = getattr(optimizer, "chained_optimizers", [optimizer])[0]
    figures["adam"] = type(part.optimizer).__module__
    return figures


def main(hf_path, name, tensor_parallel, pipeline_parallel, out):
    session, recipe = start(hf_path, name, tensor_parallel, pipeline_parallel)
    run, samples = Run(session, recipe), draw()
    figures = three_steps(run, samples) | {"of_norms": run.of_norms}
    figures |= resume(run, samples, Path(out).parent / "checkpoints")
    # fewer samples than data-parallel ranks: no rank may hang
    figures["single"] = run.step(samples[:1])[0]
    if name == "gpu":
        figures |= offload(run)
    if torch.distributed.get_rank() == 0:
        Path(out).write_text(json.dumps(figures))


if __name__ == "__main__":
    main(*sys.argv[1:])
