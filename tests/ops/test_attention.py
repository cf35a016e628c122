"""Cosine linear attention: kernel against float64, gradients, padding, threads, compile and export."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from bounds import bound
from torch import Tensor

from recengine.errors import UsageError
from recengine.ops._library import native
from recengine.ops.attention import cosine_attention, cosine_attention_at, cosine_attention_reference

kernel = pytest.mark.skipif(not native().cpu, reason="no native kernels here")
MODES = [
    (causal, scale)
    for causal in (False, True)
    for scale in ("length", "sequence", "key_prefix", "sqrt_d", "one")
    if causal or scale != "key_prefix"
]
POWERS = ("length", "sequence", "key_prefix")


def make(
    B: int,
    S: int,
    H: int,
    d: int,
    *,
    scale: str = "length",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """qkv, a mask with left padding, holes and one row that is all padding, and m."""
    generator = torch.Generator().manual_seed(seed)
    qkv = torch.randn(B, S, 3, H, d, generator=generator).to(dtype)
    mask = torch.rand(B, S, generator=generator) > 0.2
    if B > 1:
        mask[0, : S // 2] = False
        mask[1] = True
    if B > 2:
        mask[2] = False
    m = torch.linspace(-1.0, 1.5, H) if scale in POWERS else None
    return qkv, mask, m


def error(found: Tensor, truth: Tensor) -> float:
    assert found.shape == truth.shape
    assert torch.isfinite(found).all()
    return ((found.double() - truth).norm() / truth.norm().clamp(min=1e-30)).item()


def both(qkv: Tensor, m: Tensor | None, **options: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Output and gradients (of qkv, of m) of the kernel, and of the reference in float64."""
    results = []
    for function, dtype in ((cosine_attention, None), (cosine_attention_reference, torch.float64)):
        x = qkv.detach().to(dtype or qkv.dtype).requires_grad_()
        e = None if m is None else m.detach().clone().requires_grad_()
        out = function(x, m=e, **options)
        g = torch.randn(out.shape, generator=torch.Generator().manual_seed(9)).to(qkv.dtype).to(out.dtype)
        inputs = [x] if e is None else [x, e]
        results.append([out, *torch.autograd.grad(out, inputs, g)])
    return results[0], results[1]


@kernel
@pytest.mark.parametrize(("causal", "scale"), MODES)
@pytest.mark.parametrize("activation", ["none", "elu"])
def test_kernel_equals_float64(causal: bool, scale: str, activation: str) -> None:
    for S, d in itertools.product((1, 7, 20, 50, 200), (16, 24, 32, 64, 100, 128)):
        qkv, mask, m = make(4, S, 2, d, scale=scale)
        found, truth = both(qkv, m, mask=mask, causal=causal, activation=activation, scale=scale)
        for name, a, b in zip(("out", "dqkv"), found, truth, strict=False):
            assert error(a, b) <= 2e-6, (name, S, d)
        if m is not None:  # a signed sum over everything: held against the size of its terms
            terms = (truth[0].norm() * (4 * S * d) ** 0.5).item() + 1e-12
            assert (found[2] - truth[2]).abs().max().item() <= 2e-6 * terms, (S, d)


@kernel
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-3)])
@pytest.mark.parametrize(("causal", "scale"), MODES)
@pytest.mark.parametrize("activation", ["none", "elu"])
def test_output_at_every_length_and_head_size(
    causal: bool, scale: str, activation: str, dtype: torch.dtype, bound: float
) -> None:
    for S, d in itertools.product((1, 7, 20, 50, 200, 1000), (16, 32, 64, 128)):
        qkv, mask, m = make(2, S, 1, d, scale=scale, dtype=dtype)
        options: dict[str, Any] = {"causal": causal, "activation": activation, "scale": scale}
        truth = cosine_attention_reference(qkv.double(), m=m, mask=mask, **options)
        assert error(cosine_attention(qkv, m=m, mask=mask, **options), truth) <= bound, (S, d)


@kernel
@pytest.mark.parametrize(("causal", "scale"), MODES)
def test_sections_of_a_long_sequence(causal: bool, scale: str) -> None:
    qkv, mask, m = make(2, 1500, 1, 32, scale=scale)
    found, truth = both(qkv, m, mask=mask, causal=causal, scale=scale)
    assert error(found[0], truth[0]) <= 2e-6
    assert error(found[1], truth[1]) <= 2e-6


@kernel
@pytest.mark.parametrize(("causal", "scale"), MODES)
@pytest.mark.parametrize("activation", ["none", "elu"])
def test_bfloat16(causal: bool, scale: str, activation: str) -> None:
    for S, d in ((7, 20), (20, 64), (200, 32), (90, 128)):
        qkv, mask, m = make(3, S, 2, d, scale=scale, dtype=torch.bfloat16)
        found, truth = both(qkv, m, mask=mask, causal=causal, activation=activation, scale=scale)
        assert found[0].dtype == found[1].dtype == torch.bfloat16
        assert error(found[0], truth[0]) <= 2e-3
        assert error(found[1], truth[1]) <= 2e-3


@pytest.mark.parametrize(("causal", "scale"), MODES)
@pytest.mark.parametrize("activation", ["none", "elu"])
def test_reference_gradcheck(causal: bool, scale: str, activation: str) -> None:
    qkv, mask, m = make(3, 5, 2, 3, scale=scale)
    x = qkv.double().requires_grad_()
    e = None if m is None else m.double().requires_grad_()

    def f(x: Tensor, e: Tensor | None) -> Tensor:
        return cosine_attention_reference(
            x, m=e, mask=mask, causal=causal, activation=activation, scale=scale
        )

    assert torch.autograd.gradcheck(f, (x, e))


def test_reference_is_the_textbook_sum() -> None:
    """Position by position, as the formula reads."""
    qkv, mask, m = make(2, 6, 2, 4)
    out = cosine_attention_reference(qkv.double(), mask=mask, m=m)
    q, k, v = qkv.double().unbind(2)
    for b, h, i in itertools.product(range(2), range(2), range(6)):
        want = torch.zeros(4, dtype=torch.float64)
        if mask[b, i]:
            n = mask[b].sum().double()
            for j in range(6):
                if mask[b, j]:
                    cosine = q[b, i, h] @ k[b, j, h] / (q[b, i, h].norm() * k[b, j, h].norm())
                    want += cosine * v[b, j, h]
            want *= n ** -torch.sigmoid(m[h].double())
        torch.testing.assert_close(out[b, i, h], want)


def test_linrec_formula() -> None:
    """elu(Q)/|elu(Q)| (elu(K)/|elu(K)|^T V) / sqrt(d), no mask."""
    qkv, _, _ = make(2, 40, 2, 16, scale="sqrt_d")
    q, k, v = qkv.double().permute(2, 0, 3, 1, 4)
    q, k = torch.nn.functional.elu(q), torch.nn.functional.elu(k)
    q, k = q / q.norm(dim=-1, keepdim=True), k / k.norm(dim=-1, keepdim=True)
    want = (q @ (k.transpose(-1, -2) @ v) / 4.0).transpose(1, 2)
    found = cosine_attention(qkv, activation="elu", scale="sqrt_d")
    assert error(found, want) <= 2e-6


@kernel
@pytest.mark.parametrize("causal", [False, True])
def test_left_padding_changes_no_bit(causal: bool) -> None:
    for S in (5, 70, 700):
        qkv, _, m = make(2, S, 2, 32)
        more = torch.cat([torch.full((2, 9, 3, 2, 32), float("nan")), qkv], 1)
        mask = torch.cat([torch.zeros(2, 9, dtype=torch.bool), torch.ones(2, S, dtype=torch.bool)], 1)
        (short, d_short, dm_short), _ = both(qkv, m, causal=causal)
        x = more.requires_grad_()
        e = m.clone().requires_grad_()
        long = cosine_attention(x, mask=mask, m=e, causal=causal)
        g = torch.zeros(long.shape)
        g[:, 9:] = torch.randn(short.shape, generator=torch.Generator().manual_seed(9))
        d_long, dm_long = torch.autograd.grad(long, (x, e), g)
        assert torch.equal(long[:, 9:], short)
        assert torch.equal(d_long[:, 9:], d_short)
        assert torch.equal(dm_long, dm_short)
        assert not long[:, :9].any()
        assert not d_long[:, :9].any()


@kernel
@pytest.mark.parametrize(("causal", "scale"), MODES)
def test_bits_do_not_depend_on_threads(causal: bool, scale: str) -> None:
    qkv, mask, m = make(1, 1300, 1, 32, scale=scale)
    mask[:, 100:] = True
    before = torch.get_num_threads()
    runs = []
    try:
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            runs.append(both(qkv, m, mask=mask, causal=causal, scale=scale)[0])
    finally:
        torch.set_num_threads(before)
    for other in runs[1:]:
        for a, b in zip(runs[0], other, strict=True):
            assert torch.equal(a, b)


@kernel
@pytest.mark.parametrize("causal", [False, True])
def test_packed_sequences(causal: bool) -> None:
    sizes = [3, 0, 70, 1, 20]
    bounds = torch.tensor([0, *torch.tensor(sizes).cumsum(0).tolist()])
    qkv = torch.randn(94, 3, 2, 32, generator=torch.Generator().manual_seed(1))
    m = torch.tensor([0.5, -0.5])
    found, truth = both(qkv, m, cu_seqlens=bounds, causal=causal)
    assert error(found[0], truth[0]) <= 2e-6
    assert error(found[1], truth[1]) <= 2e-6
    for size, start in zip(sizes, bounds.tolist(), strict=False):
        alone = cosine_attention(qkv[None, start : start + size], m=m, causal=causal)[0]
        assert torch.equal(alone, found[0][start : start + size])


@kernel
def test_lengths_are_a_right_padded_mask() -> None:
    qkv, _, m = make(4, 30, 2, 32)
    lengths = torch.tensor([0, 1, 17, 30])
    mask = torch.arange(30) < lengths[:, None]
    for causal in (False, True):
        by_length, _ = both(qkv, m, lengths=lengths, causal=causal)
        by_mask, _ = both(qkv, m, mask=mask, causal=causal)
        for a, b in zip(by_length, by_mask, strict=True):
            assert torch.equal(a, b)


@kernel
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", [(0, 5, 2, 16), (3, 0, 2, 16), (3, 5, 0, 16), (2, 1, 1, 16)])
def test_empty_and_single(shape: tuple[int, int, int, int], causal: bool) -> None:
    B, S, H, d = shape
    x = torch.randn(B, S, 3, H, d, generator=torch.Generator().manual_seed(0)).requires_grad_()
    e = torch.zeros(H, requires_grad=True)
    out = cosine_attention(x, m=e, causal=causal)
    assert out.shape == (B, S, H, d)
    dx, de = torch.autograd.grad(out.sum(), (x, e))
    assert torch.isfinite(dx).all()
    assert not de.any()  # n <= 1: ln n = 0


@kernel
@pytest.mark.parametrize("activation", ["none", "elu"])
@pytest.mark.parametrize("causal", [False, True])
def test_zero_vectors_and_all_padding_are_free_of_nan(activation: str, causal: bool) -> None:
    for S in (3, 90):
        x = torch.zeros(2, S, 3, 2, 16)
        x[0, 1] = 1.0
        x[0, :, 2] = 1.0
        x.requires_grad_()
        mask = torch.ones(2, S, dtype=torch.bool)
        mask[1] = False
        out = cosine_attention(x, mask=mask, scale="one", activation=activation, causal=causal)
        (dx,) = torch.autograd.grad(out, x, torch.ones_like(out))
        assert torch.isfinite(out).all()
        assert torch.isfinite(dx).all()
        assert not out[1].any()
        assert not dx[1].any()


@kernel
def test_strides_without_copies() -> None:
    """Any strides, those of the gradient too: transposed storage, every second feature, expanded gradient."""
    base = torch.randn(2, 33, 2, 3, 40, generator=torch.Generator().manual_seed(0))
    views = [base.transpose(2, 3), base.transpose(2, 3)[..., ::2], base.transpose(2, 3)[:, ::3]]
    for causal, view in itertools.product((False, True), views):
        straight = view.contiguous()
        outs = []
        for x in (view, straight):
            leaf = x.detach().requires_grad_()
            out = cosine_attention(leaf, scale="one", causal=causal)
            outs.append((out, *torch.autograd.grad(out.sum(), leaf)))
        for a, b in zip(*outs, strict=True):
            assert torch.equal(a, b)


@kernel
def test_square_and_state_orders_agree() -> None:
    """A sequence shorter than the head goes by way of S x S; padded beyond it, by way of d x d."""
    qkv, _, m = make(1, 20, 2, 64)
    assert error(cosine_attention(qkv, m=m), cosine_attention_reference(qkv.double(), m=m)) <= 2e-6
    holes = torch.zeros(1, 200, 3, 2, 64)
    mask = torch.zeros(1, 200, dtype=torch.bool)
    holes[:, ::10], mask[:, ::10] = qkv, True  # the same twenty positions, spread out
    spread = cosine_attention(holes, m=m, mask=mask)[:, ::10]
    torch.testing.assert_close(spread, cosine_attention(qkv, m=m), rtol=2e-6, atol=2e-7)


@kernel
@pytest.mark.parametrize("threads", [1, 4])  # four share a long head among them
@pytest.mark.parametrize(("S", "d"), [(20, 64), (50, 32), (1300, 16)])
def test_sums_that_were_not_kept_are_made_again(S: int, d: int, threads: int) -> None:
    qkv, mask, m = make(2, S, 1, d)
    forward, backward = torch.ops.recengine.cosine_attention, torch.ops.recengine.cosine_attention_backward
    settings = (False, "none", "length")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        out, kept = forward(qkv, mask, None, None, m, *settings, True)
        bare, none = forward(qkv, mask, None, None, m, *settings, False)
        wanted = backward(out, qkv, mask, None, None, m, kept, *settings)
        found = backward(out, qkv, mask, None, None, m, none, *settings)
    finally:
        torch.set_num_threads(before)
    assert none.numel() == 0
    assert torch.equal(out, bare)
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


@kernel
@pytest.mark.parametrize("causal", [False, True])
def test_opcheck(causal: bool) -> None:
    qkv, mask, m = make(3, 9, 2, 16)
    torch.library.opcheck(
        torch.ops.recengine.cosine_attention,
        (qkv.requires_grad_(), mask, None, None, m.requires_grad_(), causal, "none", "length", True),
    )
    with torch.no_grad():
        out, state = torch.ops.recengine.cosine_attention(
            qkv, mask, None, None, m, causal, "none", "length", True
        )
        torch.library.opcheck(
            torch.ops.recengine.cosine_attention_backward,
            (torch.ones_like(out), qkv, mask, None, None, m, state, causal, "none", "length"),
        )


@kernel
@pytest.mark.slow
def test_compile_and_export() -> None:
    def loss(qkv: Tensor, mask: Tensor, m: Tensor) -> Tensor:
        return cosine_attention(qkv * 2, mask=mask, m=m).square().sum()

    compiled = torch.compile(loss, fullgraph=True, dynamic=True)
    for B, S in ((3, 9), (5, 30)):
        qkv, mask, m = make(B, S, 2, 16)
        grads = []
        for f in (loss, compiled):
            x, e = qkv.clone().requires_grad_(), m.clone().requires_grad_()
            grads.append(torch.autograd.grad(f(x, mask, e), (x, e)))
        for a, b in zip(*grads, strict=True):
            torch.testing.assert_close(a, b)

    class Layer(torch.nn.Module):
        def forward(self, qkv: Tensor, mask: Tensor, m: Tensor) -> Tensor:
            return cosine_attention(qkv, mask=mask, m=m, causal=True)

    qkv, mask, m = make(3, 9, 2, 16)
    B, S = torch.export.Dim("B"), torch.export.Dim("S")
    program = torch.export.export(Layer(), (qkv, mask, m), dynamic_shapes=({0: B, 1: S}, {0: B, 1: S}, None))
    other = make(4, 12, 2, 16)
    assert torch.equal(program.module()(*other), Layer()(*other))


@kernel
def test_autocast() -> None:
    linear = torch.nn.Linear(32, 96)
    x = torch.randn(2, 11, 32, generator=torch.Generator().manual_seed(0))
    m = torch.nn.Parameter(torch.tensor([0.5, 0.5]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = cosine_attention(linear(x).view(2, 11, 3, 2, 16), m=m)
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert linear.weight.grad is not None
    assert linear.weight.grad.dtype == m.grad.dtype == torch.float32


def some_rows_ask(
    lengths: list[int],
    d: int,
    *,
    share: float = 0.3,
    scale: str = "length",
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """Queries, keys with values, the rows that ask, cu_seqlens and m, for two heads."""
    generator = torch.Generator().manual_seed(sum(lengths))
    total = sum(lengths)
    wanted = (torch.rand(total, generator=generator) < share).nonzero().flatten()
    queries = torch.randn(len(wanted), 2, d, generator=generator).to(dtype)
    keys = torch.randn(total, 2, 2, d, generator=generator).to(dtype)
    offsets = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()])
    return queries, keys, wanted, offsets, torch.linspace(-1.0, 1.5, 2) if scale in POWERS else None


def asked_both(
    queries: Tensor, keys: Tensor, wanted: Tensor, offsets: Tensor, m: Tensor | None, **options: Any
) -> tuple[list[Tensor], list[Tensor]]:
    """Output and gradients (of queries, of keys, of m) of the kernel, and of the reference in float64."""
    results = []
    for dtype in (queries.dtype, torch.float64):
        q, k = (x.detach().to(dtype).requires_grad_() for x in (queries, keys))
        e = None if m is None else m.detach().clone().requires_grad_()
        out = cosine_attention_at(q, k, wanted, cu_seqlens=offsets, m=e, **options)
        g = torch.randn(out.shape, generator=torch.Generator().manual_seed(9)).to(queries.dtype).to(dtype)
        results.append([out, *torch.autograd.grad(out, [q, k] if e is None else [q, k, e], g)])
    return results[0], results[1]


ASKED = [[9, 1, 30, 0, 4], [70], [20, 20, 20], [600, 3], [0, 0, 1]]


@kernel
@pytest.mark.parametrize("scale", ["length", "sequence", "sqrt_d", "one"])
@pytest.mark.parametrize("activation", ["none", "elu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_that_ask_equal_float64(scale: str, activation: str, dtype: torch.dtype) -> None:
    for lengths, d, share in itertools.product(ASKED, (5, 32, 128), (0.1, 0.5, 1.0)):
        given = some_rows_ask(lengths, d, share=share, scale=scale, dtype=dtype)
        found, truth = asked_both(*given, activation=activation, scale=scale)
        for name, a, b in zip(("out", "dq", "dkv"), found, truth, strict=False):
            assert error(a, b) <= bound(a), (name, lengths, d, share)
        if given[4] is not None:
            terms = (truth[0].norm() * (4 * sum(lengths) * d) ** 0.5).item() + 1e-12
            assert (found[3] - truth[3]).abs().max().item() <= (
                2e-6 if dtype == torch.float32 else 4e-3
            ) * terms, (lengths, d, share)


@pytest.mark.parametrize("causal", [False, True])
def test_rows_that_ask_are_rows_of_the_whole(causal: bool) -> None:
    queries, keys, wanted, offsets, m = some_rows_ask([9, 1, 30], 16)
    whole = torch.randn(40, 2, 16).index_copy(0, wanted, queries)
    found = cosine_attention_at(queries, keys, wanted, cu_seqlens=offsets, m=m, causal=causal)
    every = cosine_attention(torch.cat([whole[:, None], keys], 1), cu_seqlens=offsets, m=m, causal=causal)
    torch.testing.assert_close(found, every[wanted])


@kernel
def test_rows_that_ask_take_any_strides_and_threads() -> None:
    queries, keys, wanted, offsets, m = some_rows_ask([50] * 12, 24)
    spread = torch.empty(len(wanted), 24, 4)[..., ::2].transpose(1, 2).copy_(queries)
    wide = torch.empty(600, 2, 5, 24)[:, :, 1:5:2].copy_(keys)
    assert not spread.is_contiguous()
    assert not wide.is_contiguous()
    before, results = torch.get_num_threads(), []
    try:
        for threads, q, k in ((1, queries, keys), (4, queries, keys), (1, spread, wide)):
            torch.set_num_threads(threads)
            a, b, e = (x.detach().requires_grad_() for x in (q, k, m))
            out = cosine_attention_at(a, b, wanted, cu_seqlens=offsets, m=e)
            results.append([out, *torch.autograd.grad(out.square().sum(), (a, b, e))])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(one, two) for one, two in zip(results[0], other, strict=True))


@kernel
def test_rows_that_ask_opcheck() -> None:
    queries, keys, wanted, offsets, m = some_rows_ask([9, 1, 30], 16)
    operands = [x.detach().requires_grad_() for x in (queries, keys)]
    exponent = m.detach().requires_grad_()
    torch.library.opcheck(
        torch.ops.recengine.cosine_attention_at, (*operands, wanted, offsets, exponent, "none", "length")
    )
    torch.library.opcheck(
        torch.ops.recengine.cosine_attention_at_backward,
        (torch.ones_like(queries), queries, keys, wanted, offsets, m, "none", "length"),
    )


@kernel
def test_nobody_asks() -> None:
    keys = torch.randn(7, 2, 2, 16, requires_grad=True)
    out = cosine_attention_at(
        torch.zeros(0, 2, 16), keys, torch.zeros(0, dtype=torch.int64), cu_seqlens=torch.tensor([0, 7]), m=M
    )
    assert out.shape == (0, 2, 16)
    (gradient,) = torch.autograd.grad(out.sum(), keys)
    assert torch.equal(gradient, torch.zeros_like(keys))


def test_wrong_rows_that_ask_are_named() -> None:
    queries, keys, wanted = torch.zeros(2, 2, 16), torch.zeros(5, 2, 2, 16), torch.tensor([1, 3])
    offsets = torch.tensor([0, 5])
    for given, word in (
        ((queries, keys, wanted.int()), "wanted"),
        ((queries, keys[:, 0], wanted), "keys"),
        ((queries[:1], keys, wanted), "queries"),
        ((queries.double(), keys, wanted), "queries"),
    ):
        with pytest.raises(UsageError, match=rf"cosine_attention_at\({word}"):
            cosine_attention_at(*given, cu_seqlens=offsets, m=M)
    for rows in ([3, 1], [1, 1], [1, 5], [-1, 2]):
        for dtype, causal in ((torch.float32, False), (torch.float32, True), (torch.float64, False)):
            asked = queries.to(dtype), keys.to(dtype), torch.tensor(rows)
            with pytest.raises(RuntimeError, match=r"cosine_attention_at: wanted\[[01]\] is"):
                cosine_attention_at(*asked, cu_seqlens=offsets, m=M, causal=causal)


QKV, M = torch.zeros(2, 5, 3, 2, 16), torch.zeros(2)


@pytest.mark.parametrize(
    ("qkv", "options", "word"),
    [
        (torch.zeros(2, 5, 2, 2, 16), {"m": M}, "qkv"),
        (QKV.long(), {"m": M}, "qkv"),
        (QKV[..., :0], {"scale": "sqrt_d"}, "qkv"),
        (QKV, {}, "m"),
        (QKV, {"m": torch.zeros(3)}, "m"),
        (QKV, {"m": M, "scale": "one"}, "m"),
        (QKV, {"m": M, "scale": "two"}, "scale"),
        (QKV, {"m": M, "scale": "key_prefix"}, "scale"),
        (QKV, {"m": M, "activation": "relu"}, "activation"),
        (QKV, {"m": M, "mask": torch.ones(2, 4, dtype=torch.bool)}, "mask"),
        (QKV, {"m": M, "mask": torch.ones(2, 5)}, "mask"),
        (QKV, {"m": M, "lengths": torch.zeros(3, dtype=torch.int64)}, "lengths"),
        (QKV, {"m": M, "cu_seqlens": torch.tensor([0, 5])}, "qkv"),
        (QKV, {"m": M, "mask": torch.ones(2, 5, dtype=torch.bool), "lengths": torch.ones(2).long()}, "mask"),
    ],
)
def test_wrong_arguments_are_named(qkv: Tensor, options: dict[str, Any], word: str) -> None:
    with pytest.raises(UsageError, match=rf"cosine_attention\({word}"):
        cosine_attention(qkv, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lengths": torch.tensor([1, 6])}, r"lengths\[1\] is 6, expected 0 to 5"),
        ({"cu_seqlens": torch.tensor([0, 3])}, "cu_seqlens must run from 0 to 5"),
        ({"cu_seqlens": torch.tensor([0, 4, 3, 5])}, "cu_seqlens falls at 2"),
    ],
)
def test_values_are_checked(options: dict[str, Any], message: str, dtype: torch.dtype) -> None:
    qkv = (QKV if "lengths" in options else QKV[0]).to(dtype)
    with pytest.raises(RuntimeError, match=message):
        cosine_attention(qkv, m=M, **options)
