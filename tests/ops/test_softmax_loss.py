"""The softmax losses: kernels against the float64 reference, edges, threads, compiler."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from recengine.ops import linear_cross_entropy
from recengine.ops._library import native
from recengine.ops.softmax_loss import linear_cross_entropy_reference

needs_kernels = pytest.mark.skipif(not native().cpu, reason=f"no kernels: {native().reason}")
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2e-3}
# A bfloat16 gradient is rounded once, at the end: half a unit in the last place of 8 bits.
GRADIENT_TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 4e-3}


def relative(found: Tensor, truth: Tensor) -> float:
    return float((found.double() - truth).norm() / truth.norm().clamp_min(1e-30))


def catalogue(rows: int, items: int, width: int, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    hidden = (torch.randn(rows, width, generator=generator) / width**0.25).to(dtype)
    weight = (torch.randn(items, width, generator=generator) / width**0.25).to(dtype)
    target = torch.randint(0, items, (rows,), generator=generator)
    return hidden, weight, target


SHAPES = [
    pytest.param(1, 1, 1, id="R1-V1-d1"),
    pytest.param(5, 3, 7, id="R5-V3-d7"),
    pytest.param(13, 193, 16, id="R13-V193-d16"),
    pytest.param(97, 1000, 33, id="R97-V1000-d33"),
    pytest.param(1300, 400, 64, id="R1300-V400-d64"),
    pytest.param(50, 7000, 130, id="R50-V7000-d130"),
]


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "items", "width"), SHAPES)
def test_catalogue_loss_and_gradients_agree_with_float64(
    rows: int, items: int, width: int, dtype: torch.dtype
) -> None:
    hidden, weight, target = catalogue(rows, items, width, dtype)
    target[rows // 2] = -1 if rows > 1 else target[rows // 2]
    bias = torch.randn(items, generator=torch.Generator().manual_seed(1))
    correction = -torch.rand(items, generator=torch.Generator().manual_seed(2))
    upstream = torch.rand(rows, generator=torch.Generator().manual_seed(3))
    ours = [t.clone().requires_grad_() for t in (hidden, weight, bias)]
    truth = [t.double().requires_grad_() for t in (hidden, weight, bias)]
    options = {"correction": correction, "scale": 1.5, "reduction": "none"}
    loss = linear_cross_entropy(ours[0], ours[1], target, bias=ours[2], **options)
    exact = linear_cross_entropy(truth[0], truth[1], target, bias=truth[2], **options)
    assert loss.dtype == torch.float32
    assert relative(loss.detach(), exact.detach()) <= TOLERANCE[dtype] or float(exact.abs().max()) == 0
    found = torch.autograd.grad(loss, ours, upstream)
    wanted = torch.autograd.grad(exact, truth, upstream.double())
    for name, one, other in zip(("hidden", "weight", "bias"), found, wanted, strict=True):
        assert one.dtype == (torch.float32 if name == "bias" else dtype)
        scale = float(other.norm())
        error = float((one.double() - other).norm())
        limit = GRADIENT_TOLERANCE[torch.float32 if name == "bias" else dtype]
        assert error <= limit * scale + 1e-7, f"{name}: {error / max(scale, 1e-30):.2e}"


@needs_kernels
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_catalogue_reductions_are_torchs(reduction: str) -> None:
    hidden, weight, target = catalogue(40, 300, 16, torch.float32)
    target[::3] = -1
    ours = linear_cross_entropy(hidden, weight, target, reduction=reduction)
    theirs = torch.nn.functional.cross_entropy(
        hidden @ weight.t(), target, ignore_index=-1, reduction=reduction
    )
    torch.testing.assert_close(ours, theirs)


def test_nothing_to_count_is_zero_without_nan() -> None:
    hidden, weight, target = catalogue(4, 30, 8, torch.float32)
    hidden.requires_grad_()
    for rows in (0, 4):
        loss = linear_cross_entropy(hidden[:rows], weight, torch.full_like(target[:rows], -1))
        (gradient,) = torch.autograd.grad(loss, hidden)
        assert loss.item() == 0
        assert gradient.abs().sum() == 0


@needs_kernels
def test_extreme_logits_stay_finite() -> None:
    hidden, weight, target = catalogue(20, 500, 8, torch.float32)
    hidden, weight = (80 * hidden).requires_grad_(), (80 * weight).requires_grad_()
    loss = linear_cross_entropy(hidden, weight, target, reduction="none")
    exact = linear_cross_entropy_reference(hidden.double(), weight.double(), target)
    assert relative(loss.detach(), exact.detach()) <= 2e-6
    for gradient in torch.autograd.grad(loss.sum(), (hidden, weight)):
        assert torch.isfinite(gradient).all()
    zero = torch.zeros(3, 8)
    even = linear_cross_entropy(zero, torch.zeros(50, 8), torch.tensor([0, 7, 49]))
    assert even.item() == pytest.approx(torch.log(torch.tensor(50.0)).item(), rel=1e-6)


@needs_kernels
def test_a_masked_item_gets_no_probability() -> None:
    hidden, weight, target = catalogue(9, 100, 8, torch.float32)
    target[:] = 3
    mask = torch.zeros(100)
    mask[50:] = -torch.inf
    weight.requires_grad_()
    whole = linear_cross_entropy(hidden, weight, target, correction=mask)
    half = linear_cross_entropy(hidden, weight[:50], target)
    torch.testing.assert_close(whole, half)
    (gradient,) = torch.autograd.grad(whole, weight)
    assert gradient[50:].abs().max() < 1e-30


@needs_kernels
def test_strided_inputs_need_no_copy() -> None:
    hidden, weight, target = catalogue(60, 210, 12, torch.float32)
    wide = torch.randn(60, 24)
    wide[:, ::2] = hidden
    across = weight.t().contiguous().t()
    assert not across.is_contiguous()
    twice = torch.stack([target, target], 1)
    plain = linear_cross_entropy(hidden, weight, target, reduction="none")
    strided = linear_cross_entropy(wide[:, ::2], across, twice[:, 0], reduction="none")
    assert torch.equal(plain, strided)


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_bits_for_any_number_of_threads(dtype: torch.dtype) -> None:
    hidden, weight, target = catalogue(1500, 3001, 40, dtype)
    hidden.requires_grad_()
    weight.requires_grad_()
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            loss = linear_cross_entropy(hidden, weight, target)
            results.append((loss, *torch.autograd.grad(loss, (hidden, weight))))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert torch.equal(one, two)


@needs_kernels
def test_catalogue_arguments_are_checked_by_name() -> None:
    hidden, weight, target = catalogue(6, 20, 8, torch.float32)
    with pytest.raises(RuntimeError, match=r"target\[2\] is 20"):
        linear_cross_entropy(hidden, weight, torch.tensor([0, 1, 20, 3, 4, 5]))
    with pytest.raises(RuntimeError, match="weight has size 7"):
        linear_cross_entropy(hidden, weight[:, :7], target)
    with pytest.raises(RuntimeError, match="target must be int64"):
        linear_cross_entropy(hidden, weight, target.int())
    with pytest.raises(RuntimeError, match="same dtype"):
        linear_cross_entropy(hidden, weight.bfloat16(), target)
    with pytest.raises(RuntimeError, match="bias has size"):
        linear_cross_entropy(hidden, weight, target, bias=torch.zeros(3))
    with pytest.raises(RuntimeError, match="weight has no rows"):
        linear_cross_entropy(hidden, weight[:0], target)
    with pytest.raises(ValueError, match="reduction"):
        linear_cross_entropy(hidden, weight, target, reduction="median")


def test_the_catalogue_reference_has_the_right_gradient() -> None:
    hidden, weight, target = catalogue(4, 6, 3, torch.float64)
    target[1] = -1
    inputs = (hidden.requires_grad_(), weight.requires_grad_(), torch.randn(6).double().requires_grad_())
    assert torch.autograd.gradcheck(
        lambda h, w, b: linear_cross_entropy(h, w, target, bias=b, scale=0.7, reduction="none"), inputs
    )


@needs_kernels
def test_catalogue_opcheck() -> None:
    hidden, weight, target = catalogue(7, 40, 8, torch.float32)
    hidden.requires_grad_()
    weight.requires_grad_()
    bias = torch.zeros(40, requires_grad=True)
    operators = torch.ops.recengine
    opcheck(operators.linear_cross_entropy.default, (hidden, weight, target, bias, -1, 1.0))
    opcheck(operators.linear_cross_entropy.default, (hidden, weight, target, None, -1, 1.0))
    rows = torch.rand(7)
    opcheck(
        operators.linear_cross_entropy_backward.default,
        (rows, hidden.detach(), weight.detach(), target, None, rows, -1, 1.0, False),
    )


@needs_kernels
def test_catalogue_compiles_and_exports() -> None:
    hidden, weight, target = catalogue(30, 100, 8, torch.float32)
    hidden.requires_grad_()
    compiled = torch.compile(linear_cross_entropy, fullgraph=True, dynamic=True, backend="aot_eager")
    for rows in (30, 11):
        one = torch.autograd.grad(linear_cross_entropy(hidden[:rows], weight, target[:rows]), hidden)[0]
        two = torch.autograd.grad(compiled(hidden[:rows], weight, target[:rows]), hidden)[0]
        torch.testing.assert_close(one, two)

    class Head(torch.nn.Module):
        def forward(self, hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
            return linear_cross_entropy(hidden, weight, target)

    exported = torch.export.export(Head(), (hidden.detach(), weight, target))
    torch.testing.assert_close(
        exported.module()(hidden.detach(), weight, target), linear_cross_entropy(hidden, weight, target)
    )


@needs_kernels
def test_catalogue_under_autocast() -> None:
    hidden, weight, target = catalogue(30, 100, 8, torch.float32)
    hidden.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = linear_cross_entropy(hidden, weight, target)
    exact = linear_cross_entropy(hidden.bfloat16().double(), weight.bfloat16().double(), target)
    assert relative(loss.detach(), exact.detach()) < 1e-4
    (gradient,) = torch.autograd.grad(loss, hidden)
    assert gradient.dtype == torch.float32
