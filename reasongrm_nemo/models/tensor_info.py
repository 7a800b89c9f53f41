# SPDX-License-Identifier: Apache-2.0
"""What is said of a tensor before it comes: by a checkpoint's header, and by a push of weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a model, without its values: its Hugging Face name, dtype and whole shape."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @classmethod
    def of(cls, name: str, tensor: torch.Tensor) -> TensorInfo:
        """That of a tensor at hand."""
        return cls(name, tensor.dtype, tuple(tensor.shape))

    @property
    def nbytes(self) -> int:
        """Of its values."""
        return math.prod(self.shape) * self.dtype.itemsize
