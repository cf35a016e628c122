"""Nets: exact steps from region to region.

Within one activation pattern a ReLU net is affine, so the cheapest accepted point of its polyhedron is the
convex problem of ``region``. A walk starts from an accepted point (the end of a gradient path, the nearest
accepted training rows), pulls it towards the person, solves its region exactly, steps over the faces that
stop it, and ends where no neighbour is cheaper. Every answer is certified by the net itself; that no other
region holds a cheaper one is not proved. Nets without kinks are followed by tangents in a trust region.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recengine.contracts.recourse import Piece
from recengine.recourse import Constraints
from recengine_plugins.ellice.allowed import Found, kept
from recengine_plugins.ellice.conic import ConicStoppedError
from recengine_plugins.ellice.discrete import solve_any
from recengine_plugins.ellice.sparse import revert, things

if TYPE_CHECKING:
    from recengine_plugins.ellice.method import ElliCE

Array = NDArray[np.float64]
_STEPS, _STARTS, _FACES = 40, 3, 12


def walk(method: ElliCE, people: Array, limits: Constraints) -> Found:
    """The cheapest points found for each of ``people``."""
    walker = _Walker(method, people, limits)
    low, high = limits.bounds(people)
    everybody = np.arange(len(people))
    if method.config.cost == "changes":
        points, _ = revert(walker, people, everybody, things(limits), low, high)
    else:
        points, _ = walker(everybody, low, high)
    extras: dict[str, Any] = {"regions": walker.regions}
    return Found(points, extras)


@dataclass
class _Walker:
    """Callable as ``sparse.Solve``: people and bounds to points and costs."""

    method: ElliCE
    people: Array
    limits: Constraints

    def __post_init__(self) -> None:
        self.regions = np.zeros(len(self.people), np.int64)
        self.phi = self.method.classifier.representation
        rows = self.method.features
        self.accepted = rows[self.method.margin(rows, self.method.radius.eps) >= self.method.config.margin]

    def __call__(self, rows: NDArray[np.int64], low: Array, high: Array) -> tuple[Array, Array]:
        points, costs = np.full_like(low, np.nan), np.full(len(rows), np.inf)
        for k, row in enumerate(rows):
            best = self._one(int(row), low[k], high[k])
            if best is not None:
                points[k], costs[k] = best, self._cost(best, int(row))
        return points, costs

    def _one(self, row: int, low: Array, high: Array) -> Array | None:
        person = self.people[row]
        here = np.clip(person, low, high)
        if self._robust(here, row, low, high):
            return here
        best: Array | None = None
        for start in self._starts(row, low, high):
            found = self._descend(row, self._pulled(row, start, low, high), low, high)
            if best is None or self._cost(found, row) < self._cost(best, row):
                best = found
        return best

    def _cost(self, x: Array, row: int) -> float:
        return float(self.method.cost(x[None], self.people[row][None], self.limits)[0])

    def _robust(self, x: Array, row: int, low: Array, high: Array) -> bool:
        if not ((x >= low) & (x <= high)).all() or not kept(x[None], self.people[row][None], self.limits)[0]:
            return False
        return bool(self._worst(x) >= 0.999 * self.method.config.margin and self._plausible(x))

    def _worst(self, x: Array) -> float:
        return float(self.method.worst(x[None])[0])

    def _plausible(self, x: Array) -> bool:
        region = self.method.unlikely
        return region is None or bool(region.worst_logit(np.r_[x, 1.0][None])[0] >= -1e-9)

    def _starts(self, row: int, low: Array, high: Array) -> list[Array]:
        """Accepted points within the constraints: the end of a gradient path, the nearest training rows."""
        person = self.people[row]
        made = []
        climbed = self._climb(row, low, high)
        if climbed is not None:
            made.append(climbed)
        rows = np.clip(self.accepted, low, high)  # a row that nearly keeps the bounds is as good
        for group in self.limits.groups:
            whole = np.isclose(rows[:, group].sum(axis=1), 1.0)
            rows = rows[whole]
        good = kept(rows, np.broadcast_to(person, rows.shape), self.limits)
        rows = rows[good & (self.method.margin(rows, self.method.radius.eps) >= self.method.config.margin)]
        if len(rows):
            away = self.method.cost(rows, np.broadcast_to(person, rows.shape), self.limits)
            made += [
                rows[k] for k in np.argsort(away)[: 4 * _STARTS] if self._robust(rows[k], row, low, high)
            ][:_STARTS]
        return made

    def _climb(self, row: int, low: Array, high: Array) -> Array | None:
        """Follow the gradient of the worst score, in units of cost, until accepted; None when it ends."""
        person, unit = self.people[row], 1.0 / self.limits.cost
        x = np.clip(person, low, high)
        frozen = self.limits.indicator
        step = 0.1
        for _ in range(120):
            cones = self.method.head.cones(self.phi.around(x))
            if self.method.refits is not None:
                cones += self.method.refits.cones(x, self.method.config.threshold)
            h = np.r_[x, 1.0][None]
            worst = [float(cone.worst_logit(h)[0]) for cone in cones]
            slope = cones[int(np.argmin(worst))].worst_model(h)[0, :-1] * unit
            slope = np.where(frozen | ((slope > 0) & (x >= high)) | ((slope < 0) & (x <= low)), 0.0, slope)
            size = float(np.linalg.norm(slope))
            if size < 1e-12:
                return None
            x = np.clip(x + step * unit * slope / size, low, high)
            tried = _whole(x, person, self.limits, low, high)
            if self._robust(tried, row, low, high):
                return tried
            step = min(step * 1.1, 1.0)
        return None

    def _pulled(self, row: int, start: Array, low: Array, high: Array) -> Array:
        """The point nearest to the person on the way from ``start`` (categories stay) that is accepted."""
        goal = np.where(self.limits.indicator, start, np.clip(self.people[row], low, high))
        for share in np.linspace(0.0, 1.0, 33)[:-1]:
            x = _whole(goal + share * (start - goal), self.people[row], self.limits, low, high)
            if self._robust(x, row, low, high):
                return x
        return start

    def _descend(self, row: int, x: Array, low: Array, high: Array) -> Array:
        """Solve the region, step over its faces, until no neighbour is cheaper."""
        trust = 2.0
        for _ in range(_STEPS):
            piece = self._piece(x)
            better = None
            for one in self._neighbours(row, x, piece):
                self.regions[row] += 1
                found = self._region(row, one, x, low, high, trust)
                least = 1e-7 if piece.exact else 1e-3
                if found is not None and self._cost(found, row) < self._cost(x, row) * (1 - least):
                    better = found
                    break
            if better is None:
                if piece.exact or trust < 0.05:
                    return x
                trust /= 4
                continue
            x = better
        return x

    def _piece(self, x: Array) -> Piece:
        """The region of x; with refits, whose kinks lie elsewhere, its tangent."""
        piece = self.phi.around(x)
        if self.method.refits is None or self.method.refits.affine:
            return piece
        return Piece(piece.B, piece.c, np.zeros((0, len(x))), np.zeros(0), exact=False)

    def _neighbours(self, row: int, x: Array, piece: Piece) -> list[Piece]:
        """The region of x, the one towards the person, and those beyond the faces that x lies on."""
        made = [piece]
        if not piece.exact or not len(piece.limits):
            return made
        size = np.linalg.norm(piece.edges, axis=1)
        on = np.flatnonzero(piece.limits - piece.edges @ x <= 1e-6 * np.maximum(size, 1e-12))
        on = on[size[on] > 0]
        if on.size:
            small = 1e-5 / max(float(np.linalg.norm(self.people[row] - x)), 1e-12)
            made.append(self.phi.around(x + small * (self.people[row] - x)))
        made += [self.phi.around(x + 2e-6 * piece.edges[k] / size[k]) for k in on[:_FACES]]
        return made

    def _region(
        self, row: int, piece: Piece, x: Array, low: Array, high: Array, trust: float
    ) -> Array | None:
        """The cheapest accepted point of one piece, checked by the net itself; None where there is none."""
        person = self.people[row]
        if not piece.exact:
            reach = trust / self.limits.cost
            low, high = (
                np.maximum(low, np.minimum(x - reach, high)),
                np.minimum(high, np.maximum(x + reach, low)),
            )
        relax = self.method.relaxation(person[None], self.limits, piece, at=x)
        nodes = min(self.method.config.nodes, 50)
        try:
            y = solve_any(relax, person[None], self.limits, low[None], high[None], most_nodes=nodes).points[0]
        except ConicStoppedError:  # the walk goes on without this piece
            return None
        if not np.isfinite(y).all():
            return None
        for _ in range(1 if piece.exact else 6):
            if self._robust(y, row, low, high):
                return y
            y = _whole((x + y) / 2, person, self.limits, low, high)
        return None


def _whole(x: Array, person: Array, limits: Constraints, low: Array, high: Array) -> Array:
    """x with whole numbers and allowed values at the next one beyond, links and untouched values restored."""
    x = np.where(np.abs(x - person) <= 1e-12 * np.maximum(1.0, np.abs(person)), person, x)
    for at in np.flatnonzero(limits.integer):
        if x[at] != person[at]:
            x[at] = np.ceil(x[at]) if x[at] > person[at] else np.floor(x[at])
    for at, values in limits.allowed.items():
        if x[at] != person[at]:
            beyond = values[values >= x[at]] if x[at] > person[at] else values[values <= x[at]]
            options = beyond if beyond.size else values
            x[at] = options[np.argmin(np.abs(options - x[at]))]
    for i, j, ratio in limits.links:
        x[j] = person[j] + ratio * (x[i] - person[i])
    return np.asarray(np.clip(x, low, high))
