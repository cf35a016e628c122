"""Operators: one public function each, a plain-torch reference, kernels where they are live."""

from .attention import cosine_attention
from .retrieval import rank_of, topk
from .softmax_loss import info_nce, linear_cross_entropy, sampled_logsumexp, sampled_scores
from .token_mixing import mix_norm, mix_prenorm, revert_norm, revert_prenorm, token_mix, token_revert

__all__ = [
    "cosine_attention",
    "info_nce",
    "linear_cross_entropy",
    "mix_norm",
    "mix_prenorm",
    "rank_of",
    "revert_norm",
    "revert_prenorm",
    "sampled_logsumexp",
    "sampled_scores",
    "token_mix",
    "token_revert",
    "topk",
]
