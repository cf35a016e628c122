"""Bounds on single features: Newton with an active set from the exact projection, with a certified gap.

Without bounds the problem is that of ``secular``; from its answer the compiled Newton method settles almost
everybody. Who is left gets the projection anew for every set of free coordinates: those that leave their
bounds are fixed, fixed ones whose multiplier has the wrong sign are released, until neither happens.
Whoever has not settled then goes to the conic solver.

The gap is rigorous whatever the solver did: for any model theta' of the ellipsoid and any lambda >= 0,
min over the box of cost(x) - lambda (theta'.h(x) - tau) is separable and bounds the optimum from below.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from recengine.ops.recourse import INFEASIBLE, UNDECIDED, cone_nearest
from recengine.ops.recourse import Cone as Shared
from recengine_plugins.ellice import conic
from recengine_plugins.ellice.cone import Cone
from recengine_plugins.ellice.dual import Prices
from recengine_plugins.ellice.secular import onto_surface, project

Array = NDArray[np.float64]
_ROUNDS = 30
_TIGHT = 1e-8


@dataclass(frozen=True)
class BoxSolution:
    """points [N, d] (NaN where infeasible), cost = sum w (x - x0)^2 and bound <= optimum [N]; conic: who
    went to the conic solver; prices: of the constraints, where they are known; stopped: for whom the conic
    solver ended without an answer or a proof that there is none (never feasible)."""

    points: Array
    cost: Array
    bound: Array
    feasible: NDArray[np.bool_]
    conic: NDArray[np.bool_]
    prices: Prices | None = None
    stopped: NDArray[np.bool_] | None = None

    @property
    def undecided(self) -> NDArray[np.bool_]:
        return np.zeros(len(self.cost), bool) if self.stopped is None else self.stopped

    @property
    def gap(self) -> Array:
        """Relative duality gap; NaN where infeasible."""
        return np.asarray((self.cost - self.bound) / np.maximum(self.cost, 1e-12))


def solve_box(
    ellipsoid: Cone, people: Array, weights: Array, low: Array, high: Array, *, tau: float
) -> BoxSolution:
    """Cheapest robust points within low <= x <= high [N, d] in the cost sum w_j (x_j - x0_j)^2."""
    x, bound, status = _newton(ellipsoid, people, weights, low, high, tau)
    cost = np.square(x - people) @ weights
    feasible, by_conic = status != INFEASIBLE, np.zeros(len(people), bool)
    stopped = np.zeros(len(people), bool)
    loose = feasible & ~(cost - bound <= _TIGHT * np.maximum(cost, 1e-12))
    left = np.flatnonzero((status == UNDECIDED) | loose)
    if left.size:
        rest = _by_masks(ellipsoid, people[left], weights, low[left], high[left], tau)
        x[left], cost[left], bound[left] = rest.points, rest.cost, rest.bound
        feasible[left], by_conic[left], stopped[left] = rest.feasible, rest.conic, rest.undecided
    return BoxSolution(x, cost, bound, feasible, by_conic, stopped=stopped)


def _newton(
    ellipsoid: Cone, people: Array, weights: Array, low: Array, high: Array, tau: float
) -> tuple[Array, Array, NDArray[np.int64]]:
    """Points [N, d] and lower bounds [N] of the cost (NaN where not solved), status [N] of each person."""
    movable = (low < high).any(axis=0)
    begin = people if movable.all() else np.where(movable, people, np.clip(people, low, high))
    start = onto_surface(ellipsoid, begin, weights, movable, tau=tau)
    arrays = (ellipsoid.theta, ellipsoid.P, weights, people, start, low, high)
    theta, P, w, *of_people = (torch.from_numpy(np.ascontiguousarray(part)) for part in arrays)
    found = cone_nearest(Shared(theta, P, float(np.sqrt(2 * ellipsoid.eps)), w, tau), *of_people)
    return found.x.numpy(), found.bound.numpy(), found.status.numpy()


def _by_masks(
    ellipsoid: Cone, people: Array, weights: Array, low: Array, high: Array, tau: float
) -> BoxSolution:
    """The same by one projection for every set of free coordinates, then by the conic solver."""
    n = len(people)
    x = np.clip(people, low, high)  # the nearest point of the box: optimal if it is robust already
    at_bound = (low == high) | (x != people)
    settled = ellipsoid.worst_logit(np.c_[x, np.ones(n)]) >= tau
    failed = np.zeros(n, bool)
    for _ in range(_ROUNDS):
        todo = np.flatnonzero(~settled & ~failed)
        if todo.size == 0:
            break
        moved = _project_by_mask(ellipsoid, people[todo], x[todo], weights, at_bound[todo], tau)
        lost = ~np.isfinite(moved).all(axis=1)
        failed[todo[lost]] = True
        todo, moved = todo[~lost], moved[~lost]
        below, above = moved < low[todo], moved > high[todo]
        below &= ~at_bound[todo]
        above &= ~at_bound[todo]
        push = _multipliers(ellipsoid, people[todo], moved, weights, ~at_bound[todo])
        movable = low[todo] < high[todo]
        release = at_bound[todo] & movable & np.where(moved <= low[todo], push < -1e-9, push > 1e-9)
        release &= ~(below | above).any(axis=1, keepdims=True)  # first leave the outside, then come back
        x[todo] = np.clip(moved, low[todo], high[todo])
        at_bound[todo] = (at_bound[todo] | below | above) & ~release
        settled[todo] = ~(below | above | release).any(axis=1)
    tight = _tight(ellipsoid, people, x, weights, low, high, tau)
    left = np.flatnonzero(~(settled & tight))
    feasible, stopped = np.ones(n, bool), np.zeros(n, bool)
    for i in left:
        try:
            answer = conic.solve(ellipsoid, people[i], weights, low[i], high[i], tau=tau)
        except conic.ConicStoppedError:
            answer, stopped[i] = None, True
        feasible[i] = answer is not None
        x[i] = np.nan if answer is None else answer
    outside = np.flatnonzero(feasible)
    outside = outside[ellipsoid.worst_logit(np.c_[x[outside], np.ones(len(outside))]) < tau]
    x[outside] = _nudge(ellipsoid, x[outside], low[outside], high[outside], tau)
    cost = np.square(x - people) @ weights
    bound = np.full(n, np.nan)
    f = feasible
    bound[f] = lower_bound(ellipsoid, people[f], x[f], weights, low[f], high[f], tau)
    by_conic = np.zeros(n, bool)
    by_conic[left] = True
    return BoxSolution(x, cost, bound, feasible, by_conic, stopped=stopped)


def _tight(
    ellipsoid: Cone, people: Array, x: Array, weights: Array, low: Array, high: Array, tau: float
) -> NDArray[np.bool_]:
    """Who is within 1e-8 of the certified bound (relative); the others need the conic solver."""
    cost = np.square(x - people) @ weights
    bound = lower_bound(ellipsoid, people, x, weights, low, high, tau)
    return np.asarray(cost - bound <= _TIGHT * np.maximum(cost, 1e-12))


def lower_bound(
    ellipsoid: Cone, people: Array, x: Array, weights: Array, low: Array, high: Array, tau: float
) -> Array:
    """Rigorous lower bounds [N] of the optimal cost, from the worst model at x and the multiplier there."""
    h = np.c_[x, np.ones(len(x))]
    model = ellipsoid.worst_model(h)
    slope, bias = model[:, :-1], model[:, -1]
    scale = np.square(slope) / weights
    interior = (x > low + 1e-12) & (x < high - 1e-12)
    top = np.where(interior, 2 * (x - people) * slope, 0.0).sum(axis=1)
    multiplier = np.maximum(top / np.maximum(np.where(interior, scale, 0.0).sum(axis=1), 1e-300), 0.0)
    best = np.zeros(len(x))
    for factor in (
        1.0,
        1 - 1e-9,
        1 + 1e-9,
    ):  # the dual is flat at its top: any multiplier gives a valid bound
        lam = (multiplier * factor)[:, None]
        step = np.clip(people + lam * slope / (2 * weights), low, high)
        value = (weights * np.square(step - people) - lam * slope * step).sum(axis=1)
        best = np.maximum(best, value - lam[:, 0] * (bias - tau))
    return best


def _multipliers(ellipsoid: Cone, people: Array, x: Array, weights: Array, free: NDArray[np.bool_]) -> Array:
    """Gradient of the Lagrangian [N, d]: >= 0 keeps a coordinate at its lower bound, <= 0 at its upper."""
    slope = ellipsoid.worst_model(np.c_[x, np.ones(len(x))])[:, :-1]  # gradient of g (Danskin)
    pull = 2 * weights * (x - people)
    top = np.where(free, pull * slope, 0.0).sum(axis=1)
    lam = np.maximum(top / np.maximum(np.where(free, np.square(slope), 0.0).sum(axis=1), 1e-300), 0.0)
    return np.asarray(pull - lam[:, None] * slope)


def _project_by_mask(
    ellipsoid: Cone, people: Array, held: Array, weights: Array, at_bound: NDArray[np.bool_], tau: float
) -> Array:
    """project() for each distinct set of free coordinates, the others held where they are."""
    start = np.where(at_bound, held, people)
    moved = np.empty_like(start)
    masks, which = np.unique(~at_bound, axis=0, return_inverse=True)
    for k, free in enumerate(masks):
        rows = np.flatnonzero(which.ravel() == k)
        moved[rows] = project(ellipsoid, start[rows], weights, free, tau=tau)
    return moved


def _nudge(ellipsoid: Cone, x: Array, low: Array, high: Array, tau: float) -> Array:
    """Step along the gradient of g until rounding no longer leaves a point outside."""
    size = 1e-14
    for _ in range(40):
        short = ellipsoid.worst_logit(np.c_[x, np.ones(len(x))]) < tau
        if not short.any():
            break
        slope = ellipsoid.worst_model(np.c_[x[short], np.ones(int(short.sum()))])[:, :-1]
        unit = slope / np.maximum(np.linalg.norm(slope, axis=1, keepdims=True), 1e-300)
        reach = np.maximum(np.abs(x[short]).max(axis=1, keepdims=True), 1.0)
        x[short] = np.clip(x[short] + size * reach * unit, low[short], high[short])
        size *= 2
    return x
