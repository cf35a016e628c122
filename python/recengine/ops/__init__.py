"""Operators: one public function each, a plain-torch reference, kernels where they are live."""

from .attention import cosine_attention
from .embedding import embedding_bag_sum, gradient_rows, rowwise_adagrad_, sparse_adam_
from .moe import Experts, PackedWeights, Routing, grouped_swiglu, route
from .retrieval import rank_of, topk
from .softmax_loss import info_nce, linear_cross_entropy, sampled_logsumexp, sampled_scores
from .token_mixing import mix_norm, mix_prenorm, revert_norm, revert_prenorm, token_mix, token_revert

__all__ = [
    "Experts",
    "PackedWeights",
    "Routing",
    "cosine_attention",
    "embedding_bag_sum",
    "gradient_rows",
    "grouped_swiglu",
    "info_nce",
    "linear_cross_entropy",
    "mix_norm",
    "mix_prenorm",
    "rank_of",
    "revert_norm",
    "revert_prenorm",
    "route",
    "rowwise_adagrad_",
    "sampled_logsumexp",
    "sampled_scores",
    "sparse_adam_",
    "token_mix",
    "token_revert",
    "topk",
]
