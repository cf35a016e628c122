"""Mixing and its inverse, with residual and norm: kernel against float64, gradients, threads, compile."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from recengine.errors import UsageError
from recengine.ops._library import native
from recengine.ops.token_mixing import (
    mix_norm,
    mix_prenorm,
    mix_prenorm_reference,
    revert_norm,
    revert_prenorm,
    token_mix,
    token_revert,
)

kernel = pytest.mark.skipif(not native().cpu, reason="no native kernels here")
# B, T, H, part: equal and unequal, parts that fill vectors and parts that do not
SHAPES = [
    (3, 4, 4, 16),
    (2, 5, 3, 7),
    (2, 40, 16, 3),
    (3, 8, 2, 48),
    (1, 1, 6, 20),
    (4, 3, 1, 33),
    (1, 16, 16, 64),
    (2, 2, 16, 15),
    (2, 4, 16, 16),
    (3, 4, 16, 24),
]


def tensor(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def error(found: Tensor, truth: Tensor) -> float:
    assert found.shape == truth.shape
    assert torch.isfinite(found).all()
    return ((found.double() - truth).norm() / truth.norm().clamp(min=1e-30)).item()


def inputs(shape: tuple[int, int, int, int], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    B, T, H, part = shape
    return (
        tensor(B, T, H * part, dtype=dtype),
        tensor(T * part, seed=1) + 1,
        tensor(B, H, T * part, seed=2, dtype=dtype),
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_mix_is_the_definition_and_revert_its_inverse(shape: tuple[int, int, int, int]) -> None:
    B, T, H, part = shape
    x = tensor(B, T, H * part)
    mixed = token_mix(x, H)
    for h in range(H):
        want = torch.cat([x[:, t, h * part : (h + 1) * part] for t in range(T)], 1)
        assert torch.equal(mixed[:, h], want)
    assert torch.equal(token_revert(mixed, T), x)


@kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_kernel_equals_float64(
    shape: tuple[int, int, int, int], with_residual: bool, dtype: torch.dtype
) -> None:
    H, bound = shape[2], 2e-6 if dtype == torch.float32 else 2e-3
    x, w, r = (t.to(dtype) for t in inputs(shape, dtype))
    if not with_residual:
        r = None
    outs, grads = [], []
    for f, kind in ((mix_prenorm, dtype), (mix_prenorm_reference, torch.float64)):
        leaves = [None if t is None else t.to(kind).requires_grad_() for t in (x, w, r)]
        normed, mixed = f(leaves[0], leaves[1], H, residual=leaves[2])
        g = [tensor(*normed.shape, seed=s, dtype=dtype).to(normed.dtype) for s in (3, 4)]
        outs.append([normed, mixed])
        wanted = [t for t in leaves if t is not None]
        both = torch.autograd.grad((normed, mixed), wanted, g, retain_graph=True)
        one = torch.autograd.grad(normed, wanted, g[0])
        grads.append([*both, *one])
    for a, b in zip(outs[0] + grads[0], outs[1] + grads[1], strict=True):
        assert error(a, b) <= bound
    leaves = [None if t is None else t.clone().requires_grad_() for t in (x, w, r)]
    alone = mix_norm(leaves[0], leaves[1], H, residual=leaves[2])
    assert torch.equal(alone, outs[0][0])
    again = torch.autograd.grad(
        alone, [t for t in leaves if t is not None], tensor(*alone.shape, seed=3).to(dtype)
    )
    for a, b in zip(again, grads[1][len(again) :], strict=True):
        assert error(a, b) <= bound


@kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [s for s in SHAPES if s[1] == s[2]])
def test_residual_of_the_input_itself(shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    x, w, _ = inputs(shape, dtype)
    for f in (mix_norm, lambda *a, **k: mix_prenorm(*a, **k)[0]):
        leaf, weight = x.clone().requires_grad_(), w.clone().requires_grad_()
        out = f(leaf, weight, shape[2], residual=leaf)
        g = tensor(*out.shape, seed=5, dtype=dtype)
        found = [out, *torch.autograd.grad(out, (leaf, weight), g)]
        leaf, weight = x.double().requires_grad_(), w.double().requires_grad_()
        out = mix_prenorm_reference(leaf, weight, shape[2], residual=leaf)[0]
        truth = [out, *torch.autograd.grad(out, (leaf, weight), g.double())]
        for a, b in zip(found, truth, strict=True):
            assert error(a, b) <= (2e-6 if dtype == torch.float32 else 2e-3)


def test_reference_gradcheck() -> None:
    x, w, r = (t.double().requires_grad_() for t in inputs((2, 5, 3, 2), torch.float32))
    assert torch.autograd.gradcheck(lambda x, w, r: mix_prenorm_reference(x, w, 3, residual=r), (x, w, r))


@kernel
def test_revert_is_mixing_with_roles_exchanged() -> None:
    B, T, H, part = 3, 6, 4, 16
    f, x, w = tensor(B, H, T * part), tensor(B, T, H * part, seed=1), tensor(H * part, seed=2)
    want = torch.nn.functional.rms_norm(token_revert(f, T) + x, (H * part,), w, 1e-6)
    torch.testing.assert_close(revert_norm(f, w, T, residual=x), want)
    normed, reverted = revert_prenorm(f, w, T, residual=x)
    torch.testing.assert_close(normed, want)
    assert torch.equal(reverted, token_revert(f, T) + x)


@kernel
def test_gradient_of_the_bare_mix() -> None:
    x = tensor(3, 6, 20).requires_grad_()
    g = tensor(3, 4, 30, seed=1)
    (dx,) = torch.autograd.grad(token_mix(x, 4), x, g)
    assert torch.equal(dx, token_revert(g, 6))


@kernel
def test_bits_do_not_depend_on_threads() -> None:
    x, w, _ = inputs((150, 8, 8, 16), torch.float32)
    before, runs = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            leaf, weight = x.clone().requires_grad_(), w.clone().requires_grad_()
            out = mix_norm(leaf, weight, 8, residual=leaf)
            runs.append((out, *torch.autograd.grad(out, (leaf, weight), x)))
    finally:
        torch.set_num_threads(before)
    for other in runs[1:]:
        for a, b in zip(runs[0], other, strict=True):
            assert torch.equal(a, b)


@kernel
@pytest.mark.parametrize("shape", [(0, 4, 8), (3, 0, 8), (3, 4, 0)])
def test_empty(shape: tuple[int, int, int]) -> None:
    x = torch.zeros(shape, requires_grad=True)
    w = torch.ones(shape[1] * shape[2] // 4, requires_grad=True)
    out = mix_norm(x, w, 4)
    assert out.shape == (shape[0], 4, shape[1] * shape[2] // 4)
    dx, dw = torch.autograd.grad(out.sum(), (x, w))
    assert dx.shape == x.shape
    assert not dw.any()
    (bare,) = torch.autograd.grad(token_mix(x, 4).sum(), x)
    assert bare.shape == x.shape
    both = torch.autograd.grad([part.sum() for part in mix_prenorm(x, w, 4)], (x, w))
    assert both[0].shape == x.shape


@kernel
def test_zeros_are_free_of_nan() -> None:
    x = torch.zeros(2, 4, 16, requires_grad=True)
    out = mix_norm(x, torch.ones(16), 4, residual=x)
    (dx,) = torch.autograd.grad(out.sum(), x)
    assert not out.any()
    assert torch.isfinite(dx).all()


@kernel
def test_strides_without_copies() -> None:
    base = tensor(3, 12, 64)
    for view in (base.transpose(1, 2), base[:, ::2], base[..., ::2], base[:, :4].expand(3, 4, 64)):
        got = []
        for x in (view, view.contiguous()):
            leaf = x.detach().requires_grad_()
            width = x.shape[1] * x.shape[2] // 4
            out = mix_norm(leaf, torch.ones(width), 4)
            got.append((out, *torch.autograd.grad(out.sum(), leaf)))
        for a, b in zip(*got, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


@kernel
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("own", [False, True])
def test_opcheck(keep: bool, own: bool) -> None:
    x, w, r = (t.requires_grad_() for t in inputs((2, 4, 4, 8), torch.float32))
    torch.library.opcheck(torch.ops.recengine.token_mixing, (x, None if own else r, w, 4, 1e-6, keep, own))
    x, w, r = x.detach(), w.detach(), r.detach()
    normed, mixed, rstd = torch.ops.recengine.token_mixing(x, None if own else r, w, 4, 1e-6, keep, own)
    torch.library.opcheck(
        torch.ops.recengine.token_mixing_backward,
        (normed, None, mixed if keep else x, None if own or keep else r, w, rstd, 4, 4, keep, own, not own),
    )


@kernel
@pytest.mark.slow
def test_compile_and_export() -> None:
    def loss(x: Tensor, w: Tensor, v: Tensor) -> Tensor:
        y = x * 2
        normed, mixed = mix_prenorm(y, v, 2)
        return mix_norm(y, w, 4, residual=y).square().sum() + normed.square().sum() + mixed.sum()

    compiled = torch.compile(loss, fullgraph=True, dynamic=True)
    for B in (3, 5):
        grads = []
        for f in (loss, compiled):
            leaves = [t.requires_grad_() for t in (tensor(B, 4, 16), tensor(16, seed=1), tensor(32, seed=2))]
            grads.append(torch.autograd.grad(f(*leaves), leaves))
        for a, b in zip(*grads, strict=True):
            torch.testing.assert_close(a, b)

    class Layer(torch.nn.Module):
        def forward(self, x: Tensor, w: Tensor) -> Tensor:
            return mix_norm(x, w, 4, residual=x)

    program = torch.export.export(
        Layer(), (tensor(3, 4, 16), torch.ones(16)), dynamic_shapes=({0: torch.export.Dim("B")}, None)
    )
    x = tensor(7, 4, 16, seed=3)
    assert torch.equal(program.module()(x, torch.ones(16)), Layer()(x, torch.ones(16)))


@kernel
def test_autocast() -> None:
    linear = torch.nn.Linear(16, 16)
    w = torch.nn.Parameter(torch.ones(16))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = mix_norm(linear(tensor(2, 4, 16)), w, 4)
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert w.grad is not None
    assert w.grad.dtype == torch.float32


@pytest.mark.parametrize(
    ("x", "weight", "options", "word"),
    [
        (torch.zeros(2, 3), torch.ones(3), {"heads": 1}, "x"),
        (torch.zeros(2, 3, 4).long(), torch.ones(6), {"heads": 2}, "x"),
        (torch.zeros(2, 3, 4), torch.ones(6), {"heads": 3}, "heads"),
        (torch.zeros(2, 3, 4), torch.ones(5), {"heads": 2}, "weight"),
        (torch.zeros(2, 3, 4), torch.ones(6), {"heads": 2, "residual": torch.zeros(2, 3, 4)}, "residual"),
        (
            torch.zeros(2, 2, 4),
            torch.ones(4),
            {"heads": 2, "residual": torch.zeros(2, 2, 4).double()},
            "residual",
        ),
    ],
)
def test_wrong_arguments_are_named(x: Tensor, weight: Tensor, options: dict[str, Any], word: str) -> None:
    with pytest.raises(UsageError, match=rf"mix_norm\({word}\)"):
        mix_norm(x, weight, **options)


@pytest.mark.parametrize("compiled", [False, True])
def test_no_tokens(compiled: bool) -> None:
    """The mixture of no tokens holds nothing, not even how wide they were."""

    def mixed(x: Tensor) -> Tensor:
        return token_mix(x, 16)

    run = torch.compile(mixed, fullgraph=True, backend="aot_eager") if compiled else mixed
    x = torch.zeros(2, 0, 32, requires_grad=True)
    out = run(x)
    assert out.shape == (2, 16, 0)
    assert torch.autograd.grad(out.sum(), x)[0].shape == x.shape


@kernel
def test_the_backward_operator_of_no_tokens_can_be_traced() -> None:
    grad, source = torch.zeros(2, 16, 0, device="meta"), torch.zeros(2, 16, 0, device="meta")
    rstd = torch.zeros(2, 16, device="meta")
    settings = (0, 16, True, False, False)
    made = torch.ops.recengine.token_mixing_backward(None, grad, source, None, None, rstd, *settings)
    assert made[0].shape == (2, 0, 0)
