"""After the search: which of the incumbent's changes matter, and the whole frontier of sparser points.

Spending a trial on the recommendation and concluding again makes sure of it
(recengine_plugins.bonsai.incumbent).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recengine.contracts.tuner import Conclusion, FrontierPoint, Observation, Reversion
from recengine.errors import UsageError
from recengine.tuning import Parameter, Space
from recengine_plugins.bonsai.config import BonsaiConfig
from recengine_plugins.bonsai.improvement import predictor
from recengine_plugins.bonsai.incumbent import difference, prune_incumbent, put_back, tolerated
from recengine_plugins.bonsai.knowledge import Knowledge, usable
from recengine_plugins.bonsai.limits import Limits

_GRID = 17  # places on a parameter's axis at which its importance is judged


def recommend(
    space: Space,
    history: Sequence[Observation],
    config: BonsaiConfig,
    *,
    delta: float | None = None,
    confidence: float = 0.9,
    objective: int = 0,
    seed: int = 0,
) -> Conclusion:
    """Prune the incumbent (the best feasible point that the study itself measured) with the joint posterior.

    delta: loss in objective units that does not matter; None: the config's share of what the incumbent
    gains over the default. Points that break a limit or are judged infeasible (probability below
    ``confidence``) are passed over. Raises UsageError without at least two measured feasible points.
    """
    known = Knowledge.of(space, history, config, objectives=(objective,), seed=seed)
    if len(known.X) < 2:
        raise UsageError(
            "too few measured points to judge changes by", found=len(known.X), expected="at least 2"
        )
    measured = [entry for entry in history if entry.feasible and usable(entry)]
    measured = [entry for entry in measured if not entry.copied]
    if not measured:
        raise UsageError(
            "every measured point is copied from another study", where="conclusion", fix="run some trials"
        )
    default = torch.as_tensor(space.encode(space.default))
    unit = float(known.unit[0])
    within = tolerated(known, default, config.loss_share) if delta is None else delta / unit
    pruned = prune_incumbent(space, known, Limits(space), within, confidence)
    return Conclusion(
        space.decode(known.best.numpy()),
        space.decode(pruned.x.numpy()),
        [_frontier_point(space, known.model, x, measured, objective, unit) for x in reversed(pruned.path)],
        _table(space, known.model, pruned.x, default, unit),
    )


def _frontier_point(
    space: Space, model: Any, x: Tensor, measured: Sequence[Observation], objective: int, unit: float
) -> FrontierPoint:
    point = space.decode(x.numpy())
    with torch.no_grad():
        means, deviations = predictor(model)(x[None])
    mean = float(means.mean())
    sd = float((deviations.square().mean() + means.var(correction=0)).sqrt())
    k = len(space.changed(point))
    observed = [e.values[objective] for e in measured if len(space.changed(e.parameters)) <= k]
    return FrontierPoint(k, point, mean * unit, sd * unit, max(observed) if observed else None)


def _table(space: Space, model: Any, x: Tensor, default: Tensor, unit: float) -> list[Reversion]:
    point = space.decode(x.numpy())
    shares = importance(space, model, x)
    rows = []
    for parameter, columns in zip(space.parameters, space.groups, strict=True):
        name = parameter.name
        if name not in space.changed(point):
            continue
        mean, sd = difference(model, x, put_back(x, default, columns)[None])
        loss, error = float(mean[0]) * unit, 1.96 * float(sd[0]) * unit
        ends = (loss - error, loss + error)
        rows.append(Reversion(name, parameter.default, point[name], loss, *ends, shares[name]))
    return sorted(rows, key=lambda row: -row.loss)


def importance(space: Space, model: Any, x: Tensor) -> dict[str, float]:
    """For each parameter, how much the predicted value varies while it alone moves over its range and the
    others are as in ``x``: standard deviations over equally spaced places, as shares of their sum."""
    rows, sizes = [], []
    for parameter, columns in zip(space.parameters, space.groups, strict=True):
        places = _places(parameter)
        block = x.repeat(len(places), 1)
        block[:, list(columns)] = torch.as_tensor(np.stack(places))
        rows.append(block)
        sizes.append(len(places))
    with torch.no_grad():
        predicted = predictor(model)(torch.cat(rows))[0].mean(dim=0)
    spread = [float(part.std(correction=0)) for part in predicted.split(sizes)]
    whole = sum(spread) or 1.0
    return {name: one / whole for name, one in zip(space.names, spread, strict=True)}


def _places(parameter: Parameter) -> list[Any]:
    if parameter.kind == "choice":
        return [parameter.encode(value) for value in parameter.choices]
    return [parameter.encode(parameter.decode(np.array([u]))) for u in np.linspace(0, 1, _GRID)]
