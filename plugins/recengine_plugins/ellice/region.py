"""One affine stretch of a classifier as a relaxation: what is the cheapest accepted point within bounds?

Everything above (categories, whole numbers, fewest changes, steps of a net) narrows bounds and asks again.
Bounds and points are in the units of the features; the problem is solved around the training means in units
of cost, so that money and years do not spoil each other's digits.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from recengine.contracts.recourse import Piece
from recengine.recourse import Constraints
from recengine_plugins.ellice.box import BoxSolution
from recengine_plugins.ellice.cone import Cone, RootedCone, through
from recengine_plugins.ellice.conic import ConicStoppedError, link_rows
from recengine_plugins.ellice.convex import solve_convex
from recengine_plugins.ellice.dual import Prices
from recengine_plugins.ellice.logistic import FittedLayer
from recengine_plugins.ellice.problem import Convex
from recengine_plugins.ellice.rashomon import true_worst
from recengine_plugins.ellice.trueset import cut_until_true, under

Array = NDArray[np.float64]


class Relaxation(Protocol):
    """Cheapest points of the people ``rows`` within low <= x <= high [len(rows), d]."""

    @property
    def problem(self) -> Convex: ...

    def __call__(self, rows: NDArray[np.int64], low: Array, high: Array) -> BoxSolution: ...

    def cost(self, points: Array, people: Array) -> Array: ...


@dataclass(frozen=True)
class Head:
    """A fitted last layer and what is asked of it: every contrast of its scores at least tau.

    factor: L with L L' = H; inverse: L^-1. contrasts [J, C]: weights of the scores (1 x 1 for two classes).
    """

    layer: FittedLayer
    factor: Array
    contrasts: Array
    eps: float

    @cached_property
    def inverse(self) -> Array:
        return np.asarray(solve_triangular(self.factor, np.eye(len(self.factor)), lower=True))

    def maps(self, piece: Piece) -> list[Array]:
        """T_j [p, d + 1] with contrast j = theta.(T_j [x; 1])."""
        inner = np.zeros((len(piece.c) + 1, piece.B.shape[1] + 1))
        inner[:-1, :-1], inner[:-1, -1], inner[-1, -1] = piece.B, piece.c, 1.0
        return [np.kron(contrast[:, None], inner) for contrast in self.contrasts]

    def cones(self, piece: Piece, eps: float | None = None) -> tuple[RootedCone, ...]:
        """The robust regions over x, one a contrast."""
        radius = self.eps if eps is None else eps
        return tuple(through(self.layer.theta, self.factor, radius, T) for T in self.maps(piece))

    def directions(self, activations: Array) -> Array:
        """Contrast vectors [N, J, p] of rows phi [N, m - 1]: contrast j of person i is theta.v_ij."""
        h = np.c_[activations, np.ones(len(activations))]
        if self.contrasts.size == 1:
            return np.asarray(h if self.contrasts[0, 0] == 1 else self.contrasts[0, 0] * h)[:, None]
        made = np.einsum("jc,nm->njcm", self.contrasts, h)
        return made.reshape(len(h), len(self.contrasts), self.contrasts.shape[1] * h.shape[1])


def problem_over(
    head: Head,
    piece: Piece,
    limits: Constraints,
    kind: Literal["l2", "l1"],
    tau: float,
    extra: tuple[Cone, ...] = (),
) -> Convex:
    """Cones, costs and rows in the units of the features. ``extra`` cones are asked to be at least 0."""
    square, absolute = costs_of(limits, kind == "l1")
    A, b, E = rows_of(limits)
    cones = (*head.cones(piece), *extra)
    return Convex(
        cones,
        np.r_[np.full(len(cones) - len(extra), tau), np.zeros(len(extra))],
        square,
        absolute,
        np.r_[A, piece.edges],
        np.r_[b, piece.limits],
        E,
    )


def costs_of(limits: Constraints, absolute: bool) -> tuple[Array, Array]:
    """square, absolute [d]: (c delta)^2 or c |delta|; categories always c |delta|."""
    flat = limits.indicator | absolute
    return np.where(flat, 0.0, limits.cost**2), np.where(flat, limits.cost, 0.0)


def rows_of(limits: Constraints) -> tuple[Array, Array, Array]:
    """A [r, d], b [r] of A x <= b, and E [k, d] of E x = E x0: linked features, categories."""
    d = len(limits.names)
    groups = np.zeros((len(limits.groups), d))
    for row, group in enumerate(limits.groups):
        groups[row, group] = 1.0
    A = limits.A if len(limits.A) else np.zeros((0, d))
    return A, limits.b[: len(A)], np.r_[link_rows(limits.links, d), groups]


@dataclass
class Scaled:
    """A problem in units of cost around ``centre``; people and bounds go in and out in their own units."""

    problem: Convex
    people: Array
    centre: Array
    scale: Array

    def __post_init__(self) -> None:
        self.scaled = self.problem.rescaled(self.centre, self.scale)

    def cost(self, points: Array, people: Array) -> Array:
        return self.problem.cost(points, people)

    def into(self, x: Array) -> Array:
        u = x - self.centre
        u /= self.scale
        return np.asarray(u)

    def out(self, found: BoxSolution, held: tuple[tuple[Array, Array], ...]) -> BoxSolution:
        """Back to the units of the features; what has not moved, or rests at a bound, is so to the bit.

        held: least, greatest and own values [n, d], each in units of cost and in those of the features."""
        (least, low), (most, high), (there, own) = held
        u = found.points
        near = 1e-10 * np.maximum(1.0, np.abs(u).max(axis=1, initial=0.0))
        if found.conic.any():
            near[found.conic] *= 1e3  # an interior point stops short of where it rests
        near = near[:, None]
        x = u * self.scale
        x += self.centre
        np.copyto(x, low, where=u <= least + near)
        np.copyto(x, high, where=u >= most - near)
        np.copyto(x, own, where=np.abs(u - there) <= near)
        np.maximum(x, low, out=x)
        np.minimum(x, high, out=x)
        prices = found.prices
        if prices is not None:
            prices = Prices(prices.slope / self.scale, prices.level)
        return BoxSolution(x, found.cost, found.bound, found.feasible, found.conic, prices, found.stopped)


@dataclass
class EllipsoidRelaxation(Scaled):
    """Every model of the ellipsoid accepts. sharp: holds at whole levels of the categories only, and is
    tighter between them (``sharpen``)."""

    sharp: bool = False

    def __call__(self, rows: NDArray[np.int64], low: Array, high: Array) -> BoxSolution:
        people = self.people[rows]
        there, least, most = self.into(people), self.into(low), self.into(high)
        found = solve_convex(self.scaled, there, least, most)
        return self.out(found, ((least, low), (most, high), (there, people)))


@dataclass
class CutRelaxation(Scaled):
    """Every model of a set accepts, where the set is known by its worst model at a point: cutting planes,
    kept for each person. maps [J]: the contrasts' T."""

    head: Head
    maps: list[Array]
    tau: float
    cuts: dict[int, list[Array]] = field(default_factory=dict, init=False)

    def worst_models(self, x: Array) -> list[tuple[float, Array]]:
        """For each contrast a certified bound of its worst value at x, and the model, as a function of
        [x; 1]."""
        raise NotImplementedError

    def under_cuts(self, rows: NDArray[np.int64], low: Array, high: Array) -> BoxSolution:
        """Cheapest points under the cuts known so far."""
        made = self._nothing(low)
        assert made.prices is not None
        for k, row in enumerate(rows):
            try:
                found = under(self, int(row), low[k], high[k], self.cuts.get(int(row), []), 0.0)
            except ConicStoppedError:
                made.undecided[k] = True
                continue
            if found is not None:
                made.points[k], made.bound[k], made.feasible[k] = found.x, found.bound, True
                made.prices.slope[k], made.prices.level[k] = found.slope, found.level
        return self._paid(made, rows)

    def __call__(self, rows: NDArray[np.int64], low: Array, high: Array) -> BoxSolution:
        made = self._nothing(low)
        for k, row in enumerate(rows):
            pool = self.cuts.setdefault(int(row), [])
            try:
                answer = cut_until_true(self, int(row), low[k], high[k], pool)
            except ConicStoppedError:
                made.undecided[k] = True
                continue
            if answer is not None:
                made.points[k], made.bound[k], made.feasible[k] = answer.x, answer.bound, True
        return self._paid(made, rows)

    def _nothing(self, low: Array) -> BoxSolution:
        n = len(low)
        points, unknown = np.full_like(low, np.nan), Prices.unknown(low)
        no, none = np.full(n, np.nan), np.zeros(n, bool)
        return BoxSolution(points, no, no.copy(), none, none, unknown, none.copy())

    def _paid(self, made: BoxSolution, rows: NDArray[np.int64]) -> BoxSolution:
        cost = np.where(made.feasible, self.cost(made.points, self.people[rows]), np.nan)
        return replace(made, cost=cost, bound=np.minimum(made.bound, cost))


class TrueSetRelaxation(CutRelaxation):
    """Every model whose loss is within eps accepts."""

    def worst_models(self, x: Array) -> list[tuple[float, Array]]:
        made = []
        for T in self.maps:
            found = true_worst(self.head.layer, self.head.eps, T @ np.r_[x, 1.0])
            made.append((found.bound, T.T @ found.theta))
        return made


@dataclass
class SampledRelaxation(CutRelaxation):
    """Every one of ``models`` [k, p] accepts."""

    models: Array

    def worst_models(self, x: Array) -> list[tuple[float, Array]]:
        made = []
        for T in self.maps:
            scores = self.models @ (T @ np.r_[x, 1.0])
            least = int(np.argmin(scores))
            made.append((float(scores[least]), T.T @ self.models[least]))
        return made
