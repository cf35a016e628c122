"""The convex problem as data: cones, costs, rows."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from recengine_plugins.ellice.cone import Cone

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Convex:
    """cones with tau [J]; square, absolute [d] >= 0, never both 0; A [r, d], b [r]; E [k, d]."""

    cones: tuple[Cone, ...]
    tau: Array
    square: Array
    absolute: Array
    A: Array
    b: Array
    E: Array

    @classmethod
    def over(cls, cones: tuple[Cone, ...], square: Array, *, tau: float = 0.0) -> Convex:
        """Squared cost and bounds only."""
        d = len(square)
        none = np.zeros((0, d))
        return cls(cones, np.full(len(cones), tau), square, np.zeros(d), none, np.zeros(0), none)

    @property
    def plain(self) -> bool:
        """Squared cost, no rows: bounds and cones only."""
        return not (self.absolute.any() or len(self.A) or len(self.E)) and bool((self.square > 0).all())

    @property
    def hard(self) -> NDArray[np.bool_]:
        """The features [d] that more than squared cost and bounds are about."""
        kinked = (self.absolute > 0) | (self.square <= 0)
        return np.asarray(kinked | (self.A != 0).any(axis=0) | (self.E != 0).any(axis=0))

    def settled(self, low: Array, high: Array) -> NDArray[np.bool_]:
        """For whom [N] the bounds leave no choice in any of these."""
        hard = self.hard
        return np.asarray((low[:, hard] == high[:, hard]).all(axis=1))

    def cost(self, x: Array, people: Array) -> Array:
        away = x - people
        return np.asarray(np.square(away) @ self.square + np.abs(away) @ self.absolute)

    def worst(self, x: Array) -> Array:
        """g of each cone: [N, J]."""
        h = np.c_[x, np.ones(len(x))]
        return np.stack([cone.worst_logit(h) for cone in self.cones], axis=1) if self.cones else np.zeros(
            (len(x), 0)
        )  # fmt: skip

    def shortfall(self, x: Array) -> Array:
        """tau - g, [N, J]."""
        return np.asarray(self.tau - self.worst(x))

    def keeps_rows(self, x: Array, people: Array, tolerance: float) -> NDArray[np.bool_]:
        """Whether A x <= b and E x = E x0 up to ``tolerance`` times the size of the row."""
        over = x @ self.A.T - self.b
        off = np.abs((x - people) @ self.E.T)
        room = (
            tolerance * (1 + np.abs(self.A).sum(axis=1)) * (1 + np.abs(x).max(axis=1, initial=0.0)[:, None])
        )
        slack = (
            tolerance * (1 + np.abs(self.E).sum(axis=1)) * (1 + np.abs(x).max(axis=1, initial=0.0)[:, None])
        )
        return np.asarray((over <= room).all(axis=1) & (off <= slack).all(axis=1))

    def reach(self, people: Array, low: Array, high: Array) -> Array:
        """Upper bounds [N, J] of g within the box: the best corner for the centre model alone."""
        made = np.empty((len(people), len(self.cones)))
        for j, cone in enumerate(self.cones):
            w = cone.theta[:-1]
            corner = np.where(w > 0, high, low)
            with np.errstate(invalid="ignore"):
                made[:, j] = np.where(w == 0, 0.0, corner * w).sum(axis=1) + cone.theta[-1]
        return made

    def rescaled(self, centre: Array, scale: Array) -> Convex:
        """The same problem for u with x = centre + scale u (scale > 0)."""
        return replace(
            self,
            cones=tuple(cone.rescaled(centre, scale) for cone in self.cones),
            square=self.square * scale**2,
            absolute=self.absolute * scale,
            A=self.A * scale,
            b=self.b - self.A @ centre,
            E=self.E * scale,
        )
