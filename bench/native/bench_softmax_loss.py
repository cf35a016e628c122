"""Softmax losses beside torch: catalogue cross-entropy and sampled log-sum-exp, forward and backward."""

from __future__ import annotations

from collections.abc import Callable

import torch
from common import OURS, Case, main
from torch import Tensor
from torch.nn import functional

from recengine.ops import linear_cross_entropy, sampled_logsumexp

Candidates = dict[str, Callable[[], object]]


def catalogue(rows: int, items: int, width: int, dtype: torch.dtype, backward: bool) -> Candidates:
    generator = torch.Generator().manual_seed(0)
    hidden = (torch.randn(rows, width, generator=generator) / width**0.25).to(dtype).requires_grad_(backward)
    weight = (torch.randn(items, width, generator=generator) / width**0.25).to(dtype).requires_grad_(backward)
    target = torch.randint(0, items, (rows,), generator=generator)

    def plain(hidden: Tensor, weight: Tensor) -> Tensor:
        return functional.cross_entropy(hidden @ weight.t(), target)

    losses = {
        OURS: lambda hidden, weight: linear_cross_entropy(hidden, weight, target),
        "eager": plain,
        "compile": torch.compile(plain, dynamic=False),
    }
    return {name: timed(loss, (hidden, weight), backward) for name, loss in losses.items()}


def timed(loss: Callable[..., Tensor], inputs: tuple[Tensor, ...], backward: bool) -> Callable[[], object]:
    if backward:
        return lambda: torch.autograd.grad(loss(*inputs).sum(), inputs)
    return lambda: loss(*inputs)


def sampled(rows: int, items: int, count: int, width: int, dtype: torch.dtype) -> Candidates:
    generator = torch.Generator().manual_seed(0)
    anchors, table = (
        functional.normalize(torch.randn(n, width, generator=generator)).to(dtype).requires_grad_()
        for n in (rows, items)
    )
    negatives = torch.randint(0, items, (rows, count), generator=generator)
    log_weight = torch.randn(rows, count, generator=generator) / 4
    temperature = 0.05 + 0.1 * torch.rand(rows, generator=generator)

    def gathered(anchors: Tensor, table: Tensor) -> Tensor:
        products = torch.bmm(table[negatives], anchors[:, :, None]).squeeze(2).float()
        return (products / temperature[:, None] + log_weight).logsumexp(1)

    def embedded(anchors: Tensor, table: Tensor) -> Tensor:
        products = torch.bmm(functional.embedding(negatives, table), anchors[:, :, None]).squeeze(2).float()
        return (products / temperature[:, None] + log_weight).logsumexp(1)

    def whole(anchors: Tensor, table: Tensor) -> Tensor:
        products = (anchors @ table.t()).gather(1, negatives).float()
        return (products / temperature[:, None] + log_weight).logsumexp(1)

    def ours(anchors: Tensor, table: Tensor) -> Tensor:
        return sampled_logsumexp(anchors, table, negatives, log_weight=log_weight, temperature=temperature)

    losses = {
        OURS: ours,
        "eager gather": gathered,
        "eager embedding": embedded,
        "compile gather": torch.compile(gathered, dynamic=False),
        "eager whole matrix": whole,
    }
    return {name: timed(loss, (anchors, table), True) for name, loss in losses.items()}


def cases(quick: bool) -> list[Case]:
    rows, items = (256, 8000) if quick else (1024, 50_000)
    shape = f"{rows}x{items}x64"
    product = 2.0 * rows * items * 64
    single, half = torch.float32, torch.bfloat16
    found = [
        Case(
            f"catalogue CE fwd+bwd {shape} float32",
            lambda: catalogue(rows, items, 64, single, True),
            flop=3 * product,
            claim="native.catalogue_ce",
            memory_claim="native.catalogue_ce_memory",
        ),
        Case(
            f"catalogue CE fwd {shape} float32",
            lambda: catalogue(rows, items, 64, single, False),
            flop=product,
        ),
        Case(
            f"catalogue CE fwd+bwd {shape} bfloat16",
            lambda: catalogue(rows, items, 64, half, True),
            flop=3 * product,
            claim="native.catalogue_ce_bf16",
        ),
        Case(
            f"sampled LSE fwd+bwd {rows}x1000x64 of {items} float32",
            lambda: sampled(rows, items, 1000, 64, single),
            traffic=3.0 * rows * 1000 * 64 * 4,
            claim="native.sampled_lse",
            memory_claim="native.sampled_lse_memory",
            memory_ratio=True,
        ),
        Case(
            f"sampled LSE fwd+bwd {rows}x1000x64 of {items} bfloat16",
            lambda: sampled(rows, items, 1000, 64, half),
            claim="native.sampled_lse_bf16",
        ),
    ]
    if not quick:
        found.append(
            Case(
                "catalogue CE fwd+bwd 1024x3700x128 float32",
                lambda: catalogue(1024, 3700, 128, single, True),
                flop=6.0 * 1024 * 3700 * 128,
            )
        )
    return found


if __name__ == "__main__":
    main("Softmax losses", cases)
