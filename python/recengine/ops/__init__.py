"""Operators: one public function each, a plain-torch reference, kernels where they are live."""

from .attention import cosine_attention
from .retrieval import rank_of, topk
from .softmax_loss import linear_cross_entropy

__all__ = ["cosine_attention", "linear_cross_entropy", "rank_of", "topk"]
