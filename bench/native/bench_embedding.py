"""Embedding bags with row-wise Adagrad and Adam steps beside torch's EmbeddingBag and SparseAdam."""

from __future__ import annotations

from collections.abc import Callable

import torch
from common import OURS, Case, main
from torch import Tensor
from torch.nn import functional

from recengine.ops import embedding_bag_sum, gradient_rows, rowwise_adagrad_, sparse_adam_

Candidates = dict[str, Callable[[], object]]


def bags(V: int, B: int, L: int, d: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A table, ids with a long tail (as items have), offsets, and a gradient."""
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(V, d, generator=generator)
    ids = (torch.rand(B * L, generator=generator).pow(4) * V).long()
    return table, ids, torch.arange(B + 1) * L, torch.randn(B, d, generator=generator)


def theirs(table: Tensor, ids: Tensor, offsets: Tensor, sparse: bool) -> Tensor:
    return functional.embedding_bag(ids, table, offsets, mode="sum", sparse=sparse, include_last_offset=True)


def sums(V: int, B: int, L: int, d: int) -> Candidates:
    table, ids, offsets, _ = bags(V, B, L, d)

    def gathered(table: Tensor, ids: Tensor) -> Tensor:
        return table[ids].view(B, L, d).sum(1)

    compiled = torch.compile(gathered, dynamic=False)
    return {
        OURS: lambda: embedding_bag_sum(table, ids, offsets),
        "embedding_bag": lambda: theirs(table, ids, offsets, False),
        "eager gather": lambda: gathered(table, ids),
        "compile gather": lambda: compiled(table, ids),
    }


def adagrad_step(V: int, B: int, L: int, d: int) -> Candidates:
    table, ids, offsets, grad = bags(V, B, L, d)

    def ours() -> None:
        leaf = tables[OURS].requires_grad_()
        (g,) = torch.autograd.grad(embedding_bag_sum(leaf, ids, offsets, sparse=True), leaf, grad)
        rowwise_adagrad_(leaf.detach(), state[OURS], *gradient_rows(g), lr=0.01)

    def eager() -> None:
        leaf = tables["eager sparse"].requires_grad_()
        (g,) = torch.autograd.grad(theirs(leaf, ids, offsets, True), leaf, grad)
        g = g.coalesce()
        rows, values, s = g.indices()[0], g.values(), state["eager sparse"]
        s.index_add_(0, rows, values.square().mean(1))
        with torch.no_grad():
            leaf.index_add_(0, rows, values / (s[rows].sqrt()[:, None] + 1e-10), alpha=-0.01)

    def whole() -> None:
        leaf = tables["eager dense"].requires_grad_()
        (g,) = torch.autograd.grad(theirs(leaf, ids, offsets, False), leaf, grad)
        s = state["eager dense"]
        s += g.square().mean(1)
        with torch.no_grad():
            leaf.addcdiv_(g, s.sqrt()[:, None] + 1e-10, value=-0.01)

    candidates: Candidates = {OURS: ours, "eager sparse": eager, "eager dense": whole}
    tables = {name: table.clone() for name in candidates}
    state = {name: torch.zeros(V) for name in candidates}
    return candidates


def adam_step(V: int, B: int, L: int, d: int) -> Candidates:
    table, ids, offsets, grad = bags(V, B, L, d)
    mine, m, v = table.clone().requires_grad_(), torch.zeros(V, d), torch.zeros(V, d)
    parameter = torch.nn.Parameter(table.clone())
    optimiser = torch.optim.SparseAdam([parameter], lr=0.001)

    def ours() -> None:
        (g,) = torch.autograd.grad(embedding_bag_sum(mine, ids, offsets, sparse=True), mine, grad)
        sparse_adam_(mine.detach(), m, v, *gradient_rows(g), step=1, lr=0.001)

    def sparse_adam() -> None:
        optimiser.zero_grad()
        theirs(parameter, ids, offsets, True).backward(grad)
        optimiser.step()

    return {OURS: ours, "SparseAdam": sparse_adam}


def cases(quick: bool) -> list[Case]:
    V, B, L, d = (20_000, 512, 20, 64) if quick else (200_000, 4096, 50, 64)
    shape = f"V{V} B{B} L{L} d{d}"
    moved = float(B * (L + 1) * d * 4)
    return [
        Case(f"bag sum {shape}", lambda: sums(V, B, L, d), traffic=moved, claim="native.embedding-sum"),
        Case(
            f"bag sum, gradient, row-wise Adagrad {shape}",
            lambda: adagrad_step(V, B, L, d),
            claim="native.embedding-adagrad-step",
        ),
        Case(
            f"bag sum, gradient, sparse Adam {shape}",
            lambda: adam_step(V, B, L, d),
            claim="native.embedding-adam-step",
        ),
    ]


if __name__ == "__main__":
    main("Embedding bags and row updates", cases)
