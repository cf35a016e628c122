"""What an operator that writes into its arguments owes to torch, as torch's own in-place operators do."""

from __future__ import annotations

import torch
from torch import Tensor


def need_writable(op: str, name: str, tensor: Tensor) -> None:
    """RuntimeError where a gradient would be wrong after the write, or elements share memory."""
    if torch.is_grad_enabled() and tensor.requires_grad:
        raise RuntimeError(f"{op}: {name} requires a gradient, expected the call under torch.no_grad()")
    if any(step == 0 and size > 1 for step, size in zip(tensor.stride(), tensor.shape, strict=True)):
        raise RuntimeError(f"{op}: {name} is expanded, its rows share memory: expected one place an element")


def written(*tensors: Tensor) -> None:
    """Raise the version counters, by which autograd finds that what it saved has changed."""
    if not torch.compiler.is_compiling():  # a graph knows what it writes
        torch.autograd.graph.increment_version(list(tensors))
