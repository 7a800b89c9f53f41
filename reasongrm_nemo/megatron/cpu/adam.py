# SPDX-License-Identifier: Apache-2.0
"""AdamW with the state layout of Apex's FusedAdam, which megatron-core can save and resume."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim.adamw import adamw


class FusedAdam(torch.optim.AdamW):
    """PyTorch's AdamW with the step count in the parameter group instead of in each parameter's state.

    megatron-core's distributed checkpoints require every state tensor to have its parameter's shape
    (dist_checkpointing/optimizer.py, ``make_sharded_optimizer_tensor``). PyTorch's 0-dim ``step`` violates
    this, and leaving ``step`` out lets a run save but not resume. Apex's FusedAdam, used by the GPU
    platform, keeps one count per parameter group, and so does this class.
    """

    def __init__(self, params: Any, **options: Any) -> None:
        super().__init__(params, **options)
        for group in self.param_groups:
            group.setdefault("step", 0)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Skip Adam's upgrade of old checkpoints, which expects ``step`` in each parameter's state."""
        torch.optim.Optimizer.__setstate__(self, state)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient (fp32, any shape) with AdamW."""
        if closure is not None:
            raise ValueError("Megatron computes gradients before the step; closures are not supported.")
        for group in self.param_groups:
            group["step"] += 1
            params = [p for p in group["params"] if p.grad is not None]
            for p in params:
                if not self.state[p]:
                    self.state[p]["exp_avg"] = torch.zeros_like(p)
                    self.state[p]["exp_avg_sq"] = torch.zeros_like(p)
            # the functional form increments its step counts in place: pass one less, one tensor per parameter
            counts = [torch.tensor(float(group["step"] - 1)) for _ in params]
            beta1, beta2 = group["betas"]
            adamw(
                params,
                [p.grad for p in params],
                [self.state[p]["exp_avg"] for p in params],
                [self.state[p]["exp_avg_sq"] for p in params],
                [],
                counts,
                # fused: one pass over each tensor, without temporaries of the model's size
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
