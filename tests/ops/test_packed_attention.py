"""Exact attention over packed sequences: kernels against float64, gradients, edges, threads, compile."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from recengine.errors import UsageError
from recengine.ops import (
    cosine_attention,
    cosine_attention_at,
    gated_attention,
    softmax_attention,
    softmax_attention_at,
)
from recengine.ops._library import native
from recengine.ops.packed_attention import (
    _bucket,
    gated_attention_reference,
    softmax_attention_reference,
)

kernel = pytest.mark.skipif(not native().cpu, reason="no native kernels here")
LENGTHS = [[5, 1, 9], [16], [17, 0, 3], [0, 0, 70, 2], [130, 1], [1500]]
HEADS = [(1, 16), (2, 32), (3, 20), (1, 128), (2, 1)]


def bounds(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *torch.tensor(lengths, dtype=torch.int64).cumsum(0).tolist()])


def some_rows(rows: int) -> Tensor:
    """About every third row, the last among them."""
    return torch.arange(rows).flip(0)[::3].flip(0).contiguous()


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def error(found: Tensor, truth: Tensor) -> float:
    assert found.shape == truth.shape
    assert torch.isfinite(found).all()
    return ((found.double() - truth).norm() / truth.norm().clamp(min=1e-30)).item()


def graded(call: Callable[..., Tensor], given: list[Tensor], dtype: torch.dtype | None) -> list[Tensor]:
    """Output and gradients of ``call`` on copies of ``given`` (in ``dtype``)."""
    own = [x.detach().to(dtype or x.dtype).requires_grad_() for x in given]
    out = call(*own)
    slope = random(*out.shape, seed=9).to(given[0].dtype).to(out.dtype)
    return [out, *torch.autograd.grad(out, own, slope)]


def gated_case(
    lengths: list[int], heads: int, d: int, dtype: torch.dtype = torch.float32
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Queries of some rows, keys, values, both biases; and what has no gradient."""
    rows, longest = sum(lengths), max(lengths)
    wanted = some_rows(rows)
    given = [
        random(len(wanted), heads, d, seed=1).to(dtype),
        random(rows, heads, d, seed=2).to(dtype),
        random(rows, heads, d, seed=3).to(dtype),
        random(longest + 3, seed=4),
        random(64, seed=5),
    ]
    times = torch.randint(0, 10**6, (rows,), generator=torch.Generator().manual_seed(6))
    return given, {"wanted": wanted, "cu_seqlens": bounds(lengths), "times": times}


def gated_call(fixed: dict[str, Tensor], call: Callable[..., Tensor] = gated_attention) -> Any:
    def run(q: Tensor, k: Tensor, v: Tensor, by_distance: Tensor, by_time: Tensor) -> Tensor:
        return call(q, k, v, by_distance=by_distance, by_time=by_time, share=0.1, **fixed)

    return run


@kernel
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("heads", "d"), HEADS)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_softmax_equals_float64(lengths: list[int], heads: int, d: int, causal: bool) -> None:
    offsets, qkv = bounds(lengths), random(sum(lengths), 3, heads, d)
    found = graded(lambda x: softmax_attention(x, cu_seqlens=offsets, causal=causal), [qkv], None)
    truth = graded(
        lambda x: softmax_attention_reference(x, cu_seqlens=offsets, causal=causal), [qkv], torch.float64
    )
    assert all(error(one, two) < 2e-6 for one, two in zip(found, truth, strict=True))


@kernel
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-3)])
@pytest.mark.parametrize("d", [16, 32, 64, 128])
@pytest.mark.parametrize("length", [1, 7, 20, 50, 200, 1000])
def test_output_at_every_length_and_head_size(length: int, d: int, dtype: torch.dtype, bound: float) -> None:
    lengths = [length] * max(2, 32 // length)  # a gated score near zero, alone, has few digits in float32
    offsets, qkv = bounds(lengths), random(sum(lengths), 3, 1, d, dtype=dtype)
    for causal in (False, True):
        truth = softmax_attention_reference(qkv.double(), cu_seqlens=offsets, causal=causal)
        assert error(softmax_attention(qkv, cu_seqlens=offsets, causal=causal), truth) <= bound
    given, fixed = gated_case(lengths, 1, d, dtype)
    truth = gated_call(fixed, gated_attention_reference)(*(x.double() for x in given))
    assert error(gated_call(fixed)(*given), truth) <= bound


@kernel
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_some_rows_are_those_of_all(lengths: list[int], causal: bool) -> None:
    offsets, qkv = bounds(lengths), random(sum(lengths), 3, 2, 16)
    wanted = some_rows(len(qkv))
    options = {"cu_seqlens": offsets, "causal": causal}
    found = graded(
        lambda q, kv: softmax_attention_at(q, kv, wanted, **options), [qkv[wanted, 0], qkv[:, 1:]], None
    )
    truth = graded(
        lambda x: softmax_attention_reference(x, **options).index_select(0, wanted), [qkv], torch.float64
    )
    assert error(found[0], truth[0]) < 2e-6
    assert error(found[1], truth[1][wanted, 0]) < 2e-6
    assert error(found[2], truth[1][:, 1:]) < 2e-6


@kernel
@pytest.mark.parametrize("with_times", [True, False])
@pytest.mark.parametrize(("heads", "d"), HEADS)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_gated_equals_float64(lengths: list[int], heads: int, d: int, with_times: bool) -> None:
    given, fixed = gated_case(lengths, heads, d)
    if with_times:
        found = graded(gated_call(fixed), given, None)
        truth = graded(gated_call(fixed, gated_attention_reference), given, torch.float64)
    else:
        del fixed["times"]

        def plain(call: Callable[..., Tensor]) -> Callable[..., Tensor]:
            return lambda q, k, v, by_distance: call(q, k, v, by_distance=by_distance, share=0.1, **fixed)

        found = graded(plain(gated_attention), given[:4], None)
        truth = graded(plain(gated_attention_reference), given[:4], torch.float64)
    assert all(error(one, two) < 2e-6 for one, two in zip(found, truth, strict=True))


@kernel
def test_bfloat16() -> None:
    lengths = [40, 1, 130]
    qkv = random(sum(lengths), 3, 2, 32, dtype=torch.bfloat16)
    options = {"cu_seqlens": bounds(lengths), "causal": True}
    found = graded(lambda x: softmax_attention(x, **options), [qkv], None)
    truth = graded(lambda x: softmax_attention_reference(x, **options), [qkv], torch.float64)
    assert found[0].dtype == found[1].dtype == torch.bfloat16
    assert all(error(one, two) < 2e-3 for one, two in zip(found, truth, strict=True))
    given, fixed = gated_case(lengths, 2, 32, torch.bfloat16)
    found = graded(gated_call(fixed), given, None)
    truth = graded(gated_call(fixed, gated_attention_reference), given, torch.float64)
    assert all(error(one, two) < 2e-3 for one, two in zip(found, truth, strict=True))


@kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_strides_without_copies(dtype: torch.dtype) -> None:
    """Views of one projection, heads and elements that lie apart: the bits of contiguous tensors."""
    offsets = bounds([9, 20])
    wide = random(29, 3, 2, 33, dtype=dtype)
    for view in (wide[..., :32], wide[..., 1:], random(2, 3, 29, 32, dtype=dtype).permute(2, 1, 0, 3)):
        found, wanted = (
            graded_view(lambda x: softmax_attention(x, cu_seqlens=offsets), x)
            for x in (view, view.contiguous())
        )
        assert all(torch.equal(one, two) for one, two in zip(found, wanted, strict=True))
    both = random(29, 2, 2, 16, dtype=dtype)
    given, fixed = gated_case([9, 20], 2, 16, dtype)
    fixed["wanted"] = torch.arange(29)
    calls = [
        gated_call(fixed)(q, k, v, *given[3:])
        for q, k, v in (
            (both[:, 0], both[:, 1], both[:, 0]),
            (both[:, 0].contiguous(), both[:, 1].contiguous(), both[:, 0].contiguous()),
        )
    ]
    assert torch.equal(*calls)


def graded_view(call: Callable[[Tensor], Tensor], given: Tensor) -> list[Tensor]:
    own = given.detach().requires_grad_()
    assert own.stride() == given.stride()
    out = call(own)
    return [out, *torch.autograd.grad(out, own, random(*out.shape, seed=9).to(out.dtype))]


@kernel
def test_empty_and_single() -> None:
    none = torch.zeros(0, 3, 2, 16, requires_grad=True)
    for offsets in (torch.tensor([0]), torch.tensor([0, 0, 0])):
        out = softmax_attention(none, cu_seqlens=offsets)
        assert out.shape == (0, 2, 16)
        assert torch.autograd.grad(out.sum(), none)[0].shape == none.shape
    one = random(1, 3, 2, 16)
    torch.testing.assert_close(softmax_attention(one, cu_seqlens=torch.tensor([0, 1])), one[:, 2])
    keys = random(4, 2, 2, 16).requires_grad_()
    asked = torch.zeros(0, 2, 16, requires_grad=True)
    out = softmax_attention_at(
        asked, keys, torch.zeros(0, dtype=torch.int64), cu_seqlens=torch.tensor([0, 4])
    )
    assert out.shape == (0, 2, 16)
    assert torch.equal(torch.autograd.grad(out.sum(), keys)[0], torch.zeros_like(keys))
    given, fixed = gated_case([4], 2, 16)
    given[0], fixed["wanted"] = given[0][:0], torch.zeros(0, dtype=torch.int64)
    for gradient in graded(gated_call(fixed), given, None)[1:]:
        assert torch.equal(gradient, torch.zeros_like(gradient))
    given, fixed = gated_case([0], 2, 16)
    assert fixed["times"] is not None
    for gradient in graded(gated_call(fixed), given, None)[1:]:
        assert torch.equal(gradient, torch.zeros_like(gradient))


@kernel
def test_far_scores_and_equal_ones_are_free_of_nan() -> None:
    offsets = bounds([7, 2])
    equal = torch.zeros(9, 3, 1, 16)
    equal[:, 2] = random(9, 1, 16)
    out = softmax_attention(equal, cu_seqlens=offsets)
    torch.testing.assert_close(out[:7], equal[:7, 2].mean(0).expand(7, 1, 16))
    far = random(9, 3, 1, 16) * 300  # scores of 1e5: one key takes all
    found = graded(lambda x: softmax_attention(x, cu_seqlens=offsets), [far], None)
    truth = graded(lambda x: softmax_attention_reference(x, cu_seqlens=offsets), [far], torch.float64)
    assert error(found[0], truth[0]) < 1e-4
    assert torch.isfinite(found[1]).all()
    broken = random(9, 3, 1, 16)
    broken[2, 1, 0, 0] = math.nan
    out = softmax_attention(broken, cu_seqlens=offsets)
    assert out[:7].isnan().all()
    assert torch.isfinite(out[7:]).all()


@kernel
def test_bits_do_not_depend_on_threads() -> None:
    lengths = [33, 1, 200, 7, 64]
    qkv, offsets = random(sum(lengths), 3, 2, 32), bounds(lengths)
    given, fixed = gated_case(lengths, 2, 32)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            softmax = graded(lambda x: softmax_attention(x, cu_seqlens=offsets, causal=True), [qkv], None)
            found.append([*softmax, *graded(gated_call(fixed), given, None)])
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))


@pytest.mark.parametrize("causal", [False, True])
def test_reference_gradcheck(causal: bool) -> None:
    qkv = random(6, 3, 2, 3, dtype=torch.float64).requires_grad_()
    offsets = bounds([4, 0, 2])
    assert torch.autograd.gradcheck(
        lambda x: softmax_attention(x, cu_seqlens=offsets, causal=causal, scale=0.7), qkv
    )
    given, fixed = gated_case([4, 2], 2, 3, torch.float64)
    inputs = [x.double().requires_grad_() for x in given]
    assert torch.autograd.gradcheck(gated_call(fixed), inputs)


@kernel
def test_opcheck() -> None:
    offsets, wanted = bounds([4, 0, 3]), torch.tensor([1, 3, 6])
    qkv = random(7, 3, 2, 16).requires_grad_()
    kinds = torch.ops.recengine
    opcheck(kinds.softmax_attention.default, (qkv, offsets, True, 0.25))
    queries, keys = random(3, 2, 16).requires_grad_(), random(7, 2, 2, 16).requires_grad_()
    opcheck(kinds.softmax_attention_at.default, (queries, keys, wanted, offsets, False, 0.25))
    single = [random(3, 2, 16), random(7, 2, 16), random(7, 2, 16)]
    biases, times = random(5), torch.arange(7) * 1000
    for clock in ((times, random(64).requires_grad_()), (None, None)):
        own = [x.clone().requires_grad_() for x in single]
        opcheck(
            kinds.gated_attention.default,
            (*own, wanted, offsets, biases.clone().requires_grad_(), *clock, 0.1),
        )


@kernel
def test_compile_and_export() -> None:
    def net(x: Tensor, offsets: Tensor) -> Tensor:
        return softmax_attention(x * 2, cu_seqlens=offsets, causal=True) + 1

    compiled = torch.compile(net, fullgraph=True, dynamic=True)
    for lengths in ([3, 4], [9, 1, 6]):
        x, offsets = random(sum(lengths), 3, 2, 16).requires_grad_(), bounds(lengths)
        torch.testing.assert_close(compiled(x, offsets), net(x, offsets))
        torch.testing.assert_close(
            torch.autograd.grad(compiled(x, offsets).sum(), x), torch.autograd.grad(net(x, offsets).sum(), x)
        )

    class Net(torch.nn.Module):
        def forward(self, x: Tensor, offsets: Tensor) -> Tensor:
            return net(x, offsets)

    x, offsets = random(7, 3, 2, 16), bounds([3, 4])
    rows = torch.export.Dim("rows", min=2, max=4096)
    program = torch.export.export(Net(), (x, offsets), dynamic_shapes=({0: rows}, {0: torch.export.Dim.AUTO}))
    longer, other = random(16, 3, 2, 16), bounds([9, 1, 6])
    torch.testing.assert_close(program.module()(longer, other), net(longer, other))


@kernel
def test_autocast() -> None:
    """The operator takes what a projection under autocast gives."""
    project = torch.nn.Linear(8, 3 * 2 * 16)
    rows, offsets = random(9, 8), bounds([4, 5])
    with torch.autocast("cpu", torch.bfloat16):
        out = softmax_attention(project(rows).view(9, 3, 2, 16), cu_seqlens=offsets)
    assert out.dtype == torch.bfloat16


def test_wrong_arguments_are_named() -> None:
    qkv, offsets, wanted = random(5, 3, 2, 16), bounds([2, 3]), torch.tensor([1, 4])
    with pytest.raises(UsageError, match="qkv"):
        softmax_attention(qkv[:, :2], cu_seqlens=offsets)
    with pytest.raises(UsageError, match="qkv"):
        softmax_attention(qkv.long(), cu_seqlens=offsets)
    with pytest.raises(UsageError, match="cu_seqlens"):
        softmax_attention(qkv, cu_seqlens=offsets.int())
    with pytest.raises(UsageError, match="wanted"):
        softmax_attention_at(qkv[:2, 0], qkv[:, 1:], wanted.int(), cu_seqlens=offsets)
    with pytest.raises(UsageError, match="queries"):
        softmax_attention_at(qkv[:3, 0], qkv[:, 1:], wanted, cu_seqlens=offsets)
    with pytest.raises(UsageError, match="queries"):
        softmax_attention_at(qkv[:2, 0].double(), qkv[:, 1:], wanted, cu_seqlens=offsets)
    keys = qkv[:, 1]
    with pytest.raises(UsageError, match="values"):
        gated_attention(keys[:2], keys, keys[:4], wanted, cu_seqlens=offsets, by_distance=torch.zeros(3))
    with pytest.raises(UsageError, match="by_time"):
        gated_attention(
            keys[:2],
            keys,
            keys,
            wanted,
            cu_seqlens=offsets,
            by_distance=torch.zeros(3),
            by_time=torch.zeros(64),
        )


@pytest.mark.parametrize(
    ("dtype", "d"),
    [(torch.float32, 16), (torch.float32, 130), (torch.float64, 16), (torch.float16, 16)],
)
def test_values_are_checked(dtype: torch.dtype, d: int) -> None:
    qkv = random(5, 3, 2, d).to(dtype)
    keys, short = qkv[:, 1], torch.zeros(2)
    for offsets, found in (
        ([0, 4], "found 0 and 4"),
        ([0, 4, 3, 5], "falls at 2"),
        ([1, 5], "found 1 and 5"),
    ):
        with pytest.raises(RuntimeError, match=found):
            softmax_attention(qkv, cu_seqlens=torch.tensor(offsets))
    for scale in (0.0, -1.0):
        with pytest.raises(RuntimeError, match="scale must be above 0"):
            softmax_attention(qkv, cu_seqlens=bounds([5]), scale=scale)
    with pytest.raises(UsageError, match="heads of no size"):
        softmax_attention(qkv[..., :0], cu_seqlens=bounds([5]))
    for wanted in ([3, 1], [0, 5], [2, 2]):
        with pytest.raises(RuntimeError, match="rows ascend"):
            softmax_attention_at(qkv[:2, 0], qkv[:, 1:], torch.tensor(wanted), cu_seqlens=bounds([5]))
    with pytest.raises(RuntimeError, match="by_distance has size 2, expected at least 5"):
        gated_attention(keys, keys, keys, torch.arange(5), cu_seqlens=bounds([5]), by_distance=short)
    with pytest.raises(RuntimeError, match="by_time has size 2"):
        gated_attention(
            keys,
            keys,
            keys,
            torch.arange(5),
            cu_seqlens=bounds([5]),
            by_distance=torch.zeros(5),
            times=torch.arange(5),
            by_time=short,
        )


@kernel
def test_any_time_has_its_bucket() -> None:
    """Gaps at every power of two, times that fall, and the widest there are: the kernel's buckets are the
    reference's."""
    gaps = [0, *[(1 << power) + more for power in range(63) for more in (-2, -1, 0)]]
    assert _bucket(torch.tensor([-5, 0, 1, 2, 3, 2**62 - 2, 2**62 - 1, 2**63 - 2])).tolist() == [
        0, 0, 1, 1, 2, 61, 62, 62
    ]  # fmt: skip
    times = torch.tensor([max(gaps) - gap for gap in gaps] + [max(gaps), 0, 5])
    rows = len(times)
    given, fixed = gated_case([rows], 1, 16)
    given[0] = random(rows, 1, 16)
    fixed |= {"times": times, "wanted": torch.arange(rows)}
    found = graded(gated_call(fixed), given, None)
    truth = graded(gated_call(fixed, gated_attention_reference), given, torch.float64)
    assert all(error(one, two) < 2e-6 for one, two in zip(found, truth, strict=True))


@kernel
def test_bounds_rows_and_times_have_any_strides() -> None:
    qkv, by_time = random(9, 3, 2, 16), torch.linspace(0, 1, 64)
    keys, offsets, wanted, times = qkv[:, 1], bounds([5, 4]), torch.tensor([1, 5, 6]), torch.arange(9) * 7

    def strided(x: Tensor) -> Tensor:
        return torch.stack([x, torch.full_like(x, -9)], 1)[:, 0]

    def run(of: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
        given = {"cu_seqlens": of(offsets)}
        timed = {"by_distance": by_time, "times": of(times), "by_time": by_time}
        return (
            softmax_attention(qkv, **given),
            softmax_attention_at(keys[:3], qkv[:, 1:], of(wanted), **given),
            gated_attention(keys[:3], keys, keys, of(wanted), **given, **timed),
            cosine_attention(qkv, **given, scale="one"),
            cosine_attention_at(keys[:3], qkv[:, 1:], of(wanted), **given, scale="one"),
        )

    for straight, other in zip(run(lambda x: x), run(strided), strict=True):
        assert torch.equal(straight, other)
