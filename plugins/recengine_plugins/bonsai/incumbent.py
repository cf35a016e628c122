"""The best known point, and which of its changes can go back.

The joint posterior of two points tells their difference far better than either value: a change goes back
while P(f(x) >= f(best) - delta | data) stays at or above a confidence. The posterior of a model that was
fitted to few points is often sure of the wrong parameters, so measurements have the last word: where putting
back some of these changes was measured and found worse, only the likelier half of them is put back. What is
left after a few such trials are the changes that do something.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import norm
from torch import Tensor

from recengine.tuning import Space
from recengine_plugins.bonsai.knowledge import Knowledge
from recengine_plugins.bonsai.limits import Limits


@dataclass(frozen=True)
class Pruned:
    """path: the incumbent [d], then with one change after the other put back, down to none; kept: how many
    of these steps are taken; known: whether the point there was measured; doubted: whether measurements spoke
    against more steps."""

    path: list[Tensor]
    kept: int
    known: bool
    doubted: bool

    @property
    def x(self) -> Tensor:
        return self.path[self.kept]


def tolerated(known: Knowledge, default: Tensor, share: float) -> float:
    """``share`` of what the best measured point is expected to gain over ``default``."""
    gain, _ = difference(known.model, known.best, default[None])
    return share * max(0.0, float(gain[0]))


def prune_incumbent(
    space: Space, known: Knowledge, limits: Limits, delta: float, confidence: float
) -> Pruned:
    """Start from the measured point with the fewest changes among those within ``delta`` of the best.

    Steps that break a limit or are judged infeasible (probability below ``confidence``) are passed over.
    """
    default = torch.as_tensor(space.encode(space.default))
    best, incumbent = known.best, sparsest(space, known, delta)
    path, kept, still_good = [incumbent], 0, True
    while trials := reversions(space, limits, path[-1], default):
        tried = torch.stack(trials)
        mean, sd = difference(known.model, best, tried)
        good = norm.cdf((delta - mean) / sd)
        with torch.no_grad():
            safe = known.feasibility.log_probability(tried[:, None]).exp().numpy()
        order = np.where(safe >= confidence, good, good - 1.0)
        at = int(order.argmax())
        path.append(trials[at])
        still_good = still_good and bool(order[at] >= confidence)
        if still_good:
            kept = len(path) - 1
    worse = known.points[known.values < known.values.max() - delta]
    judged = kept
    while kept > 0 and _contradicted(worse, incumbent, default, path[kept]):
        kept //= 2
    doubted = kept < judged
    measured = {tuple(row) for row in known.points.tolist()}
    while kept > 0 and tuple(path[kept].tolist()) in measured:
        kept -= 1  # it was worse, or it would be the incumbent
    return Pruned(path, kept, kept == 0, doubted)


def sparsest(space: Space, known: Knowledge, delta: float) -> Tensor:
    """The measured point with the fewest changes among those within ``delta`` of the best."""
    points, value = known.points, known.values
    near = torch.nonzero(value >= value.max() - delta)[:, 0].tolist()
    changes = {i: len(space.changed(space.decode(points[i].numpy()))) for i in near}
    return points[min(near, key=lambda i: (changes[i], -float(value[i])))]


def _contradicted(worse: Tensor, incumbent: Tensor, default: Tensor, x: Tensor) -> bool:
    """Whether one of the points ``worse`` is ``incumbent`` with none but changes put back that ``x`` puts
    back, too."""
    at_default = (worse - default).abs() <= 1e-9
    as_before = (worse - incumbent).abs() <= 1e-9
    moved = (x - incumbent).abs() > 1e-9
    return bool((as_before | (at_default & moved)).all(dim=1).any())


def reversions(space: Space, limits: Limits, x: Tensor, default: Tensor) -> list[Tensor]:
    """``x`` with each changed parameter at its default, where the limits allow that; what no longer matters
    is at its default, too."""
    made = []
    for name in space.changed(space.decode(x.numpy())):
        trial = put_back(x, default, space.groups[space.names.index(name)])
        point = space.decode(trial.numpy())
        if space.allows(point):
            made.append(torch.as_tensor(space.encode(point)))
    if not made and len(limits.A) and space.changed(space.decode(x.numpy())):
        made = [default]  # single steps are barred; the default itself is always allowed
    return made


def put_back(x: Tensor, default: Tensor, columns: tuple[int, ...]) -> Tensor:
    """``x`` with ``columns`` as in ``default``."""
    trial = x.clone()
    trial[list(columns)] = default[list(columns)]
    return trial


def difference(model: Any, reference: Tensor, trials: Tensor) -> tuple[Any, Any]:
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
