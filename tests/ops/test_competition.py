"""Weights and slates of sampled entries: the kernel against plain torch, its edges, its contract."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from recengine.ops import sampled_competition
from recengine.ops._library import native
from recengine.ops.competition import sampled_competition_reference

needs_kernels = pytest.mark.skipif(not native().cpu, reason="the compiled operators are not live")
Case = tuple[Tensor, Tensor, Tensor, Tensor]


def case(rows: int, count: int, dtype: torch.dtype = torch.float32) -> Case:
    """Scores, what is live (two entries of the last row but one, none of the last), targets, likeness."""
    generator = torch.Generator().manual_seed(rows * 1000 + count)
    scores, likeness = (torch.rand(rows, count, generator=generator) * 2 - 1 for _ in range(2))
    live = torch.rand(rows, count, generator=generator) < 0.8
    live[:, 0], live[-2:] = True, False
    live[-2, : min(2, count)] = True
    positive = torch.rand(rows, generator=generator) * 2 - 1
    return scores.to(dtype), live, positive, likeness.to(dtype)


def assert_alike(found: tuple[Tensor, ...], wanted: tuple[Tensor, ...], live: Tensor) -> None:
    """Values to 2e-6; slates as sets of their live entries."""
    assert found[1].shape == wanted[1].shape
    for one, other in ((found[0], wanted[0]), (found[2], wanted[2]), (found[3], wanted[3])):
        torch.testing.assert_close(one.double(), other.double(), rtol=2e-6, atol=1e-6)
    for row in range(len(live)):
        sets = [{int(j) for j in slates[1][row] if live[row, j]} for slates in (found, wanted)]
        assert sets[0] == sets[1]
        assert len(set(found[1][row].tolist())) == found[1].shape[1]


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("rows", "count", "slate"), [(3, 1, 1), (5, 7, 20), (4, 16, 3), (33, 1003, 20), (6, 700, 90)]
)
@pytest.mark.parametrize(("kappa", "rho"), [(1.0, 0.5), (4.0, 1.0), (2.0, 0.0), (0.0, 0.5)])
def test_the_kernel_is_the_reference(
    rows: int, count: int, slate: int, kappa: float, rho: float, dtype: torch.dtype
) -> None:
    scores, live, positive, likeness = case(rows, count, dtype)
    settings = {"kappa": kappa, "rho": rho, "temperature": 0.2, "slate": slate}
    found = sampled_competition(scores, live, positive, likeness=likeness, **settings)
    wanted = sampled_competition_reference(
        scores.double(), live, positive.double(), likeness=likeness.double(), **settings
    )
    assert found.log_weight.dtype == torch.float32
    if dtype == torch.bfloat16:  # ties are common there, and a slate may take either
        found, wanted = found._replace(slate=wanted.slate), wanted
    assert_alike(found, wanted, live)
    assert found.intensity[-1] == 0
    assert found.least[-1] == -1


@needs_kernels
def test_without_likeness_it_counts_as_zero() -> None:
    scores, live, positive, likeness = case(9, 130)
    found = sampled_competition(scores, live, positive)
    wanted = sampled_competition(scores, live, positive, likeness=torch.zeros_like(likeness))
    assert all(torch.equal(one, two) for one, two in zip(found, wanted, strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_equal_entries(dtype: torch.dtype) -> None:
    """Nothing to tell entries apart by: weights of one, and a slate of live ones."""
    scores, live = torch.full((2, 200), 0.3, dtype=dtype), torch.ones(2, 200, dtype=torch.bool)
    live[1, 5:] = False
    found = sampled_competition(scores, live, torch.full((2,), 0.3, dtype=dtype), slate=8)
    torch.testing.assert_close(found.log_weight, torch.zeros_like(scores), rtol=0, atol=1e-6)
    assert live[0][found.slate[0]].sum() == 8
    assert live[1][found.slate[1]].sum() == 5
    torch.testing.assert_close(found.intensity, torch.full((2,), 0.5, dtype=dtype))
    torch.testing.assert_close(found.least, torch.full((2,), 0.3, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("rows", "count"), [(0, 5), (3, 0), (0, 0)])
def test_empty(rows: int, count: int, dtype: torch.dtype) -> None:
    scores = torch.zeros(rows, count, dtype=dtype)
    found = sampled_competition(scores, scores > 0, torch.zeros(rows, dtype=dtype), slate=4)
    assert found.slate.shape == (rows, min(4, count))
    assert found.least.tolist() == [-1.0] * rows
    assert found.intensity.tolist() == [0.0] * rows


@needs_kernels
def test_any_strides_and_threads_give_the_same_bits() -> None:
    scores, live, positive, likeness = case(60, 77)
    shared = live[0].expand(60, -1)
    wanted = sampled_competition(scores, shared, positive, likeness=likeness)
    turned = [x.t().contiguous().t() for x in (scores, shared, likeness)]
    spread = torch.stack([positive, positive], 1)[:, 0]
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found = sampled_competition(turned[0], turned[1], spread, likeness=turned[2])
            assert all(torch.equal(one, two) for one, two in zip(found, wanted, strict=True))
    finally:
        torch.set_num_threads(before)


@needs_kernels
def test_it_names_its_arguments_and_compiles() -> None:
    scores, live, positive, likeness = case(6, 40)
    for change, message in (
        ({"live": live[:, 1:]}, "live has size 39"),
        ({"live": live.float()}, "live must be bool"),
        ({"positive": positive[1:]}, "positive has size 5"),
        ({"likeness": likeness[1:]}, "likeness has size 5"),
        ({"scores": scores[0]}, "scores has 1 dimension"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"slate": 0}, "slate must be at least 1"),
    ):
        given = {"scores": scores, "live": live, "positive": positive, "likeness": likeness, **change}
        with pytest.raises(RuntimeError, match=message):
            sampled_competition(**given)
    operator = torch.ops.recengine.sampled_competition.default
    opcheck(operator, (scores, likeness, live, positive, 0.5, 0.5, 0.1, 20))
    opcheck(operator, (scores, None, live, positive, 0.5, 0.0, 0.1, 90))
    compiled = torch.compile(sampled_competition, fullgraph=True, dynamic=True, backend="aot_eager")
    for rows in (6, 4):
        one = sampled_competition(scores[:rows], live[:rows], positive[:rows])
        two = compiled(scores[:rows], live[:rows], positive[:rows])
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_arguments_are_checked_whoever_computes(dtype: torch.dtype) -> None:
    scores, live, positive, likeness = case(6, 40)
    for change, message in (
        ({"positive": positive[:1]}, "positive has size 1 in dimension 0, expected 6"),
        ({"likeness": likeness[:1]}, "likeness has size 1 in dimension 0, expected 6"),
        ({"live": live[:1]}, "live has size 1 in dimension 0, expected 6"),
        ({"temperature": -1.0}, "temperature must be above 0"),
        ({"slate": 0}, "slate must be at least 1"),
    ):
        given = {"live": live, "positive": positive, "likeness": likeness, **change}
        with pytest.raises(RuntimeError, match=f"sampled_competition: {message}"):
            sampled_competition(scores.to(dtype), **given)
