"""Linear limits in the unit cube, and the projection that keeps pinned coordinates where they are."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from recengine.errors import ConfigError
from recengine.tuning import Space


class Limits:
    """A u <= b over unit-cube columns u."""

    def __init__(self, space: Space) -> None:
        by_name = dict(zip(space.names, space.groups, strict=True))
        parameters = {parameter.name: parameter for parameter in space.parameters}
        self.A = np.zeros((len(space.limits), space.width))
        self.b = np.zeros(len(space.limits))
        self.groups = space.groups
        self.default = space.encode(space.default)
        for row, limit in enumerate(space.limits):
            self.b[row] = limit.at_most
            for name, factor in limit.coefficients:
                parameter = parameters[name]
                if parameter.log:
                    raise ConfigError(
                        f"'{name}' is searched on the logarithmic scale and cannot be in a linear limit here",
                        where="limits",
                        fix="give it a linear range, or use the tuner 'random'",
                    )
                column = by_name[name][0]
                self.A[row, column] = factor * (parameter.high - parameter.low)
                self.b[row] -= factor * parameter.low

    def for_botorch(self) -> list[tuple[Tensor, Tensor, float]] | None:
        """Inequalities in botorch's form sum c_i x_i >= r, or None."""
        made = []
        for row, limit in zip(self.A, self.b, strict=True):
            columns = np.flatnonzero(row)
            made.append((torch.as_tensor(columns), torch.as_tensor(-row[columns]), float(-limit)))
        return made or None

    def holds(self, x: Tensor) -> bool:
        return bool((self.A @ x.numpy() <= self.b + 1e-9).all())

    def pin(self, x: Tensor, group: int, pinned: frozenset[int]) -> Tensor | None:
        """The nearest point within the limits with ``group`` and all ``pinned`` groups at their default."""
        if not len(self.A) or self.holds(x):
            return x
        held = [column for g in {group, *pinned} for column in self.groups[g]]
        free = np.setdiff1d(np.arange(len(x)), held)
        start = x.numpy().copy()
        start[held] = self.default[held]
        if free.size == 0:
            return None
        A, b = self.A[:, free], self.b - self.A[:, held] @ start[held]
        found = minimize(
            lambda z: 0.5 * np.square(z - start[free]).sum(),
            start[free],
            jac=lambda z: z - start[free],
            bounds=[(0.0, 1.0)] * free.size,
            constraints=[{"type": "ineq", "fun": lambda z: b - A @ z, "jac": lambda z: -A}],
            method="SLSQP",
        )
        if not found.success or (A @ found.x > b + 1e-7).any():
            return None
        start[free] = np.clip(found.x, 0.0, 1.0)
        return torch.as_tensor(start)
