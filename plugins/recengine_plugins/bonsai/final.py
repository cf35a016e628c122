"""After the search: which of the incumbent's changes matter, and the whole frontier of sparser points.

The joint posterior of two points tells their difference far better than either value: a change is reverted
while P(f(x) >= f(incumbent) - delta | data) stays at or above ``confidence``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from scipy.stats import norm
from torch import Tensor

from recengine.contracts.tuner import Conclusion, FrontierPoint, Observation, Reversion
from recengine.errors import UsageError
from recengine.tuning import Space
from recengine_plugins.bonsai.config import BonsaiConfig
from recengine_plugins.bonsai.surrogate import fit_surrogate


def recommend(
    space: Space,
    history: Sequence[Observation],
    config: BonsaiConfig,
    *,
    delta: float = 0.0,
    confidence: float = 0.9,
    objective: int = 0,
) -> Conclusion:
    """Prune the incumbent with the joint posterior. delta: loss in objective units that does not matter.

    Raises UsageError without at least two measured feasible points.
    """
    measured = [entry for entry in history if entry.values and entry.feasible]
    if len(measured) < 2:
        raise UsageError(
            "too few measured points to judge changes by", found=len(measured), expected="at least 2"
        )
    X = torch.stack([torch.as_tensor(space.encode(entry.parameters)) for entry in measured])
    y = torch.tensor([[entry.values[objective]] for entry in measured], dtype=torch.float64)
    model = fit_surrogate(X, y, config.surrogate)
    top = int(y.argmax())
    incumbent, default = X[top], torch.as_tensor(space.encode(space.default))
    path = [incumbent]
    current = incumbent
    pruned, still_good = incumbent, True
    while True:
        away = [
            g for g, name in enumerate(space.names) if name in space.changed(space.decode(current.numpy()))
        ]
        if not away:
            break
        trials = torch.stack([_with(current, default, space.groups[g]) for g in away])
        mean, sd = _difference(model, incumbent, trials)
        keep = norm.cdf((delta - mean) / sd)
        best = int(keep.argmax())
        current = trials[best]
        path.append(current)
        still_good = still_good and bool(keep[best] >= confidence)
        if still_good:
            pruned = current
    return Conclusion(
        space.decode(incumbent.numpy()),
        space.decode(pruned.numpy()),
        [_frontier_point(space, model, x, measured, objective) for x in reversed(path)],
        _table(space, model, pruned, default),
    )


def _with(x: Tensor, default: Tensor, columns: Sequence[int]) -> Tensor:
    trial = x.clone()
    trial[list(columns)] = default[list(columns)]
    return trial


def _difference(model: Any, reference: Tensor, trials: Tensor) -> tuple[Any, Any]:
    """Mean and standard deviation of f(reference) - f(trial), from the joint posterior of each pair."""
    pairs = torch.stack([reference.expand_as(trials), trials], dim=1)
    with torch.no_grad():
        posterior = model.posterior(pairs)
        mean = posterior.mean
        covariance = posterior.distribution.covariance_matrix
    if mean.dim() == 4:  # an ensemble: moments of the mixture
        difference = mean[..., 0, 0] - mean[..., 1, 0]
        spread = covariance[..., 0, 0] + covariance[..., 1, 1] - 2 * covariance[..., 0, 1]
        variance = spread.mean(dim=1) + difference.var(dim=1, correction=0)
        return difference.mean(dim=1).numpy(), variance.clamp_min(1e-18).sqrt().numpy()
    difference = mean[:, 0, 0] - mean[:, 1, 0]
    variance = covariance[:, 0, 0] + covariance[:, 1, 1] - 2 * covariance[:, 0, 1]
    return difference.numpy(), variance.clamp_min(1e-18).sqrt().numpy()


def _frontier_point(
    space: Space, model: Any, x: Tensor, measured: Sequence[Observation], objective: int
) -> FrontierPoint:
    point = space.decode(x.numpy())
    with torch.no_grad():
        posterior = model.posterior(x[None])
    mean = posterior.mean
    variance = posterior.variance
    if mean.dim() == 3:
        variance = variance.mean(dim=0) + mean.var(dim=0, correction=0)
        mean = mean.mean(dim=0)
    k = len(space.changed(point))
    observed = [e.values[objective] for e in measured if len(space.changed(e.parameters)) <= k]
    return FrontierPoint(k, point, float(mean), float(variance.sqrt()), max(observed) if observed else None)


def _table(space: Space, model: Any, x: Tensor, default: Tensor) -> list[Reversion]:
    point = space.decode(x.numpy())
    rows = []
    for parameter, columns in zip(space.parameters, space.groups, strict=True):
        if parameter.name not in space.changed(point):
            continue
        mean, sd = _difference(model, x, _with(x, default, columns)[None])
        loss, error = float(mean[0]), 1.96 * float(sd[0])
        rows.append(
            Reversion(
                parameter.name, parameter.default, point[parameter.name], loss, loss - error, loss + error
            )
        )
    return sorted(rows, key=lambda row: -row.loss)
