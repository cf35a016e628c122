"""Rows of length one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_SMALLEST = 1e-12


def unit_rows(rows: Tensor) -> Tensor:
    """x_r / |x_r| for every row of ``rows`` [n, d]; a row of zeros stays zero, with a zero gradient.

    The gradient is (g - y <g, y>) / |x|, made in two passes over the table: normalising a whole item table is
    part of every step of a cosine loss.
    """
    unit: Tensor = _Unit.apply(rows)  # type: ignore[no-untyped-call]
    return unit


class _Unit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        inverse = torch.where(length > _SMALLEST, 1.0 / length.clamp(min=_SMALLEST), 0.0)
        unit = rows * inverse
        ctx.save_for_backward(unit, inverse)
        return unit

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        unit, inverse = ctx.saved_tensors
        along = torch.einsum("nd,nd->n", grad, unit)[:, None]
        return torch.addcmul(grad, unit, along, value=-1).mul_(inverse)
