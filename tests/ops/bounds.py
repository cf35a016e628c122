"""How far a result may be from float64, relative in norm: 2e-6 in float32, 2e-3 in bfloat16."""

from __future__ import annotations

import torch
from torch import Tensor

from recengine.ops._library import native

FEW = 256


def bound(result: Tensor, *, products: int = 1) -> float:
    """For ``result``, whose value is what ``products`` products in turn leave.

    Rounding to bfloat16 changes a number by up to 2^-8 of it, many by 1.7e-3 in norm. Where the processor
    multiplies pairs of bfloat16 and has no matrix tiles, and on CUDA, what lies between two products is
    rounded so, too: 1.7e-3 twice, independently, are 2.4e-3.
    """
    if result.dtype != torch.bfloat16:
        return 2e-6
    if result.numel() < FEW:
        return 2.0**-8
    tiles = not result.is_cuda and native().cpu and torch.ops.recengine.on_tiles()
    return 2e-3 if products == 1 or tiles else 2.5e-3
