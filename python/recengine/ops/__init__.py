"""Operators: one public function each, a plain-torch reference, kernels where they are live."""

from .attention import cosine_attention
from .retrieval import rank_of, topk
from .softmax_loss import info_nce, linear_cross_entropy, sampled_logsumexp, sampled_scores

__all__ = [
    "cosine_attention",
    "info_nce",
    "linear_cross_entropy",
    "rank_of",
    "sampled_logsumexp",
    "sampled_scores",
    "topk",
]
