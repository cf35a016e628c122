"""Projections on quadrics and cones: kernels against references, certificates, threads, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from recengine.ops import recourse as ops
from recengine.ops._library import native

needs_native = pytest.mark.skipif(not native().cpu, reason="the native library is not loaded")


def cone(seed: int, d: int, n: int, share: float = 0.4) -> dict[str, Tensor]:
    """People whose recourse exists without bounds; start is their answer there."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(d + 1, d + 1, generator=generator, dtype=torch.float64)
    H = root @ root.T / (d + 1) + 0.1 * torch.eye(d + 1, dtype=torch.float64)
    P = torch.linalg.inv(H)
    P = (P + P.T) / 2
    theta = torch.randn(d + 1, generator=generator, dtype=torch.float64)
    w = theta[:-1]
    radius = (share * w @ torch.linalg.solve(P[:-1, :-1], w)).sqrt()
    points = 2 * torch.randn(n, d, generator=generator, dtype=torch.float64)
    weights = 0.5 + torch.rand(d, generator=generator, dtype=torch.float64)
    return {"points": points, "theta": theta, "P": P, "radius": radius, "weights": weights}


def start_of(c: dict[str, Tensor], tau: float = 0.0) -> Tensor:
    """The answer without bounds, through the reference of the quadric."""
    points, theta, P = c["points"], c["theta"], c["P"]
    n = len(points)
    G = torch.outer(theta, theta) - c["radius"] ** 2 * P
    root = c["weights"].sqrt()
    mu, U = torch.linalg.eigh(G[:-1, :-1] / torch.outer(root, root))
    m = ((G[-1, :-1] - tau * theta[:-1]) / root) @ U
    m0 = G[-1, -1] - 2 * tau * theta[-1] + tau**2
    slope = theta[:-1] / root @ U
    z = ops.quadric_nearest_reference(
        points * root @ U, mu, m.expand(n, -1), m0.expand(n), slope, (theta[-1] - tau).expand(n)
    )
    found = z @ U.T / root
    accepted = worst(c, points) >= tau
    return torch.where(accepted[:, None], points, found)


def worst(c: dict[str, Tensor], x: Tensor) -> Tensor:
    h = torch.cat([x, x.new_ones(len(x), 1)], 1)
    return h @ c["theta"] - c["radius"] * (h @ c["P"] * h).sum(1).sqrt()


def bounds(points: Tensor, width: float) -> tuple[Tensor, Tensor]:
    """A box around each point; column 0 never changes, column 1 only grows."""
    low, high = points - width, points + width
    low[:, 0] = high[:, 0] = points[:, 0]
    low[:, 1] = points[:, 1]
    return low, high


def shared(c: dict[str, Tensor]) -> ops.Cone:
    return ops.Cone(c["theta"], c["P"], float(c["radius"]), c["weights"])


def solve(c: dict[str, Tensor], low: Tensor, high: Tensor, *, reference: bool = False) -> ops.ConeNearest:
    call = ops.cone_nearest_reference if reference else ops.cone_nearest
    return call(shared(c), c["points"], start_of(c), low, high)


@needs_native
@pytest.mark.parametrize("d", [1, 2, 7, 8, 9, 33])
def test_quadric_kernel_is_the_reference(d: int) -> None:
    c = cone(d, d, 40)
    generator = torch.Generator().manual_seed(d)
    mu = torch.sort(torch.randn(d, generator=generator, dtype=torch.float64))[0]
    mu[:-1] = -mu[:-1].abs()
    for top in (0.7, -0.2):  # a cone, and the inside of an ellipsoid
        mu[-1] = top
        z0 = c["points"]
        m = torch.randn(40, d, generator=generator, dtype=torch.float64)
        m0 = 3 * torch.randn(40, generator=generator, dtype=torch.float64)
        slope = torch.randn(d, generator=generator, dtype=torch.float64)
        level = torch.randn(40, generator=generator, dtype=torch.float64)
        args = (z0, torch.sort(mu)[0], m, m0, slope, level)
        exact, found = ops.quadric_nearest_reference(*args), ops.quadric_nearest(*args)
        both = exact.isfinite().all(1) & found.isfinite().all(1)
        assert both.any()
        assert (exact.isfinite().all(1) == found.isfinite().all(1)).all()
        torch.testing.assert_close(found[both], exact[both], rtol=1e-7, atol=1e-7)


@needs_native
@pytest.mark.parametrize("d", [2, 5, 8, 17, 40])
@pytest.mark.parametrize("width", [0.3, 1.5, float("inf")])
def test_cone_kernel_is_the_reference(d: int, width: float) -> None:
    c = cone(d, d, 30)
    low, high = bounds(c["points"], width)
    exact, found = solve(c, low, high, reference=True), solve(c, low, high)
    known = exact.status != ops.UNDECIDED
    assert known.any()
    assert (found.status[known] == exact.status[known]).all()
    solved = exact.status == ops.SOLVED
    torch.testing.assert_close(found.x[solved], exact.x[solved], rtol=1e-8, atol=1e-8)


@needs_native
@pytest.mark.parametrize("seed", range(5))
def test_answers_hold_and_their_bounds_meet_the_cost(seed: int) -> None:
    c = cone(seed, 6, 300)
    low, high = bounds(c["points"], 2.0)
    found = solve(c, low, high)
    assert (found.status != ops.UNDECIDED).all()
    solved = found.status == ops.SOLVED
    assert solved.any()
    x = found.x[solved]
    assert (worst(c, x) >= -1e-12).all()
    assert ((x >= low[solved]) & (x <= high[solved])).all()
    assert (x[:, 0] == c["points"][solved][:, 0]).all()
    cost = (x - c["points"][solved]).square() @ c["weights"]
    assert (found.bound[solved] <= cost * (1 + 1e-12)).all()
    assert (cost - found.bound[solved] <= 1e-10 * cost.clamp_min(1e-12)).all()


@needs_native
def test_infeasible_is_said_only_where_no_corner_is_accepted() -> None:
    c = cone(3, 4, 400)
    low, high = bounds(c["points"], 0.8)
    found = solve(c, low, high)
    assert set(found.status.tolist()) == {ops.SOLVED, ops.INFEASIBLE}
    none = found.status == ops.INFEASIBLE
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        part = torch.rand(int(none.sum()), 4, generator=generator, dtype=torch.float64)
        part = torch.where(part < 0.3, 0.0, torch.where(part > 0.7, 1.0, part))
        assert (worst(c, low[none] + part * (high - low)[none]) < 0).all()
    assert found.x[none].isnan().all()


@needs_native
def test_without_a_start_the_answer_is_the_same() -> None:
    c = cone(5, 9, 60)
    low, high = bounds(c["points"], 1.5)
    known = solve(c, low, high)
    blind = ops.cone_nearest(shared(c), c["points"], torch.full_like(c["points"], np.nan), low, high)
    assert (known.status == blind.status).all()
    solved = known.status == ops.SOLVED
    torch.testing.assert_close(blind.x[solved], known.x[solved], rtol=1e-7, atol=1e-7)


@needs_native
def test_the_result_does_not_depend_on_batch_or_threads() -> None:
    c = cone(7, 12, 100)
    low, high = bounds(c["points"], 1.0)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = solve(c, low, high)
        torch.set_num_threads(2)
        two = solve(c, low, high)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(one.x.nan_to_num(9e9), two.x.nan_to_num(9e9))
    half = {**c, "points": c["points"][50:]}
    part = ops.cone_nearest(shared(c), half["points"], start_of(c)[50:], low[50:], high[50:])
    assert torch.equal(part.x.nan_to_num(9e9), one.x[50:].nan_to_num(9e9))


@needs_native
def test_bad_input_is_refused() -> None:
    c = cone(0, 3, 4)
    low, high = bounds(c["points"], 1.0)
    for change, message in (
        ({"weights": torch.zeros(3, dtype=torch.float64)}, "weights"),
        ({"theta": c["theta"][:-1]}, "theta"),
        ({"points": c["points"].float()}, "float64"),
        ({"radius": torch.tensor(-1.0)}, "radius"),
    ):
        wrong = {**c, **change}
        with pytest.raises(RuntimeError, match=message):
            ops.cone_nearest(shared(wrong), wrong["points"], c["points"], low, high)
    with pytest.raises(RuntimeError, match="low is above high"):
        solve(c, high, low)
