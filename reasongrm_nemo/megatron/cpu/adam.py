# SPDX-License-Identifier: Apache-2.0
"""AdamW whose state has Apex FusedAdam's form, so that megatron-core can save and resume it."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim.adamw import adamw


class FusedAdam(torch.optim.AdamW):
    """PyTorch's AdamW with the step count in the parameter group instead of in each parameter's state.

    megatron-core's distributed checkpoints want every state tensor to have its parameter's shape
    (dist_checkpointing/optimizer.py, ``make_sharded_optimizer_tensor``), which PyTorch's 0-dim ``step``
    breaks: excluding it lets a run save but not resume. Apex's FusedAdam, which the GPU platform uses,
    keeps one count a group; so does this.
    """

    def __init__(self, params: Any, **options: Any) -> None:
        super().__init__(params, **options)
        for group in self.param_groups:
            group.setdefault("step", 0)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Without Adam's upgrade of old checkpoints, which looks for ``step`` in each parameter's state."""
        torch.optim.Optimizer.__setstate__(self, state)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One AdamW update of all parameters that have a gradient (fp32, any shape)."""
        if closure is not None:
            raise ValueError("Megatron computes gradients before the step; closures are not supported.")
        for group in self.param_groups:
            group["step"] += 1
            params = [p for p in group["params"] if p.grad is not None]
            for p in params:
                if not self.state[p]:
                    self.state[p]["exp_avg"] = torch.zeros_like(p)
                    self.state[p]["exp_avg_sq"] = torch.zeros_like(p)
            # the functional form advances the counts it is given, hence one less, one tensor each
            counts = [torch.tensor(float(group["step"] - 1)) for _ in params]
            beta1, beta2 = group["betas"]
            adamw(
                params,
                [p.grad for p in params],
                [self.state[p]["exp_avg"] for p in params],
                [self.state[p]["exp_avg_sq"] for p in params],
                [],
                counts,
                # one pass over each tensor, without temporaries of the model's size
                foreach=False,
                fused=True,
                amsgrad=False,
                beta1=beta1,
                beta2=beta2,
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=False,
            )
