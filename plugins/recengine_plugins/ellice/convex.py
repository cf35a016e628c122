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
from recengine_plugins.ellice.dual import Multipliers, Prices, prices_of, separable_bound
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
    prices = Prices.unknown(people)
    if not problem.plain:
        settled = problem.settled(low, high)
        if settled.all():
            return _within_settled(problem, people, low, high)
        if settled.any():
            return _both(problem, people, low, high, settled)
    if problem.plain:
        x, bound, done = _one_cone_at_a_time(problem, people, low, high)
    hopeless = ~done & (problem.reach(people, low, high) < problem.tau).any(axis=1)
    todo = np.flatnonzero(~done & ~hopeless)
    by_conic, stopped = np.zeros(n, bool), np.zeros(n, bool)
    feasible = done.copy()
    if todo.size <= _FEW:
        left = todo
    else:
        found, below, good, priced = _together(problem, people[todo], low[todo], high[todo])
        x[todo], bound[todo], feasible[todo] = found, below, good
        prices.slope[todo], prices.level[todo] = priced.slope, priced.level
        left = todo[~good]
    for i in left:
        by_conic[i] = True
        try:
            answer = conic.solve_problem(problem, people[i], low[i], high[i])
        except conic.ConicStoppedError:
            stopped[i] = True
            continue
        if answer is None:
            continue
        x[i], feasible[i] = answer.x, True
        one = people[i : i + 1]
        bound[i] = _bound(problem, one, low[i : i + 1], high[i : i + 1], answer.given)[0]
        priced = _prices(problem, one, answer.given)
        prices.slope[i], prices.level[i] = priced.slope[0], priced.level[0]
    x[~feasible] = np.nan
    cost = problem.cost(x, people)
    bound = np.where(feasible, np.clip(bound, 0.0, cost), np.nan)
    return BoxSolution(x, cost, bound, feasible, by_conic, prices, stopped)


def _within_settled(problem: Convex, people: Array, low: Array, high: Array) -> BoxSolution:
    """Where everything but squared costs within bounds is held fixed: a plain problem beside a constant."""
    hard = problem.hard
    held = np.where(hard, low, people)
    tops = [cone.ceiling(np.c_[held, np.ones(len(held))], ~hard) for cone in problem.cones]
    some = np.stack([top >= tau for top, tau in zip(tops, problem.tau, strict=True)]).all(axis=0)
    some &= problem.keeps_rows(np.where(hard, low, 0.0), people * hard, 1e-9)
    n = len(people)
    points, bound = np.full_like(people, np.nan), np.full(n, np.nan)
    by_conic, stopped = np.zeros(n, bool), np.zeros(n, bool)
    if some.any():
        plain = Convex.over(problem.cones, np.where(hard, 1.0, problem.square))
        found = solve_convex(replace(plain, tau=problem.tau), held[some], low[some], high[some])
        points[some], by_conic[some], stopped[some] = found.points, found.conic, found.undecided
        bound[some] = found.bound + problem.cost(held[some], people[some])
    feasible = np.isfinite(points).all(axis=1)
    return BoxSolution(
        points, problem.cost(points, people), bound, feasible, by_conic, Prices.unknown(people), stopped
    )


def _both(problem: Convex, people: Array, low: Array, high: Array, settled: NDArray[np.bool_]) -> BoxSolution:
    """Those who are settled and the others apart, put together again."""
    parts = [
        (rows, solve_convex(problem, people[rows], low[rows], high[rows])) for rows in (settled, ~settled)
    ]
    n = len(people)
    made = BoxSolution(
        np.empty_like(people), np.empty(n), np.empty(n), np.empty(n, bool), np.empty(n, bool),
        Prices.unknown(people), np.zeros(n, bool),
    )  # fmt: skip
    for rows, part in parts:
        made.points[rows], made.cost[rows], made.bound[rows] = part.points, part.cost, part.bound
        made.feasible[rows], made.conic[rows] = part.feasible, part.conic
        made.undecided[rows] = part.undecided
        if made.prices is not None and part.prices is not None:
            made.prices.slope[rows], made.prices.level[rows] = part.prices.slope, part.prices.level
    return made


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
) -> tuple[Array, Array, NDArray[np.bool_], Prices]:
    """Points, certified bounds, who is within the gap and inside everything, and prices."""
    start = split(problem, people, low, high)
    x, given = polish(problem, people, low, high, start)
    bad = ~np.isfinite(x).all(axis=1)
    x = np.clip(np.where(bad[:, None], people, x), low, high)
    bound = _bound(problem, people, low, high, given)
    cost = problem.cost(x, people)
    inside = (problem.shortfall(x) <= 1e-10).all(axis=1) & problem.keeps_rows(x, people, 1e-9)
    good = ~bad & inside & (cost - bound <= _GAP * np.maximum(cost, 1e-6))
    return x, bound, good, _prices(problem, people, given)


def _prices(problem: Convex, people: Array, given: Multipliers) -> Prices:
    return prices_of(people, problem.tau, problem.A, problem.b, problem.E, people @ problem.E.T, given)


def _bound(problem: Convex, people: Array, low: Array, high: Array, given: Multipliers) -> Array:
    return separable_bound(
        people, problem.square, problem.absolute, low, high, problem.tau,
        problem.A, problem.b, problem.E, people @ problem.E.T, given,
    )  # fmt: skip


def with_rows(problem: Convex, A: Array, b: Array) -> Convex:
    """The problem with more rows A x <= b."""
    return replace(problem, A=np.r_[problem.A, A], b=np.r_[problem.b, b])
