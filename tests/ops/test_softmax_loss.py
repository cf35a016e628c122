"""The softmax losses: kernels against the float64 reference, edges, threads, compiler."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from bounds import bound
from torch import Tensor
from torch.library import opcheck

from recengine.ops import (
    info_nce,
    linear_cross_entropy,
    logsumexp_rows,
    sampled_logits,
    sampled_logsumexp,
    sampled_scores,
    softmax_loss,
)
from recengine.ops._library import native
from recengine.ops.sampled_softmax import logsumexp_rows_reference, sampled_logsumexp_reference
from recengine.ops.softmax_loss import linear_cross_entropy_reference

needs_kernels = pytest.mark.skipif(not native().cpu, reason=f"no kernels: {native().reason}")
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2e-3}


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
        limit = bound(one, products=2)
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
    exact, _ = linear_cross_entropy_reference(hidden.double(), weight.double(), target)
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
    keys = (torch.arange(7) % 3, torch.arange(40) % 5)
    opcheck(operators.linear_cross_entropy.default, (hidden, weight, target, bias, *keys, -1, 1.0))
    opcheck(operators.linear_cross_entropy.default, (hidden, weight, None, None, None, None, -1, 1.0))
    # what is kept has room that nobody fills, so that its numbers do not compare
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    learning = operators.learning_cross_entropy.default
    opcheck(learning, (hidden, weight, target, bias, *keys, -1, 1.0), test_utils=checks)
    rows = torch.rand(7)
    made = (hidden.detach(), weight.detach(), target, None, None, None)
    kept = operators.learning_cross_entropy(*made, -1, 1.0)[2]
    opcheck(
        operators.learning_cross_entropy_backward.default, (rows, rows, *made, rows, kept, -1, 1.0, False)
    )
    with pytest.raises(RuntimeError, match="logits"):
        operators.learning_cross_entropy_backward(rows, rows, *made, rows, kept[1:], -1, 1.0, False)
    opcheck(
        operators.linear_cross_entropy_backward.default,
        (rows, rows, hidden.detach(), weight.detach(), target, None, None, None, rows, -1, 1.0, False),
    )


@needs_kernels
@pytest.mark.parametrize(("rows", "items", "width"), [*SHAPES, (300, 500, 24), (1300, 200, 64)])
@pytest.mark.parametrize("threads", [1, 2])
def test_kept_logits_change_no_bit(
    rows: int, items: int, width: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden, weight, target = catalogue(rows, items, width, torch.float32)
    target[rows // 2] = -1 if rows > 1 else target[rows // 2]
    keys = torch.arange(rows) % 7, torch.arange(items) % 11
    bias = torch.randn(items, generator=torch.Generator().manual_seed(1))
    before = torch.get_num_threads()
    found = []
    try:
        torch.set_num_threads(threads)
        for keep in (False, True):
            monkeypatch.setattr(softmax_loss, "_KEEPS", keep)
            ours = [t.clone().requires_grad_() for t in (hidden, weight, bias)]
            loss, lse = softmax_loss.catalogue_loss(*ours[:2], target, ours[2], *keys, -1, 0.5)
            total = loss.sum() + 0.1 * lse.sum()
            once = torch.autograd.grad(total, ours, retain_graph=True)
            again = torch.autograd.grad(total, ours)  # what is kept stays as it was
            found.append([loss.detach(), lse.detach(), *once])
            assert all(torch.equal(*pair) for pair in zip(once, again, strict=True))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


@needs_kernels
def test_a_loss_of_sure_predictions_is_not_negative() -> None:
    weight = torch.randn(500, 64, generator=torch.Generator().manual_seed(0)) * 3
    target = torch.arange(300)
    loss = linear_cross_entropy(weight[:300], weight, target, reduction="none")
    assert bool((loss >= 0).all())
    assert loss.max() < 1e-3


@needs_kernels
def test_nan_is_not_taken_for_nothing() -> None:
    hidden, weight, target = catalogue(3, 300, 8, torch.float32)
    hidden[1] = torch.nan
    assert linear_cross_entropy(hidden, weight, target, reduction="none").isnan().tolist() == [
        False,
        True,
        False,
    ]
    for negatives in (torch.arange(150).view(3, 50), torch.arange(150)):
        anchors = hidden.clone().requires_grad_()
        lse = sampled_logsumexp(anchors, weight, negatives, temperature=1.0)
        assert lse.isnan().tolist() == [False, True, False]
        (gradient,) = torch.autograd.grad(lse.sum(), anchors)
        assert gradient.isnan().any(dim=1).tolist() == [False, True, False]


@needs_kernels
def test_few_rows_of_a_large_catalogue_keep_nothing() -> None:
    """Whole tiles of rows are kept, so one row against 100,000 items would keep 38 MB."""
    hidden, weight = torch.randn(1, 8, requires_grad=True), torch.randn(100_000, 8)
    assert not softmax_loss._keeps(hidden, weight, None)
    assert softmax_loss._keeps(torch.randn(1024, 8, requires_grad=True), weight[:4000], None)


@needs_kernels
def test_logits_are_kept_where_they_are_few_and_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(softmax_loss, "_KEEPS", True)
    hidden, weight, target = catalogue(30, 100, 8, torch.float32)

    def keeps(hidden: Tensor, weight: Tensor) -> bool:
        loss = linear_cross_entropy(hidden, weight, target)
        graph = [str(loss.grad_fn)]
        node = loss.grad_fn
        while node is not None and node.next_functions:
            node = node.next_functions[0][0]
            graph.append(str(node))
        return any("learning_cross_entropy" in name for name in graph)

    assert not keeps(hidden, weight)
    assert keeps(hidden.requires_grad_(), weight)
    assert not keeps(hidden.bfloat16(), weight.bfloat16())
    with torch.no_grad():
        assert not keeps(hidden, weight)
    monkeypatch.setattr(softmax_loss, "MOST_KEPT", 2999)
    assert not keeps(hidden, weight)


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


# --- sampled log-sum-exp


def sampled(
    rows: int, items: int, count: int, width: int, dtype: torch.dtype, seed: int = 0
) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    anchors = torch.nn.functional.normalize(torch.randn(rows, width, generator=generator)).to(dtype)
    table = torch.nn.functional.normalize(torch.randn(items, width, generator=generator)).to(dtype)
    negatives = torch.randint(0, items, (rows, count), generator=generator)
    log_weight = torch.randn(rows, count, generator=generator) / 4
    temperature = 0.05 + 0.2 * torch.rand(rows, generator=generator)
    positives = torch.randint(0, items, (rows,), generator=generator)
    return anchors, table, negatives, log_weight, temperature, positives


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("positive", [False, True], ids=["negatives", "with-positive"])
@pytest.mark.parametrize(
    ("rows", "items", "count", "width"),
    [(1, 1, 1, 1), (3, 5, 17, 7), (33, 200, 40, 16), (65, 30, 129, 100), (40, 3000, 333, 64)],
)
def test_sampled_values_and_gradients_agree_with_float64(
    rows: int, items: int, count: int, width: int, positive: bool, dtype: torch.dtype
) -> None:
    anchors, table, negatives, log_weight, temperature, positives = sampled(rows, items, count, width, dtype)
    if count > 2:
        negatives[:, 2] = -1
    options = {"positives": positives, "exclude": positives} if positive else {}
    ours = [t.clone().requires_grad_() for t in (anchors, table, log_weight, temperature)]
    truth = [t.double().requires_grad_() for t in (anchors, table, log_weight, temperature)]
    upstream = torch.rand(rows, generator=torch.Generator().manual_seed(5))
    results = []
    for a, t, w, tau in (ours, truth):
        lse = sampled_logsumexp(a, t, negatives, log_weight=w, temperature=tau, **options)
        results.append((lse, torch.autograd.grad(lse, (a, t, w, tau), upstream.to(lse.dtype))))
    (lse, found), (exact, wanted) = results
    assert relative(lse.detach(), exact.detach()) <= TOLERANCE[dtype]
    for name, one, other in zip(
        ("anchors", "table", "log_weight", "temperature"), found, wanted, strict=True
    ):
        assert float((one.double() - other).norm()) <= bound(one) * float(other.norm()) + 1e-7, name


@needs_kernels
@pytest.mark.parametrize("exclude", [False, True])
def test_shared_negatives_are_the_same_sum(exclude: bool) -> None:
    anchors, table, negatives, log_weight, temperature, _ = sampled(30, 50, 40, 16, torch.float32)
    shared, weight = negatives[0].clone(), log_weight[0]
    shared[7] = -1
    options = {"temperature": temperature, "exclude": shared[:30] if exclude else None}
    inputs = [t.requires_grad_() for t in (anchors, table, temperature)]
    one = sampled_logsumexp(anchors, table, shared, log_weight=weight, **options)
    rows = shared.expand(30, -1).contiguous()
    two = sampled_logsumexp(anchors, table, rows, log_weight=weight.expand(30, -1), **options)
    torch.testing.assert_close(one, two, rtol=2e-6, atol=1e-6)
    for a, b in zip(
        torch.autograd.grad(one.sum(), inputs), torch.autograd.grad(two.sum(), inputs), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("per_entry", [False, True])
@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shared_negatives_with_weights_of_their_own(
    per_entry: bool, positive: bool, dtype: torch.dtype
) -> None:
    anchors, table, negatives, log_weight, temperature, _ = sampled(30, 50, 40, 16, torch.float32)
    anchors, table, log_weight, temperature = (x.to(dtype) for x in (anchors, table, log_weight, temperature))
    shared = negatives[0].clone()
    shared[7] = -1
    positives = shared[:30].clone() if positive else None
    options = {"temperature": temperature, "exclude": shared[:30], "positives": positives}
    weight = log_weight if per_entry else log_weight[0]
    inputs = [t.requires_grad_() for t in (anchors, table, temperature, weight)]
    one = sampled_logsumexp(anchors, table, shared, log_weight=weight, **options)
    rows = shared.expand(30, -1).contiguous()
    two = sampled_logsumexp_reference(
        anchors, table, rows, weight.expand(30, -1), temperature, positives, shared[:30]
    )
    torch.testing.assert_close(one, two, rtol=2e-6, atol=1e-6)
    for a, b in zip(
        torch.autograd.grad(one.sum(), inputs), torch.autograd.grad(two.sum(), inputs), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-6)
    torch.testing.assert_close(
        sampled_scores(anchors, table, shared, temperature=0.5),
        sampled_scores(anchors, table, rows, temperature=0.5),
        rtol=2e-6,
        atol=2e-6,
    )


def given_logits(rows: int, count: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, what takes part in them (nothing of the last row), what comes from above."""
    generator = torch.Generator().manual_seed(2)
    logits = (4 * torch.randn(rows, count, generator=generator)).to(dtype)
    live = torch.rand(rows, count, generator=generator) < 0.6
    live[:, 0], live[-1] = True, False
    return logits, live, torch.rand(rows, generator=generator)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "count"), [(2, 1), (5, 7), (3, 16), (40, 1003)])
def test_log_sum_exp_of_rows(rows: int, count: int, dtype: torch.dtype) -> None:
    logits, live, upstream = given_logits(rows, count, dtype)
    exact = logits.double().requires_grad_()
    wanted = torch.stack([exact[r][live[r]].logsumexp(0) for r in range(rows - 1)])
    (slope,) = torch.autograd.grad(wanted, exact, upstream[:-1].double())
    logits.requires_grad_()
    found = logsumexp_rows(logits, live)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert found[-1] == -torch.inf
    (gradient,) = torch.autograd.grad(found, logits, upstream.to(found.dtype))
    assert gradient.dtype == dtype
    assert relative(found[:-1].detach(), wanted.detach()) <= TOLERANCE.get(dtype, 1e-12)
    assert relative(gradient, slope) <= (1e-12 if dtype == torch.float64 else bound(gradient))
    assert gradient[~live].abs().sum() == 0
    assert gradient[-1].abs().sum() == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_log_sum_exp_of_rows_at_the_edges(dtype: torch.dtype) -> None:
    logits, live, _ = given_logits(6, 40, dtype)
    assert (logsumexp_rows(logits[:, :0]) == -torch.inf).all()
    assert logsumexp_rows(logits[:0]).shape == (0,)
    without = logits.masked_fill(~live, -torch.inf).requires_grad_()
    torch.testing.assert_close(logsumexp_rows(without), logsumexp_rows(logits, live))
    assert torch.autograd.grad(logsumexp_rows(without)[:-1].sum(), without)[0].isfinite().all()
    broken = logits.clone()
    broken[2, 3] = torch.nan
    assert logsumexp_rows(broken).isnan().tolist() == [False, False, True, False, False, False]
    torch.testing.assert_close(
        logsumexp_rows(logits * 1e30), (logits * 1e30).amax(1), msg="one entry is all of the sum"
    )


@needs_kernels
def test_log_sum_exp_of_rows_takes_any_strides_and_threads() -> None:
    logits, live, upstream = given_logits(60, 33, torch.float32)
    shared = live[0].expand(60, -1)
    wanted = [logsumexp_rows(logits, live), logsumexp_rows(logits, shared)]
    turned = [t.t().contiguous().t() for t in (logits, live)]
    assert torch.equal(logsumexp_rows(*turned), wanted[0])
    assert torch.equal(logsumexp_rows(turned[0], shared.contiguous()), wanted[1])
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            leaf = turned[0].clone().requires_grad_()
            lse = logsumexp_rows(leaf, live)
            results.append((lse, *torch.autograd.grad(lse[:-1], leaf, upstream[:-1])))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(one, two) for one, two in zip(results[0], other, strict=True))


@needs_kernels
def test_log_sum_exp_of_rows_names_its_arguments_and_compiles() -> None:
    logits, live, _ = given_logits(6, 40, torch.float32)
    with pytest.raises(RuntimeError, match="live has size 39"):
        logsumexp_rows(logits, live[:, 1:])
    with pytest.raises(RuntimeError, match="live must be bool"):
        logsumexp_rows(logits, live.float())
    with pytest.raises(RuntimeError, match="logits has 1 dimension"):
        logsumexp_rows(logits[0])
    operator = torch.ops.recengine.logsumexp_rows.default
    leaf = logits.requires_grad_()
    opcheck(operator, (leaf, live))
    opcheck(operator, (leaf, None))
    compiled = torch.compile(logsumexp_rows, fullgraph=True, dynamic=True, backend="aot_eager")
    for rows in (6, 4):
        one = torch.autograd.grad(logsumexp_rows(leaf[:rows], live[:rows])[: rows - 1].sum(), leaf)
        two = torch.autograd.grad(compiled(leaf[:rows], live[:rows])[: rows - 1].sum(), leaf)
        assert torch.equal(*one, *two)

    class Reduce(torch.nn.Module):
        def forward(self, logits: Tensor, live: Tensor) -> Tensor:
            return logsumexp_rows(logits, live)

    exported = torch.export.export(Reduce(), (logits.detach(), live)).module()
    assert torch.equal(exported(logits.detach(), live), logsumexp_rows(logits, live))


def test_the_reference_of_given_logits_has_the_right_gradient() -> None:
    logits, live, _ = given_logits(4, 6, torch.float64)
    assert torch.autograd.gradcheck(lambda x: logsumexp_rows_reference(x, live)[:-1], logits.requires_grad_())


def test_a_row_without_entries_is_minus_infinity_without_gradient() -> None:
    for dtype in (torch.float32, torch.float64):
        anchors, table, negatives, *_ = sampled(4, 9, 5, 8, torch.float32)
        anchors, table = anchors.to(dtype).requires_grad_(), table.to(dtype).requires_grad_()
        negatives[1] = -1
        lse = sampled_logsumexp(anchors, table, negatives)
        assert lse[1] == -torch.inf
        of_anchors, of_table = torch.autograd.grad(torch.nn.functional.softplus(lse).sum(), (anchors, table))
        assert of_anchors[1].abs().sum() == 0
        assert torch.isfinite(of_anchors).all()
        assert torch.isfinite(of_table).all()
        assert sampled_logsumexp(anchors[:0], table, negatives[:0]).shape == (0,)
        assert (sampled_logsumexp(anchors, table, negatives[:, :0]) == -torch.inf).all()
        assert (sampled_logsumexp(anchors, table, negatives[0, :0]) == -torch.inf).all()


@needs_kernels
def test_repeated_items_are_summed_and_threads_do_not_matter() -> None:
    anchors, table, negatives, log_weight, temperature, _ = sampled(200, 11, 300, 24, torch.float32)
    anchors.requires_grad_()
    table.requires_grad_()
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            lse = sampled_logsumexp(anchors, table, negatives, log_weight=log_weight, temperature=temperature)
            results.append((lse, *torch.autograd.grad(lse.sum(), (anchors, table))))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert torch.equal(one, two)


@needs_kernels
def test_extreme_temperature_stays_finite() -> None:
    anchors, table, negatives, *_ = sampled(8, 30, 20, 8, torch.float32)
    anchors.requires_grad_()
    lse = sampled_logsumexp(anchors, table, negatives, temperature=0.0025)
    exact = sampled_logsumexp_reference(anchors.double(), table.double(), negatives, scale=400.0)
    assert relative(lse.detach(), exact.detach()) <= 2e-6
    assert torch.isfinite(torch.autograd.grad(lse.sum(), anchors)[0]).all()


def test_the_golden_values_of_the_softmax_family() -> None:
    """Five cosines to the negatives, the positive's 0.6: a one-dimensional anchor gives these scores."""
    scores = torch.tensor([[0.72], [0.2], [-0.1], [0.55], [0.9]], dtype=torch.float64)
    weight = torch.tensor([[1.252729, 0.875950, 0.784508, 1.068842, 1.017971]], dtype=torch.float64)
    anchor, ids = torch.ones(1, 1, dtype=torch.float64), torch.arange(5)[None]
    for dtype, tolerance in ((torch.float32, 5e-6), (torch.float64, 2e-6)):
        a, t = anchor.to(dtype), scores.to(dtype)
        plain = sampled_logsumexp(a, t, ids, temperature=0.1) - 6
        assert plain.item() == pytest.approx(3.179362, abs=tolerance)
        table = torch.cat([t, torch.tensor([[0.6]], dtype=dtype)])
        both = sampled_logsumexp(a, table, ids, temperature=0.1, positives=torch.tensor([5])) - 6
        assert both.item() == pytest.approx(3.220132, abs=tolerance)
        tau = torch.tensor([0.069729], dtype=torch.float64)
        dsl = sampled_logsumexp(
            a, t, ids, log_weight=(weight.log() - torch.tensor(5.0).log()), temperature=tau
        )
        assert dsl.item() - 0.6 / 0.069729 == pytest.approx(2.806120, abs=1e-4)


@needs_kernels
def test_sampled_scores_are_the_inner_products() -> None:
    anchors, table, negatives, *_ = sampled(9, 40, 21, 20, torch.float32)
    negatives[3, 4] = -1
    scores = sampled_scores(anchors.requires_grad_(), table, negatives, temperature=0.5)
    wanted = 2 * (anchors[:, None] * table[negatives.clamp(min=0)]).sum(-1)
    wanted[3, 4] = 0
    torch.testing.assert_close(scores, wanted.detach())
    assert not scores.requires_grad


@needs_kernels
def test_sampled_arguments_are_checked_by_name() -> None:
    anchors, table, negatives, log_weight, *_ = sampled(6, 20, 8, 4, torch.float32)
    bad = negatives.clone()
    bad[4, 3] = 20
    with pytest.raises(RuntimeError, match=r"negatives\[4, 3\] is 20"):
        sampled_logsumexp(anchors, table, bad)
    with pytest.raises(RuntimeError, match=r"positives\[0\] is 99"):
        sampled_logsumexp(anchors, table, negatives, positives=torch.full((6,), 99))
    with pytest.raises(RuntimeError, match="log_weight has size 3"):
        sampled_logsumexp(anchors, table, negatives, log_weight=log_weight[:, :3])
    with pytest.raises(RuntimeError, match=r"temperature\[0\] is 0"):
        sampled_logsumexp(anchors, table, negatives, temperature=torch.zeros(6))
    with pytest.raises(RuntimeError, match="table has size 3"):
        sampled_logsumexp(anchors, table[:, :3], negatives)
    with pytest.raises(RuntimeError, match="negatives must be int64"):
        sampled_logsumexp(anchors, table, negatives.int())
    with pytest.raises(RuntimeError, match="table has no rows"):
        sampled_logsumexp(anchors, table[:0], negatives)


@needs_kernels
def test_sampled_opcheck_compile_export() -> None:
    anchors, table, negatives, log_weight, temperature, positives = sampled(6, 20, 8, 4, torch.float32)
    inputs = [t.requires_grad_() for t in (anchors, table, log_weight, temperature)]
    operator = torch.ops.recengine.sampled_logsumexp.default
    opcheck(operator, (anchors, table, negatives, log_weight, temperature, positives, positives, 1.0))
    opcheck(operator, (anchors, table, negatives, None, None, None, None, 2.0))
    opcheck(torch.ops.recengine.sampled_scores.default, (anchors.detach(), table.detach(), negatives, 2.0))
    compiled = torch.compile(sampled_logsumexp, fullgraph=True, dynamic=True, backend="aot_eager")
    for ids, weight in ((negatives, log_weight), (negatives[0], log_weight[0])):
        options = {"log_weight": weight, "temperature": temperature}
        one = torch.autograd.grad(sampled_logsumexp(anchors, table, ids, **options).sum(), inputs[:2])
        two = torch.autograd.grad(compiled(anchors, table, ids, **options).sum(), inputs[:2])
        torch.testing.assert_close(one, two)

    class Loss(torch.nn.Module):
        def forward(self, anchors: Tensor, table: Tensor, negatives: Tensor) -> Tensor:
            return sampled_logsumexp(anchors, table, negatives, temperature=0.1)

    given = (anchors.detach(), table.detach(), negatives)
    torch.testing.assert_close(torch.export.export(Loss(), given).module()(*given), Loss()(*given))


def test_the_sampled_reference_has_the_right_gradient() -> None:
    anchors, table, negatives, log_weight, temperature, positives = sampled(3, 5, 4, 2, torch.float64)
    inputs = [t.double().requires_grad_() for t in (anchors, table, log_weight, temperature)]
    assert torch.autograd.gradcheck(
        lambda a, t, w, tau: sampled_logsumexp(
            a, t, negatives, log_weight=w, temperature=tau, positives=positives
        ),
        inputs,
    )


# --- InfoNCE


@needs_kernels
@pytest.mark.parametrize("with_ids", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 30, 300])
def test_info_nce_masks_duplicates(rows: int, with_ids: bool) -> None:
    a, b, *_ = sampled(rows, rows, 1, 16, torch.float32)
    ids = torch.randint(0, max(rows // 2, 1), (rows,), generator=torch.Generator().manual_seed(1))
    results = []
    for dtype in (torch.float32, torch.float64):
        x, y = a.to(dtype).requires_grad_(), b.to(dtype).requires_grad_()
        loss = info_nce(x, y, temperature=0.2, ids=ids if with_ids else None)
        results.append((loss.detach(), *torch.autograd.grad(loss, (x, y))))
    logits = a.double() @ b.double().t() / 0.2
    if with_ids:
        twin = (ids[:, None] == ids) & ~torch.eye(rows, dtype=torch.bool)
        logits = logits.masked_fill(twin, -torch.inf)
    plain = torch.nn.functional.cross_entropy(logits, torch.arange(rows))
    torch.testing.assert_close(results[1][0], plain)
    for one, two in zip(*results, strict=True):
        assert float((one.double() - two).norm()) <= 3e-6 * float(two.norm()) + 1e-6


def test_info_nce_of_nothing_is_zero() -> None:
    empty = torch.zeros(0, 8, requires_grad=True)
    loss = info_nce(empty, empty)
    loss.backward()
    assert loss.item() == 0


DTYPES = [torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positives": torch.tensor([3])}, "positives has size 1 in dimension 0, expected 6"),
        ({"positives": torch.full((6,), 20)}, r"positives\[0\] is 20, expected "),
        ({"positives": torch.zeros(6, dtype=torch.int32)}, "positives must be int64"),
        ({"exclude": torch.tensor([3])}, "exclude has size 1 in dimension 0, expected 6"),
        ({"log_weight": torch.zeros(1)}, "log_weight has size 1 in dimension 0, expected 8"),
        ({"log_weight": torch.zeros(1, 8)}, "log_weight has size 1 in dimension 0, expected 6"),
        ({"temperature": -torch.ones(6)}, r"temperature\[0\] is -1"),
        ({"temperature": torch.tensor(0.5)}, "temperature has 0 dimensions"),
        ({"temperature": 0.0}, "temperature must be above 0, found 0"),
        ({"temperature": -1.0}, "temperature must be above 0, found -1"),
        ({"temperature": float("nan")}, "temperature must be above 0, found nan"),
    ],
)
def test_entries_are_checked_whoever_computes(
    dtype: torch.dtype, shared: bool, change: dict[str, object], message: str
) -> None:
    anchors, table, negatives, *_ = sampled(6, 20, 8, 4, dtype)
    with pytest.raises(RuntimeError, match=f"sampled_logsumexp: {message}"):
        sampled_logsumexp(anchors, table, negatives[0] if shared else negatives, **change)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("op", [sampled_logsumexp, sampled_logits, sampled_scores])
def test_ids_are_checked_whoever_computes(
    op: Callable[..., Tensor], shared: bool, dtype: torch.dtype
) -> None:
    anchors, table, negatives, *_ = sampled(6, 20, 8, 4, dtype)
    given = negatives[0] if shared else negatives
    for wrong in (-5, 20):
        bad = given.clone()
        bad.view(-1)[3] = wrong
        with pytest.raises(RuntimeError, match=rf"negatives\[(0, )?3\] is {wrong}, expected "):
            op(anchors, table, bad)
    with pytest.raises(RuntimeError, match="negatives must be int64"):
        op(anchors, table, given.int())
    with pytest.raises(RuntimeError, match="table has no rows"):
        op(anchors, table[:0], given)
    with pytest.raises(RuntimeError, match="same dtype"):
        op(anchors, table.bfloat16(), given)


def test_temperatures_of_scores_and_batches_are_checked() -> None:
    anchors, table, negatives, *_ = sampled(6, 20, 8, 4, torch.float32)
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(RuntimeError, match="sampled_scores: temperature must be above 0"):
            sampled_scores(anchors, table, negatives, temperature=wrong)
        with pytest.raises(RuntimeError, match="info_nce: temperature must be above 0"):
            info_nce(anchors, anchors, temperature=wrong)


@pytest.mark.parametrize("dtype", DTYPES)
def test_catalogue_and_batch_are_checked_whoever_computes(dtype: torch.dtype) -> None:
    hidden, weight = torch.randn(6, 8, dtype=dtype), torch.randn(20, 8, dtype=dtype)
    target, one, all_ = torch.arange(6), torch.zeros(1), torch.zeros(20)
    with pytest.raises(RuntimeError, match="bias has size 1 in dimension 0, expected 20"):
        linear_cross_entropy(hidden, weight, target, bias=one, correction=all_)
    with pytest.raises(RuntimeError, match="correction has size 1 in dimension 0, expected 20"):
        linear_cross_entropy(hidden, weight, target, bias=all_, correction=one)
    with pytest.raises(RuntimeError, match="target has size 2"):
        linear_cross_entropy(hidden, weight, target[:2])
    with pytest.raises(RuntimeError, match=r"target\[2\] is 22, expected 0 to 19"):
        linear_cross_entropy(hidden, weight, torch.where(target == 2, 22, target))
    with pytest.raises(RuntimeError, match="info_nce: b has size 20 in dimension 0, expected 6"):
        info_nce(hidden, weight)
    with pytest.raises(RuntimeError, match="info_nce: b has size 2 in dimension 0, expected 6"):
        info_nce(hidden, weight[:2])
    with pytest.raises(RuntimeError, match="info_nce: b has size 7 in dimension 1, expected 8"):
        info_nce(hidden, weight[:6, :7])
    with pytest.raises(RuntimeError, match="info_nce: ids has size 1"):
        info_nce(hidden, hidden, ids=target[:1])
    with pytest.raises(RuntimeError, match="info_nce: ids must be int64"):
        info_nce(hidden, hidden, ids=torch.rand(6))
    with pytest.raises(RuntimeError, match="live has size 1 in dimension 0, expected 6"):
        logsumexp_rows(hidden, torch.ones(1, 8, dtype=torch.bool))


@pytest.mark.parametrize("weighted", [False, True])
def test_shared_entries_with_temperatures_of_rows_are_as_exact_as_others(weighted: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    anchors = torch.randn(64, 64, generator=generator).bfloat16()
    table = torch.randn(500, 64, generator=generator).bfloat16()
    negatives = torch.randint(0, 500, (200,), generator=generator)
    log_weight = torch.randn(64, 200, generator=generator) if weighted else None

    def run(dtype: torch.dtype) -> tuple[Tensor, ...]:
        leaves = [anchors.to(dtype).requires_grad_(), table.to(dtype).requires_grad_()]
        leaves.append(
            torch.full((64,), 0.3, dtype=torch.promote_types(dtype, torch.float32)).requires_grad_()
        )
        out = sampled_logsumexp(*leaves[:2], negatives, temperature=leaves[2], log_weight=log_weight)
        return out.detach(), *torch.autograd.grad(out.sum(), leaves)

    for found, truth in zip(run(torch.bfloat16), run(torch.float64), strict=True):
        assert relative(found, truth) <= bound(found)
    exact = sampled_scores(anchors.double(), table.double(), negatives, temperature=0.3)
    assert relative(sampled_scores(anchors, table, negatives, temperature=0.3), exact) < 2e-6
