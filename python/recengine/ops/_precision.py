"""What several families have in common: which tensors have a kernel, and the dtype of their sums."""

from __future__ import annotations

import torch
from torch import Tensor

from ._library import has_kernel


def kernel_takes(tensor: Tensor) -> bool:
    """Whether a kernel is live for ``tensor``. float64 always runs the reference;
    float16 has kernels on CUDA only."""
    if not has_kernel(tensor):
        return False
    return tensor.dtype in (torch.float32, torch.bfloat16) or (
        tensor.dtype == torch.float16 and tensor.is_cuda
    )


def autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Under autocast: a product's operands in autocast's dtype, as ``torch.nn.functional.linear`` does."""
    device = tensors[0].device.type
    if device != "meta" and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        return tuple(t if t.dtype == torch.float64 else t.to(dtype) for t in tensors)
    return tensors


def wide(tensor: Tensor, like: Tensor | None = None) -> Tensor:
    """In the dtype that sums are made in: float32, or float64 where the (other) tensor is."""
    return tensor.to(torch.promote_types((tensor if like is None else like).dtype, torch.float32))


def safe_logsumexp(logits: Tensor) -> Tensor:
    """Over the last dimension; minus infinity, with a zero gradient (torch's is NaN), if all are."""
    if logits.shape[-1] == 0:
        return logits.sum(-1) - torch.inf
    empty = (logits == -torch.inf).all(-1)
    lse = torch.where(empty[:, None], 0.0, logits).logsumexp(-1)
    return torch.where(empty, -torch.inf, lse)
