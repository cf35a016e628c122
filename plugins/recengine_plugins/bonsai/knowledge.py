"""What a policy knows when it proposes: the measured points and the models fitted to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recengine.contracts.tuner import Observation
from recengine.tuning import Space
from recengine_plugins.bonsai.config import BonsaiConfig
from recengine_plugins.bonsai.surrogate import Feasibility, fit_surrogate

_LARGE, _SMALL = 1e30, 1e-9  # values beyond these are brought to size first
_ROOM = 16.0  # so that the range of the largest floats is one


def usable(entry: Observation) -> bool:
    """Whether it carries finite values."""
    return bool(entry.values) and bool(np.isfinite(entry.values).all())


def raised(Y: Tensor) -> Tensor:
    """Y [n, 1] with hopeless values raised to Tukey's lower fence, 1.5 interquartile ranges below the first
    quartile.

    A search needs the surrogate near the top; a few very bad points would set its scale otherwise.
    """
    low, high = torch.quantile(Y, 0.25), torch.quantile(Y, 0.75)
    if low == high:  # most points tie, as where what they change does nothing: judge by the others
        low, high = (torch.quantile(torch.unique(Y), share) for share in (0.25, 0.75))
    return Y.clamp_min(float(low - 1.5 * (high - low)))


def unit_of(Y: Tensor) -> Tensor:
    """Powers of two [m] by which Y [n, m] is divided before anything is squared: 1 for values of any ordinary
    size, so that these keep their bits."""
    largest = Y.abs().amax(dim=0)
    unusual = (largest > _LARGE) | ((largest > 0) & (largest < _SMALL))
    # 1023: the largest exponent, and its inverse is still a normal number
    exponent = largest.log2().round().clamp(-1022, 1022)
    return torch.where(unusual, torch.exp2(exponent), torch.ones_like(largest))


@dataclass(frozen=True)
class Knowledge:
    """X [n, d], Y [n, m]: feasible points with their values; own [n]: those that this study measured, no
    copies of another's; model of Y, None while there is no such point; defaults: how often the default was
    measured; unit [m]: what the values were divided by (1, but for huge and tiny ones).

    Models are fitted to all; what counts as the best point, and as measured, are the study's own points.
    Until there are any, it is all of them.
    """

    X: Tensor
    Y: Tensor
    own: Tensor
    model: Any
    feasibility: Feasibility
    defaults: int
    unit: Tensor

    @classmethod
    def of(
        cls,
        space: Space,
        history: Sequence[Observation],
        config: BonsaiConfig,
        objectives: Sequence[int] | None = None,
        *,
        seed: int = 0,
    ) -> Knowledge:
        """Fit to ``history``, where a trial without finite values counts as infeasible; all objectives by
        default. seed: of an ensemble's shrinkage."""
        encoded = torch.stack([torch.as_tensor(space.encode(entry.parameters)) for entry in history])
        good = [entry.feasible and usable(entry) for entry in history]
        feasibility = Feasibility(encoded, torch.tensor(good), config.surrogate, config.members, seed)
        X = encoded[torch.tensor(good)]
        Y = torch.tensor([e.values for e, use in zip(history, good, strict=True) if use], dtype=torch.float64)
        if objectives is not None and len(X):
            Y = Y[:, list(objectives)]
        model, unit = None, torch.ones(1, dtype=torch.float64)
        if len(X):
            fitted = raised(Y / _ROOM) * _ROOM if Y.shape[1] == 1 else Y
            unit = unit_of(fitted)
            Y, fitted = Y / unit, fitted / unit
            model = fit_surrogate(X, fitted, config.surrogate, config.members, seed)
        defaults = sum(
            not space.changed(entry.parameters) for entry in history if usable(entry) and not entry.copied
        )
        own = torch.tensor([not e.copied for e, use in zip(history, good, strict=True) if use])
        own = own if own.any() else torch.ones(len(X), dtype=torch.bool)
        return cls(X, Y, own, model, feasibility, defaults, unit)

    @property
    def points(self) -> Tensor:
        """The study's own points [k, d]."""
        return self.X[self.own]

    @property
    def values(self) -> Tensor:
        """Their first values [k]."""
        return self.Y[self.own, 0]

    def top(self, n: int) -> Tensor:
        """The n points with the largest first value, fewer where fewer are known; copied ones among them."""
        return self.X[self.Y[:, 0].topk(min(n, len(self.Y))).indices]

    @property
    def best(self) -> Tensor:
        """The study's own point [d] with the largest first value."""
        return self.points[self.values.topk(1).indices[0]]

    def measured(self, x: Tensor) -> bool:
        """Whether ``x`` [d] is one of the measured points."""
        return bool(((self.points - x).abs() <= 1e-9).all(dim=1).any())

    def gain(self, default: Tensor) -> float:
        """The largest first value less what the model expects at ``default``, at least 0."""
        with torch.no_grad():
            mean = self.model.posterior(default[None]).mean
        return max(0.0, float(self.values.max()) - float(mean[..., 0].mean()))
