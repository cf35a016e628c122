"""The exact solver against a conic solver, its certificates, and the theory it rests on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recengine.errors import DataError, UsageError
from recengine_plugins.ellice.box import solve_box
from recengine_plugins.ellice.logistic import FittedLayer, fit_layer, logistic_problem
from recengine_plugins.ellice.rashomon import (
    Ellipsoid,
    eps_from_level,
    quadratic_form,
    true_worst,
    upper_confidence_bound,
)

clarabel = pytest.importorskip("clarabel")
from recengine_plugins.ellice import conic  # noqa: E402


def problem(seed: int, n: int = 300, d: int = 5) -> tuple[FittedLayer, np.ndarray]:
    generator = np.random.default_rng(seed)
    X = generator.normal(size=(n, d)) @ (np.eye(d) + 0.3 * generator.normal(size=(d, d)))
    logit = X @ generator.normal(size=d) + generator.normal()
    y = (generator.random(n) < 1 / (1 + np.exp(-logit))).astype(int)
    if y.min() == y.max():
        y[0] = 1 - y[0]
    return fit_layer(logistic_problem(X, y, l2=1e-3)), X


def test_newton_reaches_the_minimum() -> None:
    layer, _ = problem(0)
    assert np.abs(layer.problem.gradient(layer.theta)).max() < 1e-10
    step = 1e-5 * np.random.default_rng(0).normal(size=layer.theta.size)
    quadratic = layer.loss + 0.5 * step @ layer.hessian @ step
    assert layer.problem.loss(layer.theta + step) == pytest.approx(quadratic, rel=1e-12)


def test_worst_logit_is_the_minimum_over_the_ellipsoid() -> None:
    layer, X = problem(1)
    ellipsoid = Ellipsoid.of(layer, 0.02)
    h = np.c_[X[:20], np.ones(20)]
    drawn = ellipsoid.sample(20_000, np.random.default_rng(0)) @ h.T
    worst = ellipsoid.worst_logit(h)
    assert (drawn.min(axis=0) >= worst - 1e-12).all()
    reached = np.einsum("ni,ni->n", ellipsoid.worst_model(h), h)
    np.testing.assert_allclose(reached, worst, atol=1e-12)
    away = ellipsoid.worst_model(h) - ellipsoid.theta
    np.testing.assert_allclose(np.einsum("ni,ij,nj->n", away, ellipsoid.H, away), 2 * 0.02, rtol=1e-9)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("share", [0.05, 0.5])
def test_without_bounds_cost_equals_the_conic_solver(seed: int, share: float) -> None:
    layer, X = problem(seed)
    ellipsoid = Ellipsoid.around(layer.theta, layer.hessian, 0.0)
    ellipsoid = Ellipsoid.of(layer, share * ellipsoid.largest_eps())
    weights = np.random.default_rng(seed).uniform(0.5, 2, X.shape[1])
    people = X[ellipsoid.worst_logit(np.c_[X, np.ones(len(X))]) < 0][:15]
    wide = np.full_like(people, np.inf)
    found = solve_box(ellipsoid, people, weights, -wide, wide, tau=0.0)
    assert found.feasible.all()
    assert (ellipsoid.worst_logit(np.c_[found.points, np.ones(len(people))]) >= 0).all()
    assert (found.gap < 1e-7).all()
    for x0, cost in zip(people, found.cost, strict=True):
        best = conic.solve(ellipsoid, x0, weights, np.full(5, -np.inf), np.full(5, np.inf), tau=0.0)
        assert best is not None
        assert cost == pytest.approx(np.square(best - x0) @ weights, rel=1e-6)


@pytest.mark.parametrize("seed", range(6))
def test_with_bounds_cost_equals_the_conic_solver(seed: int) -> None:
    layer, X = problem(seed, d=7)
    ellipsoid = Ellipsoid.of(layer, 0.3 * Ellipsoid.of(layer, 0.0).largest_eps())
    weights = np.ones(7)
    people = X[ellipsoid.worst_logit(np.c_[X, np.ones(len(X))]) < 0][:25]
    low, high = people.copy(), people + 0.8
    low[:, 2:], high[:, 0] = people[:, 2:] - 0.8, people[:, 0]  # one immutable, one only up
    found = solve_box(ellipsoid, people, weights, low, high, tau=0.0)
    assert found.feasible.any()
    for i, x0 in enumerate(people):
        best = conic.solve(ellipsoid, x0, weights, low[i], high[i], tau=0.0)
        assert (best is not None) == found.feasible[i]
        if best is not None:
            assert found.cost[i] == pytest.approx(np.square(best - x0).sum(), rel=1e-6, abs=1e-9)
            assert found.bound[i] <= found.cost[i] * (1 + 1e-9)
            assert found.gap[i] < 1e-6
    ok = found.feasible
    assert (found.points[ok, 0] == people[ok, 0]).all()
    assert (found.points[ok, 1] >= people[ok, 1]).all()


@pytest.mark.parametrize("seed", range(8))
def test_largest_eps_divides_possible_from_impossible(seed: int) -> None:
    layer, X = problem(seed)
    star = Ellipsoid.of(layer, 0.0).largest_eps()
    x0 = X[np.argmin(X @ layer.theta[:-1])]
    free = np.full(5, np.inf)
    below = conic.solve(Ellipsoid.of(layer, 0.99 * star), x0, np.ones(5), -free, free, tau=0.0)
    above = conic.solve(Ellipsoid.of(layer, 1.01 * star), x0, np.ones(5), -free, free, tau=0.0)
    assert below is not None
    assert above is None


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_recourse_is_nonexpansive(seed: int) -> None:
    """||x(x0) - x(x0')|| <= ||x0 - x0'|| when the constraints do not depend on the person."""
    layer, X = problem(seed % 5)
    generator = np.random.default_rng(seed)
    ellipsoid = Ellipsoid.of(layer, 0.2 * Ellipsoid.of(layer, 0.0).largest_eps())
    first = X[generator.integers(len(X))]
    pair = np.stack([first, first + 0.3 * generator.normal(size=5)])
    wide = np.full_like(pair, np.inf)
    found = solve_box(ellipsoid, pair, np.ones(5), -wide, wide, tau=0.0)
    moved = np.linalg.norm(found.points[0] - found.points[1])
    assert moved <= np.linalg.norm(pair[0] - pair[1]) * (1 + 1e-7) + 1e-9


def test_true_worst_is_bracketed_and_near_the_ellipsoid_for_small_eps() -> None:
    layer, X = problem(3)
    h = np.r_[X[0], 1.0]
    for eps in (1e-4, 1e-2):
        found = true_worst(layer, eps, h)
        assert found.bound <= found.value + 1e-12
        assert found.value - found.bound < 1e-6
        assert layer.problem.loss(found.theta) <= layer.loss + eps + 1e-12
        assert found.theta @ h == pytest.approx(found.value)
    small = true_worst(layer, 1e-6, h).value
    assert small == pytest.approx(Ellipsoid.of(layer, 1e-6).worst_logit(h[None])[0], rel=1e-3)


def test_quadratic_form_and_confidence_bound() -> None:
    generator = np.random.default_rng(0)
    A = generator.normal(size=(6, 6))
    A = A @ A.T + np.eye(6)
    x = generator.normal(size=(9, 6))
    direct = np.einsum("ni,ij,nj->n", x, np.linalg.inv(A), x)
    np.testing.assert_allclose(quadratic_form(A, x), direct, rtol=1e-10)
    theta = generator.normal(size=6)
    np.testing.assert_allclose(upper_confidence_bound(theta, A, x, 2.0), x @ theta + 2 * np.sqrt(direct))


def test_bad_input_is_named() -> None:
    X = np.random.default_rng(0).normal(size=(30, 2))
    with pytest.raises(DataError, match="one class"):
        logistic_problem(X, np.ones(30))
    holed = X.copy()
    holed[3, 1] = np.nan
    with pytest.raises(DataError, match="row 3, column 1"):
        logistic_problem(holed, np.arange(30) % 2)
    with pytest.raises(DataError, match="constant column"):
        logistic_problem(np.c_[X, np.ones(30)], np.arange(30) % 2, l2=0.0)
    with pytest.raises(DataError, match="separated perfectly"):
        fit_layer(logistic_problem(X, (X[:, 0] > 0).astype(int), l2=0.0))
    for seed in range(6):  # whichever way Newton ends on them
        wide = np.random.default_rng(seed).normal(size=(60, 2))
        with pytest.raises(DataError, match="separated perfectly"):
            fit_layer(logistic_problem(wide, (wide.sum(axis=1) > 0).astype(int), l2=0.0))
    with pytest.raises(UsageError, match="eps"):
        Ellipsoid.around(np.ones(3), np.eye(3), -1.0)
    layer, _ = problem(0)
    assert eps_from_level(layer, joint=True) > eps_from_level(layer, joint=False) > 0
