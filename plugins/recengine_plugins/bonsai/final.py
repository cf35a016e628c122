"""After the search: which of the incumbent's changes matter, and the whole frontier of sparser points.

The joint posterior of two points tells their difference far better than either value: a change is reverted
while P(f(x) >= f(incumbent) - delta | data) stays at or above ``confidence``. Spending a trial on the
recommendation and concluding again makes sure of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.stats import norm
from torch import Tensor

from recengine.contracts.tuner import Conclusion, FrontierPoint, Observation, Reversion
from recengine.errors import UsageError
from recengine.tuning import Space
from recengine_plugins.bonsai.config import BonsaiConfig
from recengine_plugins.bonsai.knowledge import Knowledge, usable
from recengine_plugins.bonsai.limits import Limits


def recommend(
    space: Space,
    history: Sequence[Observation],
    config: BonsaiConfig,
    *,
    delta: float | None = None,
    confidence: float = 0.9,
    objective: int = 0,
) -> Conclusion:
    """Prune the incumbent (the best measured feasible point) with the joint posterior.

    delta: loss in objective units that does not matter; None: the config's share of what the incumbent
    gains over the default. Points that break a limit or are judged infeasible (probability below
    ``confidence``) are passed over. Raises UsageError without at least two measured feasible points.
    """
    known = Knowledge.of(space, history, config, objectives=(objective,))
    if len(known.X) < 2:
        raise UsageError(
            "too few measured points to judge changes by", found=len(known.X), expected="at least 2"
        )
    measured = [entry for entry in history if entry.feasible and usable(entry)]
    limits, default = Limits(space), torch.as_tensor(space.encode(space.default))
    incumbent = known.top(1)[0]
    if delta is None:
        delta = tolerated(known, default, config.loss_share)
    path, kept = prune_incumbent(space, known, limits, incumbent, delta, confidence)
    pruned = path[kept]
    return Conclusion(
        space.decode(incumbent.numpy()),
        space.decode(pruned.numpy()),
        [_frontier_point(space, known.model, x, measured, objective) for x in reversed(path)],
        _table(space, known.model, pruned, default),
    )


def prune_incumbent(
    space: Space, known: Knowledge, limits: Limits, incumbent: Tensor, delta: float, confidence: float
) -> tuple[list[Tensor], int]:
    """``incumbent`` [d] with one change after the other put back, the likeliest to cost at most ``delta``
    first, down to none; and how many of these go back while that is as likely as ``confidence``."""
    default = torch.as_tensor(space.encode(space.default))
    path, kept, still_good = [incumbent], 0, True
    while trials := _reversions(space, limits, path[-1], default):
        tried = torch.stack(trials)
        mean, sd = _difference(known.model, incumbent, tried)
        good = norm.cdf((delta - mean) / sd)
        with torch.no_grad():
            safe = known.feasibility.log_probability(tried[:, None]).exp().numpy()
        order = np.where(safe >= confidence, good, good - 1.0)
        at = int(order.argmax())
        path.append(trials[at])
        still_good = still_good and bool(order[at] >= confidence)
        if still_good:
            kept = len(path) - 1
    return path, kept


def tolerated(known: Knowledge, default: Tensor, share: float) -> float:
    """``share`` of what the best measured point is expected to gain over ``default``."""
    gain, _ = _difference(known.model, known.top(1)[0], default[None])
    return share * max(0.0, float(gain[0]))


def _reversions(space: Space, limits: Limits, x: Tensor, default: Tensor) -> list[Tensor]:
    """``x`` with each changed parameter at its default, where the limits allow that; what no longer matters
    is at its default, too."""
    made = []
    for name in space.changed(space.decode(x.numpy())):
        trial = _with(x, default, space.groups[space.names.index(name)])
        point = space.decode(trial.numpy())
        if space.allows(point):
            made.append(torch.as_tensor(space.encode(point)))
    if not made and len(limits.A) and space.changed(space.decode(x.numpy())):
        made = [default]  # single steps are barred; the default itself is always allowed
    return made


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
