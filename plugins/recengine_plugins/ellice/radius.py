"""eps, and the eps* beyond which nobody has robust recourse."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recengine.contracts.recourse import Piece
from recengine_plugins.ellice import conic
from recengine_plugins.ellice.config import ElliCEConfig
from recengine_plugins.ellice.problem import Convex
from recengine_plugins.ellice.rashomon import Ellipsoid, eps_from_level, eps_from_loss
from recengine_plugins.ellice.region import Head

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Radius:
    """eps, the eps* beyond which nobody has robust recourse, and where eps came from."""

    eps: float
    largest: float
    origin: str

    @property
    def share(self) -> float:
        return self.eps / self.largest if self.largest > 0 else float("inf")


def radius_for(head: Head, config: ElliCEConfig) -> Radius:
    """eps as the settings ask: a value, a percentage of the loss, or a chi-square level."""
    largest = largest_eps(head, config.threshold)
    if config.eps is not None:
        return Radius(config.eps, largest, "given")
    if config.percent_of_loss is not None:
        eps = eps_from_loss(head.layer, config.percent_of_loss)
        return Radius(eps, largest, f"{config.percent_of_loss:g} % of the training loss")
    eps = eps_from_level(head.layer, config.level, joint=config.joint)
    origin = f"chi-square level {config.level:g}, {'joint' if config.joint else 'one person'}"
    if eps > config.cap * largest:
        return Radius(config.cap * largest, largest, f"{origin}, capped at {config.cap:g} of eps*")
    return Radius(eps, largest, origin)


def largest_eps(head: Head, threshold: float = 0.0) -> float:
    """eps* over all activations: in closed form for two classes, by bisection for several.

    A threshold acts like a bias that is smaller by as much.
    """
    sign = float(head.contrasts[0, 0])
    if len(head.contrasts) == 1 and head.contrasts.shape[1] == 1:
        theta = sign * head.layer.theta
        theta[-1] -= threshold
        return Ellipsoid.around(theta, head.layer.hessian, 0.0).largest_eps()
    width = len(head.layer.theta) // head.contrasts.shape[1] - 1
    piece = Piece(np.eye(width), np.zeros(width), np.zeros((0, width)), np.zeros(0))
    pairs = []
    for cone in head.cones(piece, 0.0):
        theta = cone.theta.copy()
        theta[-1] -= threshold
        pairs.append(Ellipsoid.around(theta, np.linalg.inv(cone.P), 0.0).largest_eps())
    low, high = 0.0, min(pairs)
    for _ in range(30):
        if high - low <= 1e-4 * high:
            break
        middle = (low + high) / 2
        low, high = (middle, high) if _somebody(head, piece, middle, threshold) else (low, middle)
    return low


def _somebody(head: Head, piece: Piece, eps: float, threshold: float) -> bool:
    """Whether any activation is accepted by the whole ellipsoid of radius eps."""
    width = len(piece.c)
    problem = Convex.over(head.cones(piece, eps), np.full(width, 1e-6), tau=threshold)
    free = np.full(width, np.inf)
    return conic.solve_problem(problem, np.zeros(width), -free, free) is not None
