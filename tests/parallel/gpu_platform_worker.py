# SPDX-License-Identifier: Apache-2.0
"""One rank of either platform on CPU, run by test_gpu_platform.py: ``HF_FOLDER PLATFORM TP PP OUT.json``.

``gpu`` is bf16 weights under NeMo's O2, fp32 main weights in megatron-core's distributed optimizer: all as
on a GPU but for the layers (plain PyTorch's) and the optimizer's kernel (PyTorch's AdamW).
"""

import json
import os
import sys
from pathlib import Path

from small_models import layout


def main(hf_path, name, tensor_parallel, pipeline_parallel, out):
    from reasongrm_nemo.megatron.platform import GPU, Platform, load_platform

    platform = load_platform("cpu")
    if name == "gpu":
        platform = Platform("gpu", "cpu", transformer_engine=False, optimizer=GPU.optimizer, amp_o2=True)
    import torch
    import torch.distributed as dist
    from megatron.core import fp8_utils, parallel_state
    from omegaconf import OmegaConf

    from reasongrm_nemo.grpo.actor import GRPOActor
    from reasongrm_nemo.megatron import session as sessions
    from reasongrm_nemo.megatron.balance import share
    from reasongrm_nemo.megatron.checkpoints import Checkpoints
    from reasongrm_nemo.megatron.micro_batches import Sample
    from reasongrm_nemo.megatron.offload import _states
    from reasongrm_nemo.recipe.load import load_recipe, recipes_root

    sessions.quiet_libraries()
    # megatron-core's optimizer sorts parameters by the name of their type, of which it knows those on CUDA
    plain_type = torch.Tensor.type
    torch.Tensor.type = lambda self, *new, **options: (
        plain_type(self, *new, **options)
        if new or options
        else plain_type(self).replace("torch.", "torch.cuda.")
    )
    recipe = load_recipe(
        recipes_root() / "tiny" / "1_grpo_zero.yaml",
        [
            f"cluster.platform={name}",
            f"model.dtype={'bf16' if name == 'gpu' else 'fp32'}",
            *layout(os.environ["WORLD_SIZE"], tensor_parallel, pipeline_parallel, int(tensor_parallel) > 1),
            f"cluster.offload_optimizer={name == 'gpu'}",
            "grpo.optim.lr=1e-3",
        ],
    )
    session = sessions.start(platform, GRPOActor, recipe, recipe.grpo.optim, 10, Path(hf_path))
    actor, core = session.model, session.model.core_module()
    actor.grpo = OmegaConf.create(OmegaConf.to_container(recipe.grpo))
    figures = {"dtypes": sorted({str(p.dtype) for p in core.parameters()})}

    generator = torch.Generator().manual_seed(0)
    samples = []
    for length in torch.randint(12, 60, (7,), generator=generator).tolist():
        ids = tuple(torch.randint(0, 99, (length,), generator=generator).tolist())
        advantage = torch.randn((), generator=generator).item()
        samples.append(Sample(ids, 4, advantage, {"rollout": (-3.0,) * (length - 4)}, 1e-2))
    rank, ranks = parallel_state.get_data_parallel_rank(), parallel_state.get_data_parallel_world_size()

    def step(samples):
        mine = [samples[i] for i in share([len(s.tokens) for s in samples], ranks)[rank]]
        actor.prepare_for_training()
        session.optimizer.zero_grad()
        actor.prepare_for_training_step()
        loss, _ = actor.get_loss_and_metrics({"samples": mine, "tokens": 100}, forward_only=False)
        actor.finish_training_step()
        norm = actor.clip_gradients(recipe.grpo.optim.clip_grad)
        session.optimizer.step()
        actor.finish_training()
        return loss, norm

    def weights():
        return torch.cat([p.detach().float().flatten() for p in core.parameters()])

    def moved(before):
        worst = (weights() - before).abs().max()
        dist.all_reduce(worst, op=dist.ReduceOp.MAX)
        return worst.item()

    # casts fp32 weights to fp8 by Transformer Engine; there are none, and it is called with empty lists
    fp8_utils._quantize_param_shard_impl = lambda *empty: None
    start = weights()
    actor.finish_training()
    figures["losses"], figures["norms"] = [], []
    for _ in range(3):
        loss, norm = step(samples)
        figures["losses"].append(loss)
        figures["norms"].append(norm)
        figures.setdefault("first_move", moved(start))
    # a checkpoint brings back weights, fp32 weights and moments: the step after it is the same again
    checkpoints = Checkpoints(Path(out).parent / "checkpoints", 1)
    actor.prepare_for_training()
    checkpoints.save(3, actor, session.scheduler, {"step": 3})
    saved, next_norm = weights(), step(samples)[1]
    after = weights()
    checkpoints.load_latest(actor, session.scheduler)
    figures["restored"] = moved(saved)
    figures["norm_again"] = abs(step(samples)[1] - next_norm) / next_norm
    figures["step_again"] = moved(after)
    # fewer samples than data-parallel ranks: nobody waits for ever
    figures["single"] = step(samples[:1])[0]
    if name == "gpu":
        states = list(_states(session.optimizer.mcore_optimizer))
        count = sum(t.numel() for t in states)
        # to the CPU is no way from the CPU: what was asked for must do
        asked, plain_to = [], torch.Tensor.to
        torch.Tensor.to = lambda self, *where: asked.append((self.numel(), *where)) or plain_to(self, *where)
        actor.finish_training()
        figures["offloaded"] = sum(n for n, where in asked if where == "cpu") == count
        asked.clear()
        actor.prepare_for_training()
        device = torch.cuda.current_device()
        figures["onloaded"] = sum(n for n, where in asked if where == device) == count
        torch.Tensor.to = plain_to
        share_of_rank = torch.tensor(count / sum(p.numel() for p in core.parameters()))
        dist.all_reduce(share_of_rank, group=parallel_state.get_data_parallel_group())
        figures |= {"states": sorted({str(t.dtype) for t in states})}
        figures["states_a_parameter"] = share_of_rank.item()
    if dist.get_rank() == 0:
        Path(out).write_text(json.dumps(figures))


if __name__ == "__main__":
    main(*sys.argv[1:])
