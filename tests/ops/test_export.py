"""Every operator in a graph whose batch may have any size: exported, and compiled once for all sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from recengine.ops import (
    Experts,
    cosine_attention,
    embedding_bag_sum,
    gated_attention,
    grouped_swiglu,
    info_nce,
    linear_cross_entropy,
    logsumexp_rows,
    mix_norm,
    mix_prenorm,
    rank_of,
    revert_norm,
    route,
    sampled_logits,
    sampled_logsumexp,
    sampled_scores,
    softmax_attention,
    softmax_attention_at,
    topk,
)
from recengine.ops._library import native

pytestmark = pytest.mark.skipif(not native().cpu, reason="no native kernels here")

TRACED, OTHERS = 40, (3, 71)
Inputs = Callable[[int], tuple[Tensor, ...]]


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))) / 3


def ids(high: int, *shape: int) -> Tensor:
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(sum(shape)))


def ends(size: int) -> Callable[[int], Tensor]:
    """Of sequences of one size each."""
    return lambda batch: torch.arange(batch + 1) * size


class Case:
    """``layer`` of the inputs for a batch and of parameters; the leading dimensions of the inputs in terms of
    the batch, where they differ from it."""

    def __init__(
        self, layer: Callable[..., Any], inputs: Inputs, *parameters: Tensor, steps: Any = None
    ) -> None:
        self.layer, self.inputs, self.parameters, self.steps = layer, inputs, parameters, steps


class Model(torch.nn.Module):
    def __init__(self, case: Case) -> None:
        super().__init__()
        self.layer = case.layer
        self.learned = torch.nn.ParameterList(case.parameters)

    def forward(self, *inputs: Tensor) -> Any:
        return self.layer(*inputs, *self.learned)


def experts(*shape: int) -> tuple[Tensor, Tensor, Tensor]:
    *lead, width, hidden = shape
    return draw(*shape), draw(*shape) + 0.1, draw(*lead, hidden, width)


def routed(x: Tensor, router: Tensor, *w: Tensor) -> Tensor:
    return grouped_swiglu(x, Experts(*w[:3]), route(x, router, 2), shared=Experts(*w[3:]) if w[3:] else None)


def attention(qkv: Tensor, other: Tensor, m: Tensor | None = None, **options: Any) -> Tensor:
    name = "mask" if other.dtype == torch.bool else "cu_seqlens" if qkv.dim() == 4 else "lengths"
    return cosine_attention(qkv, **{name: other}, m=m, **options)


def packed(layer: Callable[..., Tensor], *parameters: Tensor) -> Case:
    """Sequences of four rows, of which the last one of each asks."""

    def inputs(batch: int) -> tuple[Tensor, ...]:
        return draw(batch, 2, 16), draw(4 * batch, 2, 2, 16), torch.arange(batch) * 4 + 3, ends(4)(batch)

    return Case(layer, inputs, *parameters, steps=((1, 0), (4, 0), (1, 0), (1, 1)))


TABLE, ITEMS = draw(90, 16), (draw(90, 16),)
MIXTURE = (draw(2, 8, 4), *experts(2, 4, 8, 8))
CASES: dict[str, Case] = {
    "attention, mask": Case(attention, lambda b: (draw(b, 9, 3, 2, 16), ids(2, b, 9).bool()), torch.zeros(2)),
    "attention, lengths, causal": Case(
        lambda x, n, m: attention(x, n, m, causal=True),
        lambda b: (draw(b, 9, 3, 2, 16), ids(10, b)),
        torch.zeros(2),
    ),
    "attention, packed": Case(
        attention,
        lambda b: (draw(4 * b, 3, 2, 16), ends(4)(b)),
        torch.zeros(2),
        steps=((4, 0), (1, 1)),
    ),
    "softmax attention": Case(
        lambda x, at: softmax_attention(x, cu_seqlens=at, causal=True),
        lambda b: (draw(4 * b, 3, 2, 16), ends(4)(b)),
        steps=((4, 0), (1, 1)),
    ),
    "softmax attention, some rows": packed(
        lambda q, kv, wanted, at: softmax_attention_at(q, kv, wanted, cu_seqlens=at)
    ),
    "gated attention": packed(
        lambda q, kv, wanted, at, by: gated_attention(
            q, kv[:, 0], kv[:, 1], wanted, cu_seqlens=at, by_distance=by
        ),
        draw(8),
    ),
    "token mixing": Case(
        lambda x, w: mix_norm(x, w, 4, residual=x), lambda b: (draw(b, 4, 16),), torch.ones(16)
    ),
    "token mixing, both": Case(
        lambda x, w: mix_prenorm(x, w, 2, residual=x[:, :2].repeat(1, 1, 2)),
        lambda b: (draw(b, 4, 16),),
        torch.ones(32),
    ),
    "token mixing, back": Case(
        lambda x, w: revert_norm(x, w, 4), lambda b: (draw(b, 2, 32),), torch.ones(16)
    ),
    "routing": Case(lambda x, w: tuple(route(x, w, 2)), lambda b: (draw(b, 2, 8),), MIXTURE[0]),
    "experts, dense": Case(
        lambda x, *w: grouped_swiglu(x, Experts(*w)), lambda b: (draw(b, 2, 8),), *experts(2, 8, 8)
    ),
    "experts, mixture": Case(routed, lambda b: (draw(b, 2, 8),), *MIXTURE),
    "experts, shared": Case(routed, lambda b: (draw(b, 2, 8),), *MIXTURE, *experts(2, 8, 12)),
    "catalogue cross-entropy": Case(
        lambda h, y, w, c: linear_cross_entropy(h, w, y, bias=c),
        lambda b: (draw(b, 16), ids(90, b)),
        TABLE,
        draw(90),
    ),
    "in-batch": Case(
        lambda a, b, w: info_nce(a @ w, b, ids=torch.arange(a.shape[0]) // 2, temperature=0.5),
        lambda b: (draw(b, 16), draw(b, 16) + 1),
        torch.eye(16),
    ),
    "sampled": Case(
        lambda a, n, t: sampled_logsumexp(a, t, n, temperature=0.5, exclude=n[:, 0]),
        lambda b: (draw(b, 16), ids(90, b, 7)),
        *ITEMS,
    ),
    "sampled, weights and temperatures": Case(
        lambda a, n, w, t: sampled_logsumexp(
            a, t, n, log_weight=w, temperature=w[:, 0].exp(), positives=n[:, 0]
        ),
        lambda b: (draw(b, 16), ids(90, b, 7), draw(b, 7)),
        *ITEMS,
    ),
    "sampled, shared": Case(
        lambda a, t: sampled_logsumexp(a, t, torch.arange(7)), lambda b: (draw(b, 16),), *ITEMS
    ),
    "sampled scores": Case(
        lambda a, n, t: sampled_scores(a, t, n), lambda b: (draw(b, 16), ids(90, b, 7)), *ITEMS
    ),
    "sampled logits": Case(
        lambda a, n, t: sampled_logits(a, t, n), lambda b: (draw(b, 16), ids(90, b, 7)), *ITEMS
    ),
    "given logits": Case(
        lambda x, live, w: logsumexp_rows(x * w, live), lambda b: (draw(b, 9), ids(2, b, 9).bool()), draw(9)
    ),
    "top-k": Case(lambda q, t: topk(q, t, 5), lambda b: (draw(b, 16),), *ITEMS),
    "top-k, seen": Case(
        lambda q, at, seen, t: topk(q, t, 5, seen_indptr=at, seen_items=seen),
        lambda b: (draw(b, 16), ends(3)(b), ids(90, 3 * b)),
        *ITEMS,
        steps=((1, 0), (1, 1), (3, 0)),
    ),
    "rank": Case(lambda q, y, t: rank_of(q, t, y), lambda b: (draw(b, 16), ids(90, b)), *ITEMS),
    "bags": Case(
        lambda n, at, t: embedding_bag_sum(t, n, at),
        lambda b: (ids(90, 3 * b), ends(3)(b)),
        TABLE,
        steps=((3, 0), (1, 1)),
    ),
    "bags of one size": Case(
        lambda n, f, t: embedding_bag_sum(t, n, per_sample_weights=f),
        lambda b: (ids(90, b, 3), draw(b, 3)),
        TABLE,
    ),
}


def flat(result: Any) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


@pytest.mark.parametrize("learning", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_export_of_any_batch(name: str, learning: bool) -> None:
    case = CASES[name]
    model, batch = Model(case).requires_grad_(learning), torch.export.Dim("B", min=2, max=4096)
    given = case.inputs(TRACED)
    steps = case.steps or ((1, 0),) * len(given)
    shapes = tuple({0: step * batch + more if (step, more) != (1, 0) else batch} for step, more in steps)
    with torch.set_grad_enabled(learning):
        program = torch.export.export(model, given, dynamic_shapes=(shapes,)).module()
        for size in (TRACED, *OTHERS):
            inputs = case.inputs(size)
            for found, wanted in zip(flat(program(*inputs)), flat(model(*inputs)), strict=True):
                assert torch.equal(found, wanted), size


@pytest.mark.parametrize("name", CASES)
def test_one_graph_serves_every_batch(name: str) -> None:
    case, counter = CASES[name], CompileCounter()
    model = Model(case)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=counter)
    for size in (TRACED, *OTHERS):
        inputs = case.inputs(size)
        for found, wanted in zip(flat(compiled(*inputs)), flat(model(*inputs)), strict=True):
            assert torch.equal(found, wanted), size
    assert counter.frame_count == 1
