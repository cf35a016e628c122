"""Every form of a block against its formula in einsums of float64, forward and backward."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from recengine.ops._library import native
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


@pytest.mark.parametrize(("residual", "falls"), [("input", True), ("reverted", False)])
def test_only_what_adds_to_reverted_tokens_teaches_the_first_half_past_a_small_second_one(
    residual: str, falls: bool
) -> None:
    slopes = []
    for gain in (1.0, 0.01):
        block, _ = made(6, heads=4, down_gain=gain, residual=residual)
        (block(torch.randn(64, 6, WIDTH)) * torch.randn(64, 6, WIDTH)).sum().backward()
        slope = block.get_parameter("mixed.bank.down").grad
        assert slope is not None
        slopes.append(float(slope.norm()))
    assert (slopes[1] < 0.02 * slopes[0]) is falls
    assert (slopes[1] > 0.5 * slopes[0]) is not falls


@pytest.mark.parametrize("rows", [1, 31, 33, 70])
@pytest.mark.parametrize("routed", [1, 2, 3])
def test_tied_logits_go_to_the_first_experts_and_the_others_stay_empty(rows: int, routed: int) -> None:
    """Neither number of rows is a multiple of the kernel's 32; what gets no row gets no gradient."""
    block, config = made(6, heads=4, experts=8, active=routed + 1)
    for part in (block.mixed, block.reverted):
        assert isinstance(part, SparseSwiGLU)
        torch.nn.init.zeros_(part.router)
        load = part.load(torch.randn(rows, *part.router.shape[:2]))
        assert (load[:, :routed] == rows).all()
        assert (load[:, routed:] == 0).all()
    assert max(gaps(block, config, torch.randn(rows, 6, WIDTH))) < 5e-6
    block(torch.randn(rows, 6, WIDTH)).square().sum().backward()
    for part in (block.mixed, block.reverted):
        assert isinstance(part, SparseSwiGLU)
        for weight in part.bank.experts():
            assert weight.grad is not None
            assert not bool(weight.grad[:, routed:].any())
            assert bool(weight.grad[:, :routed].any())


class Called(TorchDispatchMode):
    """The operators that ran and are more than another view of their input."""

    VIEWS = ("aten.expand", "aten.unsqueeze", "aten.detach", "aten.alias")

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not str(func).startswith(self.VIEWS):
            self.names.append(str(func).rsplit(".", 1)[0])
        return func(*args, **(kwargs or {}))


@pytest.mark.skipif(not native().cpu, reason=f"no kernels: {native().reason}")
@pytest.mark.parametrize("training", [False, True], ids=["serving", "training"])
@pytest.mark.parametrize(
    "form",
    [
        {},
        {"residual": "reverted"},
        {"experts": 8, "active": 4},
        {"experts": 8, "active": 4, "router": "shared", "shared_extra": True},
    ],
    ids=str,
)
def test_a_half_is_mixing_routing_experts_and_a_sum(form: dict[str, Any], training: bool) -> None:
    """No permutation, no gather and no copy of tokens beside the fused operators."""
    block, _ = made(6, heads=4, **form)
    x = torch.randn(20, 6, WIDTH)
    with torch.set_grad_enabled(training):
        block.train(training)(x)  # what is packed for serving is packed once
        with Called() as called:
            block(x)
    experts = (
        "recengine.grouped_swiglu" if form.get("experts") or not training else "recengine.learning_swiglu"
    )
    routing = ["recengine.moe_route"] if form.get("experts") else []
    assert called.names == ["recengine.token_mixing", *routing, experts, "aten.add"] * 2
