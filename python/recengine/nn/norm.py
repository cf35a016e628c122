"""Normalisation of rows."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class StdNorm(nn.Module):
    """a (x - mean) / (std + eps) + b, std the unbiased one and eps added to it, not to the variance.

    The form of the "annotated Transformer" and of code that grew from it; elsewhere take torch.nn.LayerNorm.
    """

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.eps = eps

    def forward(self, rows: Tensor) -> Tensor:
        """[..., dim] -> the same shape."""
        centred = rows - rows.mean(-1, keepdim=True)
        out: Tensor = self.weight * centred / (rows.std(-1, keepdim=True) + self.eps) + self.bias
        return out
