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
        self.space, self.groups = space, space.groups
        self.default = space.encode(space.default)
        # what takes only some values cannot move a little to make room
        self._stiff = {g for g, parameter in enumerate(space.parameters) if parameter.kind != "float"}
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
                self.A[row, column] += factor * (parameter.high - parameter.low)  # a term may be repeated
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
        """The nearest point within the limits with ``group`` and all ``pinned`` groups at their default, and
        integers and choices as they are in ``x``; None where there is none."""
        return self._project(x, {group, *pinned})

    def admit(self, x: Tensor) -> Tensor:
        """The point of the space that ``x`` stands for, moved as far as the limits ask."""
        space = self.space
        point = space.decode(x.numpy())
        if not space.allows(point):
            near = self._project(torch.as_tensor(space.encode(point)), set())
            # the default is within the limits, and so is everything between it and a point that is
            steps = [] if near is None else [near]
            steps += [x + t * (torch.as_tensor(self.default) - x) for t in (0.25, 0.5, 0.75, 1.0)]
            point = next(p for step in steps if space.allows(p := space.decode(step.numpy())))
        return torch.as_tensor(space.encode(point))

    def _project(self, x: Tensor, at_default: set[int]) -> Tensor | None:
        if not len(self.A) or self.holds(x):
            return x
        start = x.numpy().copy()
        for g in at_default:
            start[list(self.groups[g])] = self.default[list(self.groups[g])]
        held = [column for g in at_default | self._stiff for column in self.groups[g]]
        free = np.setdiff1d(np.arange(len(x)), held)
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
