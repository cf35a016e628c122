"""Every form of a block against its formula in einsums of float64, forward and backward."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from recengine_plugins.tokenmixer_large.block import Block, block_for
from recengine_plugins.tokenmixer_large.config import TokenMixerLargeConfig
from recengine_plugins.tokenmixer_large.feeding import SparseSwiGLU, TokenFFN

WIDTH = 32


def swiglu(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """Every row of tokens through every expert, [B, R, D] to [B, R, E, D]."""
    hidden = functional.silu(torch.einsum("brd,redf->bref", x, gate))
    return torch.einsum("bref,refd->bred", hidden * torch.einsum("brd,redf->bref", x, up), down)


def fed(part: nn.Module, x: Tensor) -> Tensor:
    rows = x.shape[1]
    if isinstance(part, TokenFFN):
        hidden = functional.gelu(torch.einsum("brd,rdf->brf", x, part.up))
        return torch.einsum("brf,rfd->brd", hidden, part.down)
    one: Any = part
    if not isinstance(part, SparseSwiGLU):
        bank = (w.expand(rows, -1, -1)[:, None] for w in one.bank.experts())
        return swiglu(x, *bank).squeeze(2)
    logits = torch.einsum("brd,rde->bre", x, part.router.expand(rows, -1, -1))
    chosen = logits.sort(dim=-1, descending=True, stable=True).indices[..., : part.k]
    gates = torch.zeros_like(logits).scatter(-1, chosen, logits.gather(-1, chosen).softmax(-1))
    y = part.alpha * torch.einsum("bre,bred->brd", gates, swiglu(x, *part.bank.experts()))
    if part.always is not None:
        y = y + swiglu(x, *(w[:, None] for w in part.always.experts())).squeeze(2)
    return y


def norm(x: Tensor, scale: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * scale


def exchange(x: Tensor, parts: int) -> Tensor:
    b, rows, width = x.shape
    return torch.einsum("brpj->bprj", x.reshape(b, rows, parts, width // parts)).reshape(b, parts, -1)


def by_formula(block: Block, config: TokenMixerLargeConfig, x: Tensor) -> Tensor:
    tokens, heads = x.shape[1], config.heads_for(x.shape[1]) if config.mixing else x.shape[1]

    def mix(t: Tensor) -> Tensor:
        return exchange(t, heads) if config.mixing else t

    def revert(m: Tensor) -> Tensor:
        return exchange(m, tokens) if config.mixing else m

    one, two = block.mixed_norm, block.reverted_norm
    m = mix(x)
    if config.norm == "post":
        m = norm(fed(block.mixed, m) + m, one)
    elif config.norm == "before_mix":
        m = m + fed(block.mixed, mix(norm(x, one)))
    else:
        m = m + fed(block.mixed, norm(m, one))
    r = revert(m)
    carried = {"input": x, "reverted": r, "none": torch.zeros_like(x)}[config.residual]
    if config.norm == "post":
        return norm(fed(block.reverted, r) + carried, two)
    return carried + fed(block.reverted, norm(r, two))


def made(tokens: int, dtype: torch.dtype = torch.float32, **settings: Any) -> tuple[Block, Any]:
    torch.manual_seed(0)
    config = TokenMixerLargeConfig.parse({"hidden_dim": WIDTH, "down_gain": 1.0, **settings})
    block = block_for(tokens, config)
    with torch.no_grad():
        for scale in (block.mixed_norm, block.reverted_norm):
            scale.copy_(torch.rand_like(scale) + 0.5)
    return block.to(dtype), config


def gaps(block: Block, config: TokenMixerLargeConfig, x: Tensor) -> list[float]:
    """Of the output and of every gradient: the largest difference from float64 over the largest element
    (over 1e-6 where all are smaller, as a router's gradient that is zero)."""
    exact, x64 = copy.deepcopy(block).double(), x.detach().double().requires_grad_()
    x = x.detach().requires_grad_()
    ours, truth = block(x), by_formula(exact, config, x64)
    upstream = torch.randn(ours.shape).to(x.dtype)
    found = (ours.detach(), *torch.autograd.grad(ours, (x, *block.parameters()), upstream))
    wanted = (truth.detach(), *torch.autograd.grad(truth, (x64, *exact.parameters()), upstream.double()))
    assert ours.dtype == x.dtype
    return [
        float((one.double() - two).abs().max()) / max(float(two.abs().max()), 1e-6)
        for one, two in zip(found, wanted, strict=True)
    ]


SHAPES = [(4, 4), (6, 4), (3, 8)]
FORMS: list[dict[str, Any]] = [
    {},
    {"norm": "before_mix"},
    {"norm": "post"},
    {"residual": "reverted"},
    {"residual": "none"},
    {"norm": "before_mix", "residual": "reverted"},
    {"norm": "post", "residual": "reverted"},
    {"mixing": False},
    {"mixing": False, "norm": "before_mix"},
    {"mixing": False, "norm": "post"},
    {"ffn": "shared_swiglu"},
    {"ffn": "ffn"},
    {"experts": 4, "active": 2},
    {"experts": 4, "active": 3},
    {"experts": 8, "active": 4},
    {"experts": 4, "active": 3, "norm": "before_mix"},
    {"experts": 4, "active": 3, "norm": "post"},
    {"experts": 8, "active": 4, "residual": "reverted"},
    {"experts": 4, "active": 2, "shared_expert": False},
    {"experts": 4, "active": 1, "shared_extra": True},
    {"experts": 4, "active": 2, "shared_extra": True},
    {"experts": 4, "active": 4, "shared_extra": True, "norm": "post"},
    {"experts": 4, "active": 3, "router": "shared"},
    {
        "experts": 8,
        "active": 4,
        "router": "shared",
        "shared_extra": True,
        "norm": "before_mix",
        "residual": "reverted",
    },
]


@pytest.mark.parametrize(("tokens", "heads"), SHAPES)
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_form_is_its_formula_forward_and_backward(tokens: int, heads: int, form: dict[str, Any]) -> None:
    block, config = made(tokens, heads=heads, **form)
    assert max(gaps(block, config, torch.randn(37, tokens, WIDTH))) < 5e-6


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_form_in_float64_is_exact(form: dict[str, Any]) -> None:
    block, config = made(6, torch.float64, heads=4, **form)
    assert max(gaps(block, config, torch.randn(9, 6, WIDTH).double())) < 1e-12


@pytest.mark.parametrize(("tokens", "heads"), SHAPES)
@pytest.mark.parametrize("form", [form for form in FORMS if "experts" not in form], ids=str)
def test_a_dense_form_keeps_its_precision_in_bfloat16(tokens: int, heads: int, form: dict[str, Any]) -> None:
    block, config = made(tokens, torch.bfloat16, heads=heads, **form)
    assert max(gaps(block, config, torch.randn(37, tokens, WIDTH).bfloat16())) < 2e-2
