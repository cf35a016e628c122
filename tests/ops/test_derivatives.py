"""Derivatives that kernels do not have: the second one is refused, forward mode runs the references."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from recengine.ops import (
    Experts,
    bipartite_graph,
    cosine_attention,
    cosine_attention_at,
    embedding_bag_sum,
    gated_attention,
    grouped_swiglu,
    info_nce,
    linear_cross_entropy,
    logsumexp_rows,
    mix_norm,
    mix_prenorm,
    propagate,
    route,
    sampled_logits,
    sampled_logsumexp,
    softmax_attention,
    softmax_attention_at,
    token_mix,
)
from recengine.ops._library import native

kernel = pytest.mark.skipif(not native().cpu, reason="no native kernels here")

Case = tuple[
    str, Callable[..., Tensor], list[tuple[int, ...]]
]  # who refuses, the function, sizes of its inputs
BOUNDS, WANTED, IDS = torch.tensor([0, 5, 9]), torch.tensor([1, 5, 6]), torch.tensor([[1, 4], [2, 2], [0, 7]])
CHOSEN = torch.stack([torch.arange(2) + i % 3 for i in range(80)])[:, None].expand(80, 2, 2)
GRAPH = bipartite_graph(np.array([0, 1, 1]), np.array([0, 0, 1]), 2, 2)


def mixture(x: Tensor, gates: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    rows = x.shape[0]  # many of them keep what lies before the activation
    return grouped_swiglu(x, Experts(gate, up, down), (CHOSEN[:rows], gates))


def dense(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    return grouped_swiglu(x, Experts(gate, up, down))


BANK = [(2, 4, 8, 6), (2, 4, 8, 6), (2, 4, 6, 8)]
CASES: dict[str, Case] = {
    "cosine_attention": ("cosine_attention", lambda q, m: cosine_attention(q, m=m), [(2, 9, 3, 2, 16), (2,)]),
    "cosine_attention_at": (
        "cosine_attention_at",
        lambda q, k: cosine_attention_at(q, k, WANTED, cu_seqlens=BOUNDS, scale="one"),
        [(3, 2, 16), (9, 2, 2, 16)],
    ),
    "softmax_attention": (
        "softmax_attention",
        lambda q: softmax_attention(q, cu_seqlens=BOUNDS),
        [(9, 3, 2, 16)],
    ),
    "softmax_attention_at": (
        "softmax_attention_at",
        lambda q, k: softmax_attention_at(q, k, WANTED, cu_seqlens=BOUNDS),
        [(3, 2, 16), (9, 2, 2, 16)],
    ),
    "gated_attention": (
        "gated_attention",
        lambda q, k, v, b: gated_attention(q, k, v, WANTED, cu_seqlens=BOUNDS, by_distance=b),
        [(3, 2, 16), (9, 2, 16), (9, 2, 16), (9,)],
    ),
    "token_mix": ("token_mixing", lambda x: token_mix(x, 4).square(), [(3, 4, 16)]),
    "mix_norm": ("token_mixing", lambda x, w: mix_norm(x, w, 4), [(3, 4, 16), (16,)]),
    "mix_prenorm": ("token_mixing", lambda x, w: torch.cat(mix_prenorm(x, w, 4)), [(3, 4, 16), (16,)]),
    "embedding_bag_sum": (
        "embedding_bag_sum",
        lambda w, p: embedding_bag_sum(w, IDS, per_sample_weights=p),
        [(8, 4), (3, 2)],
    ),
    "route": ("route", lambda x, r: route(x, r, 2).gates, [(6, 2, 8), (2, 8, 4)]),
    "dense": ("grouped_swiglu", dense, [(80, 2, 8), (2, 8, 6), (2, 8, 6), (2, 6, 8)]),
    "mixture of few": ("grouped_swiglu", mixture, [(3, 2, 8), (3, 2, 2), *BANK]),
    "mixture of many": ("grouped_swiglu", mixture, [(80, 2, 8), (80, 2, 2), *BANK]),
    "linear_cross_entropy": (
        "linear_cross_entropy",
        lambda h, w, b: linear_cross_entropy(h, w, WANTED, bias=b),
        [(3, 8), (20, 8), (20,)],
    ),
    "linear_cross_entropy, much": (
        "linear_cross_entropy",
        lambda h, w: linear_cross_entropy(h, w, torch.arange(1100)),
        [(1100, 3), (4000, 3)],
    ),
    "info_nce": ("linear_cross_entropy", lambda a, b: info_nce(a, b), [(5, 8), (5, 8)]),
    "sampled_logsumexp": (
        "sampled_logsumexp",
        lambda a, t, w: sampled_logsumexp(a, t, IDS, log_weight=w),
        [(3, 4), (8, 4), (3, 2)],
    ),
    "sampled_logits": ("sampled_logits", lambda a, t: sampled_logits(a, t, IDS), [(3, 4), (8, 4)]),
    "logsumexp_rows": ("logsumexp_rows", logsumexp_rows, [(3, 4)]),
    "propagate": ("", lambda x: propagate(GRAPH, x), [(4, 4)]),
}


def inputs(name: str, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, generator=generator).to(dtype) for size in CASES[name][2]]


def second(name: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
    leaves = [value.requires_grad_() for value in inputs(name, dtype)]
    loss = CASES[name][1](*leaves).square().sum()
    first = torch.autograd.grad(loss, leaves, create_graph=True)
    return torch.autograd.grad(sum(g.square().sum() for g in first), leaves)


@kernel
@pytest.mark.parametrize("name", CASES)
def test_second_derivatives_are_right_or_refused(name: str) -> None:
    who = CASES[name][0]
    if name != "linear_cross_entropy, much":
        assert all(
            bool(value.isfinite().all()) and bool(value.any()) for value in second(name, torch.float64)
        )
    if who:
        with pytest.raises(RuntimeError, match=f"^{who} has no second derivative; use float64"):
            second(name, torch.float32)


@pytest.mark.parametrize("name", CASES)
def test_forward_mode_agrees_with_float64(name: str) -> None:
    found, truth = (
        torch.func.jvp(CASES[name][1], (*inputs(name, dtype),), (*inputs(name, dtype),))[1]
        for dtype in (torch.float32, torch.float64)
    )
    assert bool(truth.any())
    torch.testing.assert_close(found.double(), truth, rtol=1e-4, atol=1e-5)
