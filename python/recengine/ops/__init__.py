"""Operators: one public function each, a plain-torch reference, kernels where they are live."""

from .attention import cosine_attention, cosine_attention_at
from .competition import Competing, sampled_competition
from .embedding import embedding_bag_sum, gradient_rows, rowwise_adagrad_, sparse_adam_
from .graph import SparseMatrix, bipartite_graph, layer_mean, propagate, sparse_matrix
from .memory import keep_memory
from .moe import Experts, PackedWeights, Routing, grouped_swiglu, route
from .packed_attention import (
    gated_attention,
    packed_kernel_takes,
    softmax_attention,
    softmax_attention_at,
)
from .retrieval import rank_of, topk
from .sampled_softmax import logsumexp_rows, sampled_logits, sampled_logsumexp, sampled_scores
from .sampling import draw_negatives, hardest
from .softmax_loss import info_nce, linear_cross_entropy
from .token_mixing import mix_norm, mix_prenorm, revert_norm, revert_prenorm, token_mix, token_revert

__all__ = [
    "Competing",
    "Experts",
    "PackedWeights",
    "Routing",
    "SparseMatrix",
    "bipartite_graph",
    "cosine_attention",
    "cosine_attention_at",
    "draw_negatives",
    "embedding_bag_sum",
    "gated_attention",
    "gradient_rows",
    "grouped_swiglu",
    "hardest",
    "info_nce",
    "keep_memory",
    "layer_mean",
    "linear_cross_entropy",
    "logsumexp_rows",
    "mix_norm",
    "mix_prenorm",
    "packed_kernel_takes",
    "propagate",
    "rank_of",
    "revert_norm",
    "revert_prenorm",
    "route",
    "rowwise_adagrad_",
    "sampled_competition",
    "sampled_logits",
    "sampled_logsumexp",
    "sampled_scores",
    "softmax_attention",
    "softmax_attention_at",
    "sparse_adam_",
    "sparse_matrix",
    "token_mix",
    "token_revert",
    "topk",
]
