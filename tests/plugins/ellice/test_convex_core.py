"""Rows, absolute cost, several cones: everybody at once equals the conic solver, with certified gaps."""

from __future__ import annotations

import numpy as np
import pytest

from recengine_plugins.ellice.logistic import FittedLayer, fit_layer, logistic_problem
from recengine_plugins.ellice.rashomon import Ellipsoid

pytest.importorskip("clarabel")
from recengine_plugins.ellice import conic
from recengine_plugins.ellice.convex import solve_convex
from recengine_plugins.ellice.problem import Convex


def world(seed: int, d: int) -> tuple[FittedLayer, np.ndarray]:
    generator = np.random.default_rng(seed)
    X = generator.normal(size=(400, d)) @ (np.eye(d) + 0.3 * generator.normal(size=(d, d)))
    chance = 1 / (1 + np.exp(-X @ generator.normal(size=d)))
    return fit_layer(logistic_problem(X, (generator.random(400) < chance).astype(int))), X


def case(kind: str, d: int) -> tuple[Convex, np.ndarray, np.ndarray, np.ndarray]:
    layer, X = world(1, d)
    ellipsoid = Ellipsoid.of(layer, 0.3 * Ellipsoid.of(layer, 0.0).largest_eps())
    people = X[ellipsoid.worst_logit(np.c_[X, np.ones(len(X))]) < 0][:30]
    low, high = people - 1.5, people + 1.5
    low[:, 0] = people[:, 0]
    square, absolute = np.ones(d), np.zeros(d)
    A, b, E = np.zeros((0, d)), np.zeros(0), np.zeros((0, d))
    cones: tuple[Ellipsoid, ...] = (ellipsoid,)
    if "absolute" in kind:
        square, absolute = absolute, square
    if "unbounded" in kind:
        low[:, 1:] = -np.inf
    if "rows" in kind:
        A, b = np.random.default_rng(0).normal(size=(2, d)), np.full(2, 3.0)
    if "linked" in kind:
        E = conic.link_rows(((1, 2, 0.5),), d)
    if "category" in kind:
        square[-2:], absolute[-2:] = 0.0, 1.0
        E = np.zeros((1, d))
        E[0, -2:] = 1.0
    if "two" in kind:
        other, _ = world(2, d)
        cones = (ellipsoid, Ellipsoid.of(other, 0.05 * Ellipsoid.of(other, 0.0).largest_eps()))
    return Convex(cones, np.full(len(cones), 1e-6), square, absolute, A, b, E), people, low, high


KINDS = [
    "rows",
    "absolute unbounded",
    "absolute rows",
    "linked",
    "category",
    "two cones",
    "two absolute rows linked",
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("d", [5, 12])
def test_cost_equals_the_conic_solver(kind: str, d: int) -> None:
    problem, people, low, high = case(kind, d)
    found = solve_convex(problem, people, low, high)
    assert found.feasible.any()
    for i, person in enumerate(people):
        best = conic.solve_problem(problem, person, low[i], high[i])
        assert (best is not None) == found.feasible[i]
        if best is not None:
            cost = problem.cost(best.x[None], person[None])[0]
            assert found.cost[i] == pytest.approx(cost, rel=1e-6, abs=1e-8)
    ok = found.feasible
    assert (problem.shortfall(found.points[ok]) <= 1e-9).all()
    assert problem.keeps_rows(found.points[ok], people[ok], 1e-8).all()
    assert (found.bound[ok] <= found.cost[ok] * (1 + 1e-12)).all()
    assert (found.gap[ok] < 1e-6).all()


def test_most_people_are_solved_together() -> None:
    problem, people, low, high = case("absolute rows", 12)
    found = solve_convex(problem, people, low, high)
    assert (found.feasible & ~found.conic).sum() > 0.7 * found.feasible.sum()


def test_no_multiplier_lifts_the_bound_above_the_optimum() -> None:
    from recengine_plugins.ellice.dual import Multipliers, separable_bound

    problem, people, low, high = case("absolute unbounded rows", 5)
    found = solve_convex(problem, people, low, high)
    generator = np.random.default_rng(0)
    ok = np.flatnonzero(found.feasible)
    models = problem.cones[0].worst_model(np.c_[found.points[ok], np.ones(len(ok))])
    for _ in range(50):
        given = Multipliers(
            models[:, None, :-1], models[:, None, -1], 5 * generator.random((len(ok), 1)),
            generator.random((len(ok), 2)), np.zeros((len(ok), 0)),
        )  # fmt: skip
        bound = separable_bound(
            people[ok], problem.square, problem.absolute, low[ok], high[ok], problem.tau,
            problem.A, problem.b, problem.E, np.zeros((len(ok), 0)), given,
        )  # fmt: skip
        assert (bound <= found.cost[ok] + 1e-9).all()
