"""Bag sums, sparse and dense gradients, row updates: against float64, torch, and across thread counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from recengine.errors import UsageError
from recengine.ops._library import native
from recengine.ops.embedding import (
    embedding_bag_sum,
    embedding_bag_sum_reference,
    gradient_rows,
    rowwise_adagrad_,
    rowwise_adagrad_reference_,
    sparse_adam_,
    sparse_adam_reference_,
)

kernel = pytest.mark.skipif(not native().cpu, reason="no native kernels here")


def error(found: Tensor, truth: Tensor) -> float:
    assert found.shape == truth.shape
    assert torch.isfinite(found).all()
    return ((found.double() - truth).norm() / truth.norm().clamp(min=1e-30)).item()


def bags(V: int, B: int, d: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A table, many repeated ids, bags of 0 to 9 entries, and a factor an entry."""
    g = torch.Generator().manual_seed(V + B + d)
    sizes = torch.randint(0, 10, (B,), generator=g)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
    n = int(offsets[-1])
    indices = (torch.rand(n, generator=g).square() * V).long()
    return torch.randn(V, d, generator=g).to(dtype), indices, offsets, torch.randn(n, generator=g)


@kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("V", "B", "d"), [(1, 3, 45), (7, 40, 16), (5000, 300, 33), (100, 64, 64)])
def test_kernel_equals_float64(V: int, B: int, d: int, weighted: bool, dtype: torch.dtype) -> None:
    weight, indices, offsets, factors = bags(V, B, d, dtype)
    bound = 2e-6 if dtype == torch.float32 else 2e-3
    g = torch.randn(B, d, generator=torch.Generator().manual_seed(1)).to(dtype)
    results = []
    for f, kind in ((embedding_bag_sum, dtype), (embedding_bag_sum_reference, torch.float64)):
        w = weight.to(kind).requires_grad_()
        p = factors.to(torch.float32 if kind == dtype else kind).requires_grad_() if weighted else None
        out = f(w, indices, offsets, per_sample_weights=p)
        leaves = [w] if p is None else [w, p]
        results.append([out, *torch.autograd.grad(out, leaves, g.to(kind))])
    for a, b in zip(*results, strict=True):
        assert error(a, b) <= bound


@kernel
def test_sparse_gradient_is_coalesced_and_equal_to_the_dense_one() -> None:
    weight, indices, offsets, factors = bags(50, 200, 24)
    g = torch.randn(200, 24, generator=torch.Generator().manual_seed(1))
    grads = []
    for sparse in (False, True):
        w = weight.clone().requires_grad_()
        embedding_bag_sum(w, indices, offsets, per_sample_weights=factors, sparse=sparse).backward(g)
        grads.append(w.grad)
    assert grads[1].is_sparse
    rows, values = gradient_rows(grads[1])
    assert torch.equal(rows, indices.unique())
    assert torch.equal(values, grads[0][rows])
    twice = gradient_rows((grads[1] + grads[1]).detach())  # two calls, accumulated
    assert torch.equal(twice[0], rows)
    assert torch.equal(twice[1], 2 * values)


@pytest.mark.parametrize("table", [torch.float64, torch.float32])
def test_a_sparse_gradient_is_sparse_whoever_computes(table: torch.dtype) -> None:
    """float64 runs the reference, and so does all else where there is no kernel."""
    weight, indices, offsets, factors = bags(50, 200, 24)
    grads = []
    for sparse in (False, True):
        w, p = (t.to(table, copy=True).requires_grad_() for t in (weight, factors))
        out = embedding_bag_sum(w, indices, offsets, per_sample_weights=p, sparse=sparse)
        out.square().sum().backward()
        grads.append((w.grad, p.grad))
    rows, values = gradient_rows(grads[1][0])
    assert torch.equal(rows, indices.unique())
    torch.testing.assert_close(values, grads[0][0][rows])
    torch.testing.assert_close(grads[1][1], grads[0][1])
    other = weight.to(table, copy=True).requires_grad_()
    embedding_bag_sum(other, indices[:12].view(4, 3), sparse=True).sum().backward()
    assert other.grad.is_sparse


@kernel
def test_bits_do_not_depend_on_threads() -> None:
    weight, indices, offsets, factors = bags(300, 500, 40)
    before, runs = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            w, p = weight.clone().requires_grad_(), factors.clone().requires_grad_()
            out = embedding_bag_sum(w, indices, offsets, per_sample_weights=p)
            dw, dp = torch.autograd.grad(out, (w, p), torch.ones_like(out))
            state = torch.zeros(300)
            rows = indices.unique()
            table = weight.clone()
            rowwise_adagrad_(table, state, rows, dw[rows], lr=0.1)
            runs.append((out, dw, dp, table, state))
    finally:
        torch.set_num_threads(before)
    for other in runs[1:]:
        for a, b in zip(runs[0], other, strict=True):
            assert torch.equal(a, b)


def test_reference_gradcheck_and_torch() -> None:
    weight, indices, offsets, factors = bags(6, 8, 3)
    w, p = weight.double().requires_grad_(), factors.double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda w, p: embedding_bag_sum_reference(w, indices, offsets, per_sample_weights=p), (w, p)
    )
    want = torch.nn.functional.embedding_bag(
        indices, w, offsets, mode="sum", per_sample_weights=p, include_last_offset=True
    )
    torch.testing.assert_close(embedding_bag_sum_reference(w, indices, offsets, per_sample_weights=p), want)


@kernel
def test_bags_of_one_size() -> None:
    weight = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    indices = torch.arange(12).view(3, 4) % 5
    torch.testing.assert_close(embedding_bag_sum(weight, indices), weight[indices].sum(1))
    factors = torch.linspace(0, 1, 12).view(3, 4)
    torch.testing.assert_close(
        embedding_bag_sum(weight, indices, per_sample_weights=factors),
        (weight[indices] * factors[..., None]).sum(1),
    )


@kernel
@pytest.mark.parametrize("sparse", [False, True])
def test_empty(sparse: bool) -> None:
    none = torch.zeros(0, dtype=torch.int64)
    weight = torch.randn(4, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    out = embedding_bag_sum(weight, none, torch.zeros(1, dtype=torch.int64), sparse=sparse)
    assert out.shape == (0, 8)
    out = embedding_bag_sum(weight, none, torch.zeros(4, dtype=torch.int64), sparse=sparse)
    assert out.shape == (3, 8)
    assert not out.any()
    out.sum().backward()
    assert not weight.grad.to_dense().any()
    table, state = torch.ones(4, 8), torch.zeros(4)
    rowwise_adagrad_(table, state, none, torch.zeros(0, 8), lr=1.0)
    assert torch.equal(table, torch.ones(4, 8))


@kernel
def test_strides_without_copies() -> None:
    base = torch.randn(10, 64, generator=torch.Generator().manual_seed(0))
    indices, offsets = torch.tensor([3, 3, 0, 9]), torch.tensor([0, 2, 4])
    for view in (base[:, ::2], base[:, 8:24], base.t()[:10]):
        assert torch.equal(
            embedding_bag_sum(view, indices, offsets), embedding_bag_sum(view.contiguous(), indices, offsets)
        )
    w = base.clone().requires_grad_()
    embedding_bag_sum(w, indices, offsets).sum().backward()  # an expanded gradient
    assert torch.equal(w.grad[:, 0], torch.tensor([1.0, 0, 0, 2, 0, 0, 0, 0, 0, 1]))


@kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("d", [1, 16, 21, 64])
def test_updates_equal_float64_and_touch_seen_rows_only(d: int, dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(d)
    rows = torch.tensor([0, 3, 4, 11])
    unseen = [i for i in range(12) if i not in rows.tolist()]
    start = torch.randn(12, d, generator=g).to(dtype)
    state, m, v = torch.rand(12, generator=g), torch.randn(12, d, generator=g), torch.rand(12, d, generator=g)
    bound = 2e-6 if dtype == torch.float32 else 2e-3
    for _ in range(2):
        values = torch.randn(4, d, generator=g).to(dtype)
        table, sums = start.clone(), state.clone()
        rowwise_adagrad_(table, sums, rows, values, lr=0.1)
        want, wanted = start.double(), state.double()
        rowwise_adagrad_reference_(want, wanted, rows, values.double(), lr=0.1)
        assert error(table, want) <= bound
        assert error(sums, wanted) <= 2e-6
        assert torch.equal(table[unseen], start[unseen])

        table, ours = start.clone(), [m.clone(), v.clone()]
        sparse_adam_(table, *ours, rows, values, step=3, lr=0.01)
        want, truth = start.double(), [m.double(), v.double()]
        sparse_adam_reference_(want, *truth, rows, values.double(), step=3, lr=0.01)
        assert error(table, want) <= bound
        assert max(error(a, b) for a, b in zip(ours, truth, strict=True)) <= 2e-6
        assert torch.equal(table[unseen], start[unseen])
        assert torch.equal(ours[0][unseen], m[unseen])


@kernel
def test_sparse_adam_is_torch_s() -> None:
    weight, indices, offsets, _ = bags(30, 20, 8)
    theirs = torch.nn.Parameter(weight.clone())
    optimiser = torch.optim.SparseAdam([theirs], lr=0.05)
    ours, m, v = weight.clone(), torch.zeros(30, 8), torch.zeros(30, 8)
    for step in range(1, 5):
        optimiser.zero_grad()
        ids, ends = indices[: int(offsets[step * 4])], offsets[: step * 4 + 1]
        embedding_bag_sum(theirs, ids, ends, sparse=True).square().sum().backward()
        optimiser.step()
        leaf = ours.clone().requires_grad_()
        embedding_bag_sum(leaf, ids, ends, sparse=True).square().sum().backward()
        sparse_adam_(ours, m, v, *gradient_rows(leaf.grad), step=step, lr=0.05)
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-5, atol=1e-6)


@kernel
def test_opcheck() -> None:
    weight, indices, offsets, factors = bags(9, 6, 8)
    ops = torch.ops.recengine
    torch.library.opcheck(
        ops.embedding_bag_sum,
        (weight.clone().requires_grad_(), indices, offsets, factors.requires_grad_(), False),
    )
    grad, factors = torch.ones(6, 8), factors.detach()
    torch.library.opcheck(ops.embedding_bag_sum_backward, (grad, indices, offsets, factors, 9))
    torch.library.opcheck(ops.embedding_bag_sum_rows, (grad, indices, offsets, factors, 9))
    torch.library.opcheck(ops.embedding_bag_sum_weights, (grad, weight, indices, offsets))
    rows, values = torch.tensor([1, 4]), torch.ones(2, 8)
    torch.library.opcheck(ops.rowwise_adagrad_, (weight.clone(), torch.zeros(9), rows, values, 0.1, 1e-10))
    torch.library.opcheck(
        ops.sparse_adam_,
        (weight.clone(), torch.zeros(9, 8), torch.zeros(9, 8), rows, values, 1, 0.1, 0.9, 0.999, 1e-8),
    )


@kernel
@pytest.mark.slow
def test_compile_and_export() -> None:
    def loss(weight: Tensor, indices: Tensor, offsets: Tensor) -> Tensor:
        return embedding_bag_sum(weight * 2, indices, offsets).square().sum()

    compiled = torch.compile(loss, fullgraph=True, dynamic=True)
    for V, B in ((9, 6), (20, 30)):
        weight, indices, offsets, _ = bags(V, B, 8)
        grads = []
        for f in (loss, compiled):
            w = weight.clone().requires_grad_()
            grads.append(torch.autograd.grad(f(w, indices, offsets), w)[0])
        torch.testing.assert_close(*grads)

    class Layer(torch.nn.Module):
        def forward(self, weight: Tensor, indices: Tensor, offsets: Tensor) -> Tensor:
            return embedding_bag_sum(weight, indices, offsets)

    V, N, B = torch.export.Dim("V"), torch.export.Dim("N"), torch.export.Dim("B", min=3)
    weight, indices, offsets, _ = bags(9, 6, 8)
    program = torch.export.export(
        Layer(), (weight, indices, offsets), dynamic_shapes=({0: V}, {0: N}, {0: B})
    )
    other = bags(20, 11, 8)[:3]
    assert torch.equal(program.module()(*other), Layer()(*other))


@kernel
def test_autocast() -> None:
    weight, indices, offsets, _ = bags(9, 6, 8)
    w = weight.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = torch.nn.functional.linear(embedding_bag_sum(w, indices, offsets), torch.ones(4, 8))
    out.float().sum().backward()
    assert w.grad.dtype == torch.float32


TABLE, IDS, ENDS = torch.zeros(4, 3), torch.tensor([0, 1]), torch.tensor([0, 2])


@pytest.mark.parametrize(
    ("arguments", "options", "word"),
    [
        ((TABLE[0], IDS, ENDS), {}, "weight"),
        ((TABLE, IDS.float(), ENDS), {}, "indices"),
        ((TABLE, IDS), {}, "offsets"),
        ((TABLE, IDS, ENDS.int()), {}, "offsets"),
        ((TABLE, IDS, ENDS), {"per_sample_weights": torch.ones(3)}, "per_sample_weights"),
    ],
)
def test_wrong_arguments_are_named(arguments: tuple[Tensor, ...], options: dict[str, Any], word: str) -> None:
    with pytest.raises(UsageError, match=rf"embedding_bag_sum\({word}\)"):
        embedding_bag_sum(*arguments, **options)


@kernel
def test_values_are_checked() -> None:
    with pytest.raises(RuntimeError, match=r"indices\[1\] is 4, expected 0 to 3"):
        embedding_bag_sum(TABLE, torch.tensor([0, 4]), ENDS)
    with pytest.raises(RuntimeError, match="offsets must run from 0 to 2"):
        embedding_bag_sum(TABLE, IDS, torch.tensor([0, 1]))
    with pytest.raises(RuntimeError, match="offsets falls at 2"):
        embedding_bag_sum(TABLE, IDS, torch.tensor([0, 2, 1, 2]))
    with pytest.raises(RuntimeError, match="rows must rise strictly"):
        rowwise_adagrad_(TABLE.clone(), torch.zeros(4), torch.tensor([1, 1]), torch.ones(2, 3), lr=1.0)
    with pytest.raises(RuntimeError, match=r"rows\[0\] is -1"):
        rowwise_adagrad_(TABLE.clone(), torch.zeros(4), torch.tensor([-1, 1]), torch.ones(2, 3), lr=1.0)
    with pytest.raises(UsageError, match=r"rowwise_adagrad_\(state\)"):
        rowwise_adagrad_(TABLE.clone(), torch.zeros(3), torch.tensor([0, 1]), torch.ones(2, 3), lr=1.0)
    with pytest.raises(RuntimeError, match="step is 0"):
        sparse_adam_(TABLE.clone(), TABLE.clone(), TABLE.clone(), IDS, torch.ones(2, 3), step=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_values_are_checked_whoever_computes(dtype: torch.dtype) -> None:
    table, entries = torch.zeros(4, 3, dtype=dtype), torch.zeros(5, dtype=torch.int64)
    for offsets, found in (
        ([0, 2, 3], "must run from 0 to 5"),
        ([1, 2, 6], "must run from 0 to 5"),
        ([0, 4, 2, 5], "falls at 2"),
    ):
        with pytest.raises(RuntimeError, match=f"offsets {found}"):
            embedding_bag_sum(table, entries, torch.tensor(offsets))
    for wrong in (-1, 4):
        with pytest.raises(RuntimeError, match=rf"indices\[1\] is {wrong}, expected 0 to 3"):
            embedding_bag_sum(table, torch.tensor([0, wrong]), ENDS)
    with pytest.raises(UsageError, match=r"embedding_bag_sum\(per_sample_weights\)"):
        embedding_bag_sum(table, torch.zeros(2, 3, dtype=torch.int64), per_sample_weights=torch.ones(3, 2))


def test_updates_are_checked_by_the_reference() -> None:
    table, sums = torch.zeros(4, 3, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    moments, values = table.clone(), torch.ones(2, 3, dtype=torch.float64)
    for rows in ([1, 1], [-1, 1], [3, 4]):
        with pytest.raises(RuntimeError, match=r"rowwise_adagrad_: rows\[[01]\] is .*rows ascend"):
            rowwise_adagrad_(table, sums, torch.tensor(rows), values, lr=1.0)
        with pytest.raises(RuntimeError, match=r"sparse_adam_: rows\[[01]\] is .*rows ascend"):
            sparse_adam_(table, moments, moments.clone(), torch.tensor(rows), values, step=1)
    with pytest.raises(RuntimeError, match="step is 0"):
        sparse_adam_(table, moments, moments.clone(), IDS, values, step=0)
