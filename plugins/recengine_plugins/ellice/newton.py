"""Semismooth Newton steps on the optimality conditions, for everybody at once.

Unknown: x and the multipliers of cones, rows and equalities. Each step guesses what is active from the signs
of multipliers and slacks (a coordinate may rest at a bound, or at its old value under absolute cost), solves
the linear system of that guess in one batch, and guesses again. Near the solution it ends in a few steps.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recengine_plugins.ellice.dual import Multipliers
from recengine_plugins.ellice.problem import Convex
from recengine_plugins.ellice.splitting import Start

Array = NDArray[np.float64]
_STEPS = 30
_FREE, _LOW, _HIGH, _STAY = 0, 1, 2, 3
_SOFT = 1e-11


def polish(
    problem: Convex, people: Array, low: Array, high: Array, start: Start
) -> tuple[Array, Multipliers]:
    """Points [N, d] (NaN where the steps ran away) and the multipliers there."""
    state = _State(problem, people, low, high, start)
    for _ in range(_STEPS):
        if state.settled.all():
            break
        state.step()
    return state.x, state.multipliers()


class _State:
    """The iterate of everybody; ``step`` moves those who have not settled."""

    def __init__(self, problem: Convex, people: Array, low: Array, high: Array, start: Start) -> None:
        self.problem, self.people, self.low, self.high = problem, people, low, high
        self.x, self.lam, self.mu, self.nu = (
            start.x.copy(),
            start.lam.copy(),
            start.mu.copy(),
            start.nu.copy(),
        )
        self.e = people @ problem.E.T
        away = self.x - people
        self.where = np.full(people.shape, _FREE)
        self.where[(problem.absolute > 0) & (away == 0)] = _STAY
        self.where[self.x <= low] = _LOW
        self.where[self.x >= high] = _HIGH
        self.sign = np.sign(away)
        self.on_cone = self.lam > 1e-9
        self.on_row = self.mu > 1e-9
        self.settled = np.zeros(len(people), bool)

    def step(self) -> None:
        rows = np.flatnonzero(~self.settled)
        problem, d = self.problem, self.people.shape[1]
        J, r, k = len(problem.cones), len(problem.A), len(problem.E)
        n, size = len(rows), d + J + r + k
        x, lam = self.x[rows], self.lam[rows]
        value, gradient, hessian = _cones(problem, x, lam)
        K = np.zeros((n, size, size))
        right = np.zeros((n, size))
        free = self.where[rows] == _FREE
        diagonal = np.arange(d)
        K[:, :d, :d] = -hessian
        K[:, diagonal, diagonal] += 2 * problem.square + _SOFT
        K[:, :d, d : d + J] = -np.swapaxes(gradient, 1, 2)
        K[:, :d, d + J : d + J + r] = problem.A.T
        K[:, :d, d + J + r :] = problem.E.T
        pull = 2 * problem.square * (x - self.people[rows]) + problem.absolute * self.sign[rows]
        K[:, :d] *= free[:, :, None]
        K[:, diagonal, diagonal] += ~free
        right[:, :d] = np.where(free, -pull, 0.0)
        on = self.on_cone[rows]
        K[:, d : d + J, :d] = -gradient * on[:, :, None]
        at = np.arange(d, d + J)
        K[:, at, at] = np.where(on, -_SOFT, 1.0)
        right[:, d : d + J] = np.where(on, value - problem.tau, 0.0)
        on = self.on_row[rows]
        K[:, d + J : d + J + r, :d] = problem.A * on[:, :, None]
        at = np.arange(d + J, d + J + r)
        K[:, at, at] = np.where(on, -_SOFT, 1.0)
        right[:, d + J : d + J + r] = np.where(on, problem.b - x @ problem.A.T, 0.0)
        K[:, d + J + r :, :d] = problem.E
        at = np.arange(d + J + r, size)
        K[:, at, at] = -_SOFT
        right[:, d + J + r :] = self.e[rows] - x @ problem.E.T
        try:
            move = np.linalg.solve(K, right[:, :, None])[:, :, 0]
        except np.linalg.LinAlgError:
            self.settled[rows] = True
            self.x[rows] = np.nan
            return
        self._take(rows, x, move, free)

    def _take(self, rows: NDArray[np.int64], x: Array, move: Array, free: NDArray[np.bool_]) -> None:
        """Move, then guess the active constraints again."""
        problem, d = self.problem, self.people.shape[1]
        J, r = len(problem.cones), len(problem.A)
        low, high, people = self.low[rows], self.high[rows], self.people[rows]
        reach = 1e3 * (1.0 + np.abs(x).max(axis=1, keepdims=True))
        new = x + np.clip(np.where(free, move[:, :d], 0.0), -reach, reach)
        # the system was written for the new multipliers, not for their steps
        lam, mu, nu = move[:, d : d + J], move[:, d + J : d + J + r], move[:, d + J + r :]
        where, sign = self.where[rows].copy(), self.sign[rows].copy()
        crossed = free & (problem.absolute > 0) & ((new - people) * sign < 0)
        below, above = free & (new < low) & ~crossed, free & (new > high) & ~crossed
        where[below], where[above], where[crossed] = _LOW, _HIGH, _STAY
        where[crossed & ((people < low) | (people > high))] = _FREE
        new = np.where(where == _STAY, people, np.clip(new, low, high))
        value, gradient, _ = _cones(problem, new, np.maximum(lam, 0.0))
        force = 2 * problem.square * (new - people) - np.einsum("nj,njd->nd", lam, gradient)
        force = force + mu @ problem.A + nu @ problem.E
        was_fixed = ~free
        up = force + problem.absolute * np.where(new >= people, 1.0, -1.0)  # slope of the cost upward
        down = force + problem.absolute * np.where(new > people, 1.0, -1.0)
        tolerance = 1e-11 * (1 + np.abs(force).max(axis=1, keepdims=True))
        rises = was_fixed & (new < high) & (up < -tolerance)
        falls = was_fixed & (new > low) & (down > tolerance)
        where[rises | falls] = _FREE
        sign = np.where(rises, np.where(new >= people, 1.0, -1.0), sign)
        sign = np.where(falls, np.where(new > people, 1.0, -1.0), sign)
        on_cone = lam - (value - problem.tau) > 0
        on_row = mu + new @ problem.A.T - problem.b > 0
        same = (where == self.where[rows]).all(axis=1) & (on_cone == self.on_cone[rows]).all(axis=1)
        same &= (on_row == self.on_row[rows]).all(axis=1)
        still = np.abs(new - x).max(axis=1) <= 1e-13 * (1 + np.abs(x).max(axis=1))
        broken = ~np.isfinite(new).all(axis=1)
        self.settled[rows] = (same & still) | broken
        self.x[rows], self.where[rows], self.sign[rows] = new, where, sign
        self.lam[rows], self.mu[rows], self.nu[rows] = np.maximum(lam, 0.0), np.maximum(mu, 0.0), nu
        self.on_cone[rows], self.on_row[rows] = on_cone, on_row

    def multipliers(self) -> Multipliers:
        """Slopes and biases of the worst models at x, with the multipliers found."""
        h = np.c_[np.nan_to_num(self.x), np.ones(len(self.x))]
        models = [cone.worst_model(h) for cone in self.problem.cones]
        worst = np.stack(models, axis=1) if models else np.zeros((len(h), 0, h.shape[1]))
        lam, mu, nu = (np.nan_to_num(part, posinf=0.0, neginf=0.0) for part in (self.lam, self.mu, self.nu))
        return Multipliers(worst[:, :, :-1], worst[:, :, -1], lam, mu, nu)


def _cones(problem: Convex, x: Array, lam: Array) -> tuple[Array, Array, Array]:
    """g [N, J], its gradients [N, J, d], and sum_j lam_j hessian_j [N, d, d]."""
    n, d = x.shape
    h = np.c_[x, np.ones(n)]
    values, gradients = np.empty((n, len(problem.cones))), np.empty((n, len(problem.cones), d))
    hessian = np.zeros((n, d, d))
    for j, cone in enumerate(problem.cones):
        Ph = h @ cone.P
        length = np.sqrt(np.maximum(np.einsum("ni,ni->n", h, Ph), 1e-300))
        pull = np.sqrt(2 * cone.eps)
        values[:, j] = h @ cone.theta - pull * length
        along = Ph[:, :-1] / length[:, None]
        gradients[:, j] = cone.theta[:-1] - pull * along
        factor = lam[:, j] * pull / length
        used = factor > 0
        if used.any():
            curve = cone.P[:-1, :-1] - along[used, :, None] * along[used, None, :]
            hessian[used] -= factor[used, None, None] * curve
    return values, gradients, hessian
