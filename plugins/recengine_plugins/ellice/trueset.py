"""Recourse that is exact for any set of models whose worst one can be found, by cutting planes.

The robust region is the intersection of the half-spaces theta.h(x) >= tau over all models with
L(theta) <= L* + eps. Start from few, solve, find the model that likes the answer least (``true_worst``,
with a rigorous bound), add it, repeat. The last answer is certified by the bound of its worst logit; the
optimum under the cuts bounds its cost from below.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recengine_plugins.ellice import conic
from recengine_plugins.ellice.convex import solve_convex, with_rows
from recengine_plugins.ellice.dual import prices_of, separable_bound

if TYPE_CHECKING:
    from recengine_plugins.ellice.region import CutRelaxation

Array = NDArray[np.float64]


@dataclass(frozen=True)
class TrueSetAnswer:
    """x: the point; worst: a bound below which no near-optimal model scores it; bound: of the cost; cuts:
    models used."""

    x: Array
    worst: float
    bound: float
    cuts: int


@dataclass(frozen=True)
class UnderCuts:
    """One person's optimum x [d] under cuts, a bound of its cost, and the prices slope [d] and level."""

    x: Array
    bound: float
    slope: Array
    level: float


def cut_until_true(
    asked: CutRelaxation,
    row: int,
    low: Array,
    high: Array,
    pool: list[Array],
    *,
    most_cuts: int = 60,
    tolerance: float = 1e-7,
) -> TrueSetAnswer | None:
    """The cheapest point within the bounds that every model of the set accepts, or None.

    ``pool`` holds the cuts found for this person, as functions of [x; 1]; new ones are added to it. The rows
    ask for tau + ``tolerance``, so that the last step ends inside. The worst score is concave, so between the
    point under the cuts and one that is accepted with room there is an accepted one at a known place: it is
    the answer when the cuts run out or its cost is within 1e-6 of the bound.
    """
    person = asked.people[row]
    start = np.clip(person, low, high)
    goal = asked.tau + 0.5 * tolerance
    inside: tuple[Array, float] | None = None
    if not pool:
        worst = _worst(asked, start, pool)
        keeps = bool(asked.problem.keeps_rows(start[None], person[None], 1e-9)[0])
        beside = asked.problem.worst(start[None])[0, len(asked.maps) :]
        if worst >= goal and keeps and (beside >= 0).all():
            return TrueSetAnswer(start, worst, float(asked.problem.cost(start[None], person[None])[0]), 0)
    # the ellipsoid's answer is near: accepted, or its worst model is a good cut to begin with
    near = solve_convex(asked.scaled, asked.into(person)[None], asked.into(low)[None], asked.into(high)[None])
    if near.feasible[0]:
        x = np.clip(asked.centre + asked.scale * near.points[0], low, high)
        worst = _worst(asked, x, pool)
        inside = (x, worst) if worst >= goal else None
    if not pool:
        pool += [T.T @ asked.head.layer.theta for T in asked.maps]
    best: TrueSetAnswer | None = None
    for _ in range(most_cuts):
        found = under(asked, row, low, high, pool, tolerance)
        if found is None:
            return best
        x, bound = found.x, found.bound
        before = len(pool)
        worst = _worst(asked, x, pool)
        if worst >= goal:
            del pool[before:]
            return TrueSetAnswer(x, worst, bound, len(pool))
        if inside is not None and inside[1] > goal:
            share = (goal - worst) / (inside[1] - worst)
            between = x + share * (inside[0] - x)
            cost = float(asked.problem.cost(between[None], person[None])[0])
            best = TrueSetAnswer(between, goal, min(bound, cost), len(pool))
            if cost - bound <= 1e-6 * cost:
                break
    if best is None:
        return None
    worst = min(value for value, _ in asked.worst_models(best.x))
    return replace(best, worst=worst) if worst >= asked.tau * (1 - 1e-3) else None


def _worst(asked: CutRelaxation, x: Array, pool: list[Array]) -> float:
    """The certified worst contrast at x; models that fall short become cuts."""
    found = asked.worst_models(x)
    pool += [model for bound, model in found if bound < asked.tau + 0.5e-7]
    return min(bound for bound, _ in found)


def under(
    asked: CutRelaxation, row: int, low: Array, high: Array, pool: list[Array], tolerance: float
) -> UnderCuts | None:
    """The optimum under the cuts, its certified bound, and the prices there (``dual.Prices``)."""
    cuts = np.stack(pool) if pool else np.zeros((0, len(low) + 1))
    extra = asked.problem.cones[len(asked.maps) :]
    bare = replace(asked.problem, cones=extra, tau=np.zeros(len(extra)))
    problem = with_rows(bare, -cuts[:, :-1], cuts[:, -1] - asked.tau - tolerance).rescaled(
        asked.centre, asked.scale
    )
    person, least, most = asked.into(asked.people[row]), asked.into(low), asked.into(high)
    answer = conic.solve_problem(problem, person, least, most)
    if answer is None:
        return None
    bound = separable_bound(
        person[None], problem.square, problem.absolute, least[None], most[None], problem.tau,
        problem.A, problem.b, problem.E, person[None] @ problem.E.T, answer.given,
    )  # fmt: skip
    x = asked.centre + asked.scale * answer.x
    for held, there in ((low, least), (high, most), (asked.people[row], person)):
        with np.errstate(invalid="ignore"):
            x = np.where(answer.x == there, held, x)
    priced = prices_of(
        person[None], problem.tau, problem.A, problem.b, problem.E, person[None] @ problem.E.T, answer.given
    )
    slope = priced.slope[0] / asked.scale
    return UnderCuts(np.clip(x, low, high), float(bound[0]), slope, float(priced.level[0]))
