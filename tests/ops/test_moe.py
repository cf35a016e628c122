"""Routing and grouped SwiGLU: kernels against the float64 reference, edges, threads, compiler."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from bounds import bound
from torch import Tensor
from torch.library import opcheck

from recengine.ops import Experts, PackedWeights, Routing, grouped_swiglu, moe, route
from recengine.ops._library import native
from recengine.ops.moe import grouped_swiglu_reference, route_reference

needs_kernels = pytest.mark.skipif(not native().cpu, reason=f"no kernels: {native().reason}")


def relative(found: Tensor, truth: Tensor) -> float:
    return float((found.detach().double() - truth.detach()).norm() / truth.detach().norm().clamp_min(1e-30))


def bank(positions: int, experts: int, width: int, hidden: int, generator: torch.Generator) -> Experts:
    shape = (positions, experts, width, hidden)
    gate, up = (torch.randn(shape, generator=generator) / width**0.5 for _ in range(2))
    down = torch.randn(positions, experts, hidden, width, generator=generator) / hidden**0.5
    return Experts(gate, up, down)


def case(
    rows: int, positions: int, experts: int, width: int, hidden: int, seed: int = 0
) -> tuple[Tensor, Tensor, Experts, Experts]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, positions, width, generator=generator)
    router = torch.randn(positions, width, experts, generator=generator) / width**0.5
    spare = bank(positions, 1, width, hidden + 3, generator)
    return x, router, bank(positions, experts, width, hidden, generator), Experts(*(w[:, 0] for w in spare))


def converted(experts: Experts, dtype: torch.dtype) -> Experts:
    return Experts(*(w.detach().to(dtype).requires_grad_() for w in experts))


def holds_against_float64(x: Tensor, weights: Experts, upstream: Tensor) -> None:
    """Outputs and all gradients of the dense form."""
    results = []
    for precision in (torch.float32, torch.float64):
        tokens, own = x.to(precision).requires_grad_(), converted(weights, precision)
        y = grouped_swiglu(tokens, own)
        results.append((y, *torch.autograd.grad(y, (tokens, *own), upstream.to(precision))))
    for one, two in zip(*results, strict=True):
        assert relative(one, two) <= 2e-6


# --- routing


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("experts", "k"), [(1, 1), (3, 1), (4, 2), (7, 3), (40, 4)])
def test_routing_agrees_with_the_reference(experts: int, k: int, dtype: torch.dtype) -> None:
    x, router, *_ = case(33, 3, experts, 20, 5)
    x, router = x.to(dtype).requires_grad_(), router.to(dtype).requires_grad_()
    exact_x, exact_router = (t.detach().double().requires_grad_() for t in (x, router))
    found, wanted = route(x, router, k), route_reference(exact_x, exact_router, k)
    assert torch.equal(found.experts, wanted.experts)
    assert torch.equal(found.load, wanted.load)
    assert int(found.load.sum()) == 33 * 3 * k
    assert relative(found.gates, wanted.gates) <= 2e-6
    torch.testing.assert_close(found.gates.sum(-1), torch.ones(33, 3))
    upstream = torch.randn(33, 3, k, generator=torch.Generator().manual_seed(1))
    one = torch.autograd.grad(found.gates, (x, router), upstream)
    two = torch.autograd.grad(wanted.gates, (exact_x, exact_router), upstream.double())
    for a, b in zip(one, two, strict=True):
        assert a.dtype == dtype
        assert float((a.double() - b).norm()) <= bound(a) * float(b.norm()) + 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ties_go_to_the_smaller_expert(dtype: torch.dtype) -> None:
    routing = route(torch.zeros(5, 2, 4, dtype=dtype), torch.randn(2, 4, 6).to(dtype), 3)
    assert torch.equal(routing.experts, torch.arange(3).expand(5, 2, 3))
    torch.testing.assert_close(routing.gates, torch.full_like(routing.gates, 1 / 3))
    assert torch.equal(routing.load, torch.tensor([[5, 5, 5, 0, 0, 0]] * 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_router_for_all_positions_needs_no_copies_of_it(dtype: torch.dtype) -> None:
    x, router, *_ = case(33, 3, 5, 20, 5)
    x, one = x.to(dtype), router[:1].to(dtype).requires_grad_()
    copies = one.detach().repeat(3, 1, 1).requires_grad_()
    found, wanted = route(x, one.expand(3, -1, -1), 2), route(x, copies, 2)
    for a, b in zip(found, wanted, strict=True):
        assert torch.equal(a, b)
    upstream = torch.randn(33, 3, 2, generator=torch.Generator().manual_seed(1))
    (own,) = torch.autograd.grad(found.gates, one, upstream)
    (each,) = torch.autograd.grad(wanted.gates, copies, upstream)
    assert relative(own, each.double().sum(0, keepdim=True)) <= bound(own, products=2)


def test_routing_of_nothing() -> None:
    routing = route(torch.zeros(0, 2, 4), torch.zeros(2, 4, 3), 2)
    assert routing.experts.shape == (0, 2, 2)
    assert routing.load.sum() == 0


# --- feed-forward

SHAPES = [
    pytest.param(1, 1, 1, 1, 1, id="B1-T1-E1-D1-F1"),
    pytest.param(7, 2, 3, 5, 9, id="B7-T2-E3-D5-F9"),
    pytest.param(50, 3, 4, 40, 70, id="B50-T3-E4-D40-F70"),
    pytest.param(300, 2, 5, 64, 33, id="B300-T2-E5-D64-F33"),
    pytest.param(1200, 1, 2, 16, 40, id="B1200-T1-E2-D16-F40"),
    pytest.param(90, 1, 2, 72, 260, id="B90-T1-E2-D72-F260"),
    pytest.param(560, 1, 2, 72, 100, id="B560-T1-E2-D72-F100"),
]


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["dense", "sparse", "sparse-shared"])
@pytest.mark.parametrize(("rows", "positions", "experts", "width", "hidden"), SHAPES)
def test_outputs_and_gradients_agree_with_float64(
    rows: int, positions: int, experts: int, width: int, hidden: int, kind: str, dtype: torch.dtype
) -> None:
    x, router, weights, shared = case(rows, positions, experts, width, hidden)
    if kind == "dense":
        weights = Experts(*(w[:, 0] for w in weights))
    k = min(experts, 3)
    with torch.no_grad():
        routing = route(x, router, k)
    upstream = torch.randn(x.shape, generator=torch.Generator().manual_seed(3)).to(dtype)
    results = []
    for precision in (dtype, torch.float64):
        tokens = x.to(dtype).to(precision).requires_grad_()
        own, spare = (converted(Experts(*(w.to(dtype) for w in e)), precision) for e in (weights, shared))
        gates = routing.gates.to(torch.promote_types(precision, torch.float32)).clone().requires_grad_()
        chosen = None if kind == "dense" else (routing.experts, gates)
        extra = spare if kind == "sparse-shared" else None
        y = grouped_swiglu(tokens, own, chosen, shared=extra, alpha=1.0 if kind == "dense" else 1.7)
        inputs = [tokens, *own, *([] if chosen is None else [gates]), *(extra or ())]
        results.append((y, *torch.autograd.grad(y, inputs, upstream.to(precision))))
    for place, (one, two) in enumerate(zip(*results, strict=True)):
        limit = bound(one, products=2)
        error = float((one.detach().double() - two.detach()).norm())
        assert error <= limit * float(two.detach().norm()) + 1e-7, f"result {place}: {error}"


@needs_kernels
@pytest.mark.parametrize("to", [0, 2])
def test_one_expert_may_get_everything(to: int) -> None:
    x, _, weights, _ = case(40, 2, 3, 12, 20)
    chosen = torch.full((40, 2, 1), to)
    gates = torch.ones(40, 2, 1)
    own = converted(weights, torch.float32)
    y = grouped_swiglu(x, own, (chosen, gates))
    alone = grouped_swiglu(x, Experts(*(w[:, to] for w in weights)))
    assert torch.equal(y, alone)
    for gradient in torch.autograd.grad(y.sum(), tuple(own)):
        others = [e for e in range(3) if e != to]
        assert gradient[:, others].abs().sum() == 0
        assert gradient[:, to].abs().sum() > 0


def test_no_rows_and_zero_rows() -> None:
    x, router, weights, shared = case(6, 2, 3, 8, 10)
    own = converted(weights, torch.float32)
    for tokens in (x[:0], torch.zeros_like(x)):
        routing = route(tokens, router, 2)
        y = grouped_swiglu(tokens, own, routing, shared=shared)
        assert y.shape == tokens.shape
        assert y.abs().sum() == 0
        for gradient in torch.autograd.grad(y.sum(), tuple(own)):
            assert gradient.abs().sum() == 0


@needs_kernels
def test_extreme_inputs_stay_finite() -> None:
    x, router, weights, _ = case(6, 2, 3, 8, 10)
    x = (1e4 * x).requires_grad_()
    y = grouped_swiglu(x, weights, route(x, router, 2))
    assert torch.isfinite(y).all()
    assert torch.isfinite(torch.autograd.grad(y.sum(), x)[0]).all()


@needs_kernels
def test_strided_inputs_need_no_copy() -> None:
    x, router, weights, _ = case(30, 3, 4, 12, 20)
    wide = torch.randn(3, 30, 24)
    wide[..., ::2] = x.transpose(0, 1)
    view = wide[..., ::2].transpose(0, 1)
    across = Experts(*(w.transpose(2, 3).contiguous().transpose(2, 3) for w in weights))
    assert not across.gate.is_contiguous()
    plain, strided = route(x, router, 2), route(view, router, 2)
    for one, two in zip(plain, strided, strict=True):
        assert torch.equal(one, two)
    assert torch.equal(grouped_swiglu(x, weights, plain), grouped_swiglu(view, across, plain))


@needs_kernels
@pytest.mark.parametrize("positions", [1, 5])
def test_the_same_bits_for_any_number_of_threads(positions: int) -> None:
    x, router, weights, shared = case(2500, positions, 3, 16, 24)
    x.requires_grad_()
    own, spare = converted(weights, torch.float32), converted(shared, torch.float32)
    router.requires_grad_()
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            y = grouped_swiglu(x, own, route(x, router, 2), shared=spare)
            results.append((y, *torch.autograd.grad(y.square().sum(), (x, router, *own, *spare))))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert torch.equal(one, two)


@needs_kernels
def test_packed_weights_follow_their_tensors() -> None:
    x, router, weights, shared = case(30, 3, 4, 12, 20)
    routing, cache, spare = route(x, router, 2), PackedWeights(), PackedWeights()
    options = {"shared": shared, "packed": cache, "shared_packed": spare}
    assert torch.equal(
        grouped_swiglu(x, weights, routing, **options), grouped_swiglu(x, weights, routing, shared=shared)
    )
    kept = cache.of(weights)
    assert cache.of(weights) is kept
    weights.up.mul_(2)
    assert torch.equal(
        grouped_swiglu(x, weights, routing, **options), grouped_swiglu(x, weights, routing, shared=shared)
    )
    assert cache.of(weights) is not kept


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_arguments_are_checked_by_name(dtype: torch.dtype) -> None:
    x, router, *banks = case(6, 2, 3, 8, 10)
    x, router = x.to(dtype), router.to(dtype)
    weights, shared = (Experts(*(w.to(dtype) for w in bank)) for bank in banks)
    routing = route(x, router, 2)
    with pytest.raises(RuntimeError, match="k is 4"):
        route(x, router, 4)
    with pytest.raises(RuntimeError, match="router has size 7"):
        route(x, router[:, :7], 2)
    wrong = routing.experts.clone()
    wrong[0, 0, 1] = 3
    with pytest.raises(RuntimeError, match=r"experts\[0, 0, 1\] is 3"):
        grouped_swiglu(x, weights, (wrong, routing.gates))
    with pytest.raises(RuntimeError, match="gates has size 1"):
        grouped_swiglu(x, weights, (routing.experts, routing.gates[:, :, :1]))
    with pytest.raises(RuntimeError, match="down has size 9"):
        grouped_swiglu(x, weights._replace(down=weights.down[:, :, :9]), routing)
    with pytest.raises(RuntimeError, match="gate has 3 experts"):
        grouped_swiglu(x, weights)
    with pytest.raises(RuntimeError, match="x has 2 dimensions"):
        grouped_swiglu(x[0], weights, routing)
    with pytest.raises(RuntimeError, match="router has size 1 in dimension 0, expected 2"):
        route(x, router[:1], 2)
    with pytest.raises(RuntimeError, match="up has size 1 in dimension 0, expected 2"):
        grouped_swiglu(x, weights._replace(up=weights.up[:1]), routing)
    with pytest.raises(RuntimeError, match="shared_down has size 9"):
        grouped_swiglu(x, weights, routing, shared=shared._replace(down=shared.down[:, :9]))
    with pytest.raises(RuntimeError, match="experts has size 1 in dimension 0, expected 6"):
        grouped_swiglu(x, weights, (routing.experts[:1], routing.gates[:1]))


def test_the_references_have_the_right_gradients() -> None:
    x, router, weights, shared = case(3, 2, 3, 4, 3)
    inputs = [t.double().requires_grad_() for t in (x, router, *weights, *shared)]

    def whole(x: Tensor, router: Tensor, *rest: Tensor) -> Tensor:
        own, spare = Experts(*rest[:3]), Experts(*rest[3:])
        return grouped_swiglu(x, own, route(x, router, 2), shared=spare, alpha=2.0)

    assert torch.autograd.gradcheck(whole, inputs)


@needs_kernels
def test_opcheck() -> None:
    x, router, weights, shared = case(6, 2, 3, 8, 10)
    x.requires_grad_()
    router.requires_grad_()
    own = converted(weights, torch.float32)
    spare = [w.unsqueeze(1).requires_grad_() for w in shared]
    routing = route(x.detach(), router.detach(), 2)
    gates = routing.gates.requires_grad_()
    operators = torch.ops.recengine
    opcheck(operators.moe_route.default, (x, router, 2))
    arguments = (x, *own, routing.experts, gates, *spare, 2.0, None, None)
    opcheck(operators.grouped_swiglu.default, arguments)
    dense = (x, *(w[:, :1] for w in own), None, None, None, None, None, 1.0, None, None)
    opcheck(operators.grouped_swiglu.default, dense)
    for form in (arguments[:10], dense[:10]):
        opcheck(operators.learning_swiglu.default, form)
        with torch.no_grad():
            alone = tuple(a.detach() if isinstance(a, Tensor) else a for a in form)
            kept = operators.learning_swiglu(*alone)[1]
            opcheck(operators.learning_swiglu_backward.default, (x.detach(), kept, *alone))
    with torch.no_grad():
        opcheck(
            operators.grouped_swiglu_backward.default,
            (x.detach(), *(a.detach() if isinstance(a, Tensor) else a for a in arguments[:10])),
        )


@needs_kernels
def test_compiles_and_exports() -> None:
    x, router, weights, shared = case(24, 2, 3, 8, 10)
    x.requires_grad_()

    def layer(x: Tensor, router: Tensor, weights: Experts, shared: Experts) -> Tensor:
        return grouped_swiglu(x, weights, route(x, router, 2), shared=shared, alpha=2.0)

    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    for rows in (24, 9):
        one, two = layer(x[:rows], router, weights, shared), compiled(x[:rows], router, weights, shared)
        torch.testing.assert_close(one, two)
        gradients = [torch.autograd.grad(y.square().sum(), x)[0] for y in (one, two)]
        torch.testing.assert_close(*gradients)

    class Layer(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return layer(x, router, weights, shared)

    exported = torch.export.export(Layer(), (x.detach(),))
    torch.testing.assert_close(exported.module()(x.detach()), layer(x.detach(), router, weights, shared))


def dense_results(x: Tensor, weights: Experts, upstream: Tensor) -> tuple[Tensor, ...]:
    """Outputs and gradients of the dense form."""
    tokens, own = x.clone().requires_grad_(), converted(weights, x.dtype)
    y = grouped_swiglu(tokens, own)
    return y.detach(), *torch.autograd.grad(y, (tokens, *own), upstream.to(x.dtype))


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("rows", "width", "hidden"), [(1, 8, 5), (70, 40, 72), (600, 200, 300), (1100, 32, 64)]
)
@pytest.mark.parametrize("kind", ["plain", "outliers", "nan"])
def test_what_is_kept_for_the_backward_pass_costs_no_precision(
    kind: str, rows: int, width: int, hidden: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole and broken groups of rows, several pieces of rows, groups that fixed point is too coarse for."""
    x, _, weights, _ = case(rows, 3, 1, width, hidden)
    weights = Experts(*(w[:, 0] for w in weights))
    if kind == "outliers":
        x[::3, :, 5] *= 3e3
        x *= 10.0 ** torch.linspace(-4, 4, width)
    if kind == "nan":
        x[rows // 2, 1, 3] = torch.nan
    upstream = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    kept = dense_results(x.to(dtype), weights, upstream)
    monkeypatch.setattr(moe, "_keeps", lambda *_: False)
    again = dense_results(x.to(dtype), weights, upstream)
    for one, two in zip(kept, again, strict=True):
        assert torch.equal(one.isnan(), two.isnan())
        assert relative(one.nan_to_num(), two.nan_to_num().double()) <= (
            1e-6 if one.dtype == torch.float32 else 2e-3
        )
        if kind == "plain" and hidden == 300:  # the same products either way
            assert torch.equal(one, two)


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("with_shared", [False, True])
@pytest.mark.parametrize(("rows", "width", "hidden"), [(70, 40, 72), (600, 200, 300), (1100, 136, 20)])
def test_what_is_kept_of_chosen_experts_costs_no_precision(
    rows: int,
    width: int,
    hidden: int,
    with_shared: bool,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Several pieces of rows, an expert without rows, one that most rows choose."""
    x, _, weights, shared = case(rows, 3, 4, width, hidden)
    spare = shared if with_shared else None
    upstream = torch.randn(x.shape, generator=torch.Generator().manual_seed(3)).to(dtype)
    drawn = torch.randint(0, 3, (rows, 3, 2), generator=torch.Generator().manual_seed(4))
    drawn[: rows // 2] = torch.tensor([2, 0])  # expert 3 gets nothing
    share = torch.rand(rows, 3, 2, generator=torch.Generator().manual_seed(5))

    def results() -> tuple[Tensor, ...]:
        leaves = [t.to(dtype).requires_grad_() for t in (x, *weights, *(spare or ()))]
        gates = share.clone().requires_grad_()
        choice = Routing(drawn, gates, torch.zeros(3, 4, dtype=torch.int64))
        extra = Experts(*leaves[4:]) if spare else None
        y = grouped_swiglu(leaves[0], Experts(*leaves[1:4]), choice, shared=extra, alpha=1.5)
        return y.detach(), *torch.autograd.grad(y, (*leaves, gates), upstream)

    monkeypatch.setattr(moe, "_keeps", lambda *_: True)
    kept = results()
    monkeypatch.setattr(moe, "_keeps", lambda *_: False)
    for one, two in zip(kept, results(), strict=True):
        assert relative(one, two.double()) <= (1e-6 if one.dtype == torch.float32 else 2e-3)


@needs_kernels
def test_packed_weights_of_another_dtype_than_the_rows_are_not_taken_for_theirs() -> None:
    """bfloat16 weights may be laid out for bf16 units, which float32 rows do not run on."""
    x, _, weights, _ = case(40, 2, 1, 64, 96)
    half = Experts(*(w.bfloat16() for w in weights))
    packed = torch.ops.recengine.swiglu_pack(*half)
    nothing = [None] * 5
    plain = torch.ops.recengine.grouped_swiglu(x, *half, *nothing, 1.0, None, None)
    found = torch.ops.recengine.grouped_swiglu(x, *half, *nothing, 1.0, packed, None)
    assert relative(found, plain.double()) <= 2e-6


@needs_kernels
def test_what_is_kept_is_checked() -> None:
    x, _, weights, _ = case(40, 2, 1, 16, 40)
    rest = (x, *weights, *[None] * 5, 1.0)
    _, kept = torch.ops.recengine.learning_swiglu(*rest)
    back = torch.ops.recengine.learning_swiglu_backward
    with pytest.raises(RuntimeError, match=r"learning_swiglu_backward: kept"):
        back(x, kept[:1], *rest)
    with pytest.raises(RuntimeError, match=r"learning_swiglu_backward: kept"):
        back(x, kept.bfloat16(), *rest)
    with pytest.raises(RuntimeError, match=r"learning_swiglu_backward: grad"):
        back(x[:3], kept, *rest)


@needs_kernels
def test_the_dense_form_compiles() -> None:
    x, _, weights, _ = case(40, 2, 1, 16, 40)
    own = Experts(*(w[:, 0].requires_grad_() for w in weights))

    def layer(x: Tensor, own: Experts) -> Tensor:
        return grouped_swiglu(x, own)

    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    for rows in (40, 9):
        one, two = layer(x[:rows], own), compiled(x[:rows], own)
        torch.testing.assert_close(one, two)
        gradients = [torch.autograd.grad(y.square().sum(), own) for y in (one, two)]
        for a, b in zip(*gradients, strict=True):
            torch.testing.assert_close(a, b)


@needs_kernels
def test_under_autocast_the_experts_run_in_bfloat16_and_the_router_does_not() -> None:
    x, router, weights, _ = case(24, 2, 3, 8, 10)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        routing = route(x, router, 2)
        y = grouped_swiglu(x, weights, routing)
    assert isinstance(routing, Routing)
    assert torch.equal(routing.gates, route(x, router, 2).gates)
    assert y.dtype == torch.bfloat16
    half = Experts(*(w.bfloat16().double() for w in weights))
    exact = grouped_swiglu_reference(x.bfloat16().double(), half, (routing.experts, routing.gates.double()))
    assert relative(y, exact) <= bound(y, products=2)


@needs_kernels
@pytest.mark.parametrize("kind", ["rows", "weights", "features", "halves", "tiny", "huge", "gradients"])
def test_outliers_and_uneven_scales_cost_no_precision(kind: str) -> None:
    """Products in fixed point give way to others where a row or a column spans too wide a range."""
    x, _, weights, _ = case(96, 2, 1, 96, 256)
    weights = Experts(*(w[:, 0].clone() for w in weights))
    if kind == "rows":
        x[::3, :, 5] *= 3e3
    if kind == "weights":
        weights.gate[:, 7, ::2] *= 1e3
        weights.down[:, ::5, 3] *= 1e3
    if kind in ("features", "halves"):  # what is small in a row meets what is large in the weights
        scale = torch.where(torch.arange(96) % 2 == 0, 1.0, 1e-3)
        if kind == "features":
            scale = 10.0 ** torch.linspace(-4, 4, 96)
        x *= scale
        weights.gate.div_(scale[:, None])
        weights.up.div_(scale[:, None])
    x *= {"tiny": 1e-12, "huge": 1e14}.get(kind, 1.0)
    upstream = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    if kind == "gradients":  # few rows carry nearly all of them, as of clicks
        upstream[torch.arange(96) % 19 > 0] *= 0.01
    holds_against_float64(x, weights, upstream)


@needs_kernels
@pytest.mark.parametrize("scale", [1.0, 4.0, 6.0, 12.0, 20.0])
def test_rows_of_parts_that_differ_in_scale_keep_their_precision(scale: float) -> None:
    """As tokens that are put together from others' parts are: from few outliers a row to rows of outliers."""
    x, _, weights, _ = case(96, 1, 1, 512, 256)
    weights = Experts(*(w[:, 0] for w in weights))
    x[..., :16] *= scale
    upstream = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    holds_against_float64(x, weights, upstream)


@needs_kernels
@pytest.mark.parametrize("gate", [1e-10, 1e-20, 1e-38, 0.0])
def test_a_gate_that_all_but_closes_leaves_the_gradients_whole(gate: float) -> None:
    x, router, weights, _ = case(70, 2, 3, 64, 96)
    chosen, gates, _ = route(x, router, 2)
    gates[:, :, 1] = gate
    results = []
    for precision in (torch.float32, torch.float64):
        tokens, own = x.to(precision).requires_grad_(), converted(weights, precision)
        run = grouped_swiglu if precision == torch.float32 else grouped_swiglu_reference
        y = run(tokens, own, (chosen, gates if precision == torch.float32 else gates.double()))
        results.append((y, *torch.autograd.grad(y.square().sum(), (tokens, *own))))
    for one, two in zip(*results, strict=True):
        assert relative(one, two) <= 4e-6  # the square doubles the error of what comes back


@needs_kernels
def test_a_row_that_is_not_finite_stays_alone() -> None:
    x, _, weights, _ = case(64, 2, 1, 64, 256)
    weights = Experts(*(w[:, 0] for w in weights))
    whole = grouped_swiglu(x, weights)
    x[11, 1, 3] = torch.nan
    x[40, 0, 9] = torch.inf
    y = grouped_swiglu(x, weights)
    touched = torch.zeros(64, 2, dtype=torch.bool)
    touched[11, 1] = touched[40, 0] = True
    assert not torch.isfinite(y[touched]).any()
    torch.testing.assert_close(y[~touched], whole[~touched])


@needs_kernels
def test_packed_weights_follow_the_arithmetic_under_autocast() -> None:
    x, router, weights, shared = case(30, 3, 4, 12, 20)
    routing, options = route(x, router, 2), {"packed": PackedWeights(), "shared_packed": PackedWeights()}
    with torch.no_grad():
        wide = grouped_swiglu(x, weights, routing, shared=shared, **options)
        with torch.autocast("cpu", torch.bfloat16):
            low = grouped_swiglu(x, weights, routing, shared=shared, **options)
            plain = grouped_swiglu(x, weights, routing, shared=shared)
        again = grouped_swiglu(x, weights, routing, shared=shared, **options)
    assert low.dtype == torch.bfloat16
    assert torch.equal(low, plain)
    assert 0 < relative(low, wide) < 0.02
    assert torch.equal(again, wide)


@needs_kernels
@pytest.mark.parametrize("experts", [7, 64, 65])
def test_routing_breaks_ties_and_survives_nan(experts: int) -> None:
    generator = torch.Generator().manual_seed(0)
    router = torch.eye(experts)[None]
    x = torch.randint(-2, 3, (50, 1, experts), generator=generator).float()  # the logits themselves
    assert torch.equal(route(x, router, 5).experts, route_reference(x.double(), router.double(), 5).experts)
    x[3] = torch.nan
    chosen = route(x, router, 5).experts
    assert all(len(set(row)) == 5 for row in chosen[:, 0].tolist())
    x[3] = 0.0
    x[3, 0, 2], router[0, 2, 1] = (
        torch.inf,
        -1.0,
    )  # the logit of expert 1: 0 - inf = -inf, of the others 0 * inf
    for router_of in (router, -router):  # a NaN of either sign comes first
        kernel = route(x, router_of, 5).experts
        assert torch.equal(kernel[3], route_reference(x.double(), router_of.double(), 5).experts[3])


@needs_kernels
@pytest.mark.parametrize(("hidden", "shared"), [(24, 24), (24, 96), (96, 24)])
@pytest.mark.parametrize("rows", [70, 1100])  # 1,100: two pieces of rows, neither in whole blocks
def test_experts_of_every_size_read_the_same_rows(hidden: int, shared: int, rows: int) -> None:
    x, router, routed, _ = case(rows, 2, 5, 128, hidden)
    spare = Experts(*(w[:, 0] for w in bank(2, 1, 128, shared, torch.Generator().manual_seed(1))))
    for extra in (None, spare):
        routing = route(x, router, 3)
        found = grouped_swiglu(x, routed, routing, shared=extra, alpha=1.5)
        exact = (routing.experts, routing.gates.double())
        wide = None if extra is None else Experts(*(w.double()[:, None] for w in extra))
        wanted = grouped_swiglu_reference(
            x.double(), converted(routed, torch.float64), exact, shared=wide, alpha=1.5
        )
        assert relative(found, wanted) <= 2e-6


@needs_kernels
@pytest.mark.parametrize("low", ["routed", "shared"])
def test_banks_of_two_dtypes_meet(low: str) -> None:
    x, router, routed, spare = case(70, 2, 4, 64, 24)
    x = x.bfloat16()
    routed, spare = (
        converted(b, torch.bfloat16 if name == low else torch.float32)
        for name, b in (("routed", routed), ("shared", spare))
    )
    routing = route(x, router, 2)
    found = grouped_swiglu(x, routed, routing, shared=spare)
    exact = (routing.experts, routing.gates.double())
    wide = Experts(*(w.double()[:, None] for w in spare))
    wanted = grouped_swiglu_reference(x.double(), converted(routed, torch.float64), exact, shared=wide)
    assert relative(found, wanted) <= bound(found, products=2)


@needs_kernels
@torch.no_grad()
def test_packed_weights_know_a_view_from_another() -> None:
    generator = torch.Generator().manual_seed(0)
    x, square = torch.randn(5, 2, 16, generator=generator), torch.randn(2, 1, 16, 16, generator=generator)
    cache, straight = PackedWeights(), Experts(square, square, square)
    for weights in (straight, straight._replace(gate=square.mT), straight):
        assert torch.equal(grouped_swiglu(x, weights, packed=cache), grouped_swiglu(x, weights))


@needs_kernels
def test_packed_weights_keep_nothing_of_inference_tensors() -> None:
    with torch.inference_mode():
        x, router, weights, _ = case(5, 2, 3, 8, 10)
        cache, routing = PackedWeights(), route(x, router, 2)
        for _ in range(2):
            found = grouped_swiglu(x, weights, routing, packed=cache)
            assert torch.equal(found, grouped_swiglu(x, weights, routing))
            weights.gate.mul_(2)
        assert cache.of(weights) is None


@needs_kernels
@torch.no_grad()
def test_packed_weights_are_left_aside_in_a_graph() -> None:
    x, router, weights, _ = case(5, 2, 3, 8, 10)
    cache, routing = PackedWeights(), route(x, router, 2)

    def run(x: torch.Tensor) -> torch.Tensor:
        return grouped_swiglu(x, weights, routing, packed=cache)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), run(x))


@needs_kernels
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_copies_of_packed_weights_start_empty(copied: Callable[[PackedWeights], PackedWeights]) -> None:
    *_, weights, _ = case(5, 2, 3, 8, 10)
    cache, no_leaves = PackedWeights(), Experts(*(w.requires_grad_() * 1 for w in weights))
    packed = cache.of(no_leaves)
    other = copied(cache)
    assert len(pickle.dumps(cache)) < 200
    assert other.of(no_leaves) is not packed
    assert torch.equal(other.of(no_leaves), packed)
    assert cache.of(no_leaves) is packed
