"""The convex problem behind every answer, and the way it is solved for many people at once.

    min  sum_j square_j (x_j - x0_j)^2 + absolute_j |x_j - x0_j|
    s.t. g_i(x) >= tau_i for each cone,  A x <= b,  E x = E x0,  low <= x <= high (a box for each person)

One cone under squared cost and bounds alone has its own exact solver (``box``). Otherwise operator splitting
(``splitting``) finds the active constraints roughly, semismooth Newton steps (``newton``) make them exact,
and a dual bound (``dual``) certifies the gap. Whoever is not within 1e-8 goes to the conic solver.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from recengine_plugins.ellice import conic
from recengine_plugins.ellice.box import BoxSolution, solve_box
from recengine_plugins.ellice.dual import Multipliers, separable_bound
from recengine_plugins.ellice.newton import polish
from recengine_plugins.ellice.problem import Convex
from recengine_plugins.ellice.splitting import split

Array = NDArray[np.float64]
_GAP = 1e-8
_FEW = 4  # so few are sooner solved one by one


def solve_convex(problem: Convex, people: Array, low: Array, high: Array) -> BoxSolution:
    """Cheapest points [N, d] for everybody, each with a certified lower bound of the cost."""
    if problem.plain and len(problem.cones) == 1:
        return solve_box(problem.cones[0], people, problem.square, low, high, tau=float(problem.tau[0]))
    n = len(people)
    x = np.full_like(people, np.nan)
    bound, done = np.zeros(n), np.zeros(n, bool)
    if problem.plain:
        x, bound, done = _one_cone_at_a_time(problem, people, low, high)
    hopeless = ~done & (problem.reach(people, low, high) < problem.tau).any(axis=1)
    todo = np.flatnonzero(~done & ~hopeless)
    by_conic = np.zeros(n, bool)
    feasible = done.copy()
    if todo.size <= _FEW:
        left = todo
    else:
        found, below, good = _together(problem, people[todo], low[todo], high[todo])
        x[todo], bound[todo], feasible[todo] = found, below, good
        left = todo[~good]
    for i in left:
        by_conic[i] = True
        answer = conic.solve_problem(problem, people[i], low[i], high[i])
        if answer is None:
            continue
        x[i], feasible[i] = answer.x, True
        bound[i] = _bound(problem, people[i : i + 1], low[i : i + 1], high[i : i + 1], answer.given)[0]
    x[~feasible] = np.nan
    cost = problem.cost(x, people)
    bound = np.where(feasible, np.clip(bound, 0.0, cost), np.nan)
    return BoxSolution(x, cost, bound, feasible, by_conic)


def _one_cone_at_a_time(
    problem: Convex, people: Array, low: Array, high: Array
) -> tuple[Array, Array, NDArray[np.bool_]]:
    """With several cones: the answer for one of them is the answer when it satisfies the others."""
    n = len(people)
    x, bound, done = np.full_like(people, np.nan), np.zeros(n), np.zeros(n, bool)
    for j, cone in enumerate(problem.cones):
        rows = np.flatnonzero(~done)
        if rows.size == 0:
            break
        one = solve_box(cone, people[rows], problem.square, low[rows], high[rows], tau=float(problem.tau[j]))
        with np.errstate(invalid="ignore"):
            kept = one.feasible & (problem.shortfall(one.points) <= 0).all(axis=1)
        x[rows[kept]], bound[rows[kept]] = one.points[kept], one.bound[kept]
        done[rows[kept]] = True
    return x, bound, done


def _together(
    problem: Convex, people: Array, low: Array, high: Array
) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Points, certified bounds, and who is within the gap and inside everything."""
    start = split(problem, people, low, high)
    x, given = polish(problem, people, low, high, start)
    bad = ~np.isfinite(x).all(axis=1)
    x = np.clip(np.where(bad[:, None], people, x), low, high)
    bound = _bound(problem, people, low, high, given)
    cost = problem.cost(x, people)
    inside = (problem.shortfall(x) <= 1e-10).all(axis=1) & problem.keeps_rows(x, people, 1e-9)
    good = ~bad & inside & (cost - bound <= _GAP * np.maximum(cost, 1e-6))
    return x, bound, good


def _bound(problem: Convex, people: Array, low: Array, high: Array, given: Multipliers) -> Array:
    return separable_bound(
        people, problem.square, problem.absolute, low, high, problem.tau,
        problem.A, problem.b, problem.E, people @ problem.E.T, given,
    )  # fmt: skip


def with_rows(problem: Convex, A: Array, b: Array) -> Convex:
    """The problem with more rows A x <= b."""
    return replace(problem, A=np.r_[problem.A, A], b=np.r_[problem.b, b])
