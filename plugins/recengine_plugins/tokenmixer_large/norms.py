"""RMSNorm where no operator fuses it with something else, and of the tokens that are read out."""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-6


def rms(x: Tensor, scale: Tensor) -> Tensor:
    """scale * x / sqrt(mean(x^2) + EPS), the mean over the last dimension, in float32 or wider."""
    wide = widened(x)
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPS) * scale).to(x.dtype)


def pooled_rms(x: Tensor, scale: Tensor) -> Tensor:
    """The mean over the tokens of ``rms(x, scale)``, [B, T, D] to [B, D].

    A product of one row with each sample's tokens, so that no normed copy of all tokens is made.
    """
    with torch.autocast(x.device.type, enabled=False):
        wide = widened(x)
        norm = torch.linalg.vector_norm(wide, dim=-1)
        share = torch.rsqrt(norm.square() / x.shape[2] + EPS) / x.shape[1]
        return (torch.bmm(share.unsqueeze(1), wide).squeeze(1) * scale).to(x.dtype)


def widened(x: Tensor) -> Tensor:
    """In float32, or in float64 where x is."""
    return x if x.dtype == torch.float64 else x.float()
