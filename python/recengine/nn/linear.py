"""Linear layers on packed rows."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

STEP = 128  # rows of a training step in bfloat16 on a CPU are made a multiple of this


def linear(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """torch's linear; rows [T, d] -> [T, d_out].

    In bfloat16 with gradients on a CPU, of rows that zeros fill up to a multiple of STEP: oneDNN compiles a
    kernel for every number of rows that it meets, packed batches differ in that number from step to step, and
    a new kernel costs ten times the product (torch 2.13, 1,200 rows, width 64).
    """
    extra = -len(rows) % STEP if _compiles(rows, weight) else 0
    if not extra:
        return functional.linear(rows, weight, bias)
    filled = functional.pad(rows.to(torch.bfloat16), (0, 0, 0, extra))
    return functional.linear(filled, weight, bias)[: len(rows)]


def _compiles(rows: Tensor, weight: Tensor) -> bool:
    if rows.device.type != "cpu" or rows.ndim != 2 or not (torch.is_grad_enabled() and weight.requires_grad):
        return False
    cast = torch.is_autocast_enabled("cpu") and rows.dtype != torch.float64
    return (torch.get_autocast_dtype("cpu") if cast else rows.dtype) == torch.bfloat16


class Linear(nn.Linear):
    """``torch.nn.Linear`` through ``linear``."""

    def forward(self, input: Tensor) -> Tensor:
        """rows [T, d] -> [T, d_out]."""
        return linear(input, self.weight, self.bias)
