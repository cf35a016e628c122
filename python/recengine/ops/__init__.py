"""Operators: one public function each, a plain-torch reference, kernels where they are live."""

from .softmax_loss import linear_cross_entropy

__all__ = ["linear_cross_entropy"]
