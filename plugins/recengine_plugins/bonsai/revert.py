"""The core of BONSAI: put groups of coordinates back to the default while little of the gain is lost.

Starting from a proposal x with gain G = max(0, a(x) - b), each round evaluates all single reversions in one
batch, loss_j = (G - max(0, a(x with group j at its default) - b))/G, and accepts the cheapest reversion
(loss per unit of change cost) while loss_j <= rho or loss_j G <= delta. Losses are always relative to the
dense gain, so the whole pruning costs at most max(rho G, delta). At least one change remains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

Evaluate = Callable[[Tensor], Tensor]
Pin = Callable[[Tensor, int, frozenset[int]], Tensor | None]
_CHUNK = 1024


@dataclass(frozen=True)
class Reverted:
    """x [d] after pruning; changed: groups still away from the default; gain of the dense proposal;
    losses: relative loss if each remaining group were reverted; evaluations: points evaluated."""

    x: Tensor
    changed: tuple[int, ...]
    gain: float
    losses: dict[int, float] = field(default_factory=dict)
    evaluations: int = 0


def revert(
    evaluate: Evaluate,
    x: Tensor,
    default: Tensor,
    groups: Sequence[Sequence[int]],
    *,
    base: float,
    rho: float,
    delta: float = 0.0,
    costs: Sequence[float] | None = None,
    pin: Pin | None = None,
) -> Reverted:
    """Prune ``x`` [d] toward ``default`` [d].

    evaluate: natural-scale acquisition of rows [b, d] -> [b]. groups: columns that are reverted together.
    pin(x, group, pinned): a feasible point with that group and all pinned ones at their default, or None.
    """
    current = x.clone()
    weights = list(costs) if costs is not None else [1.0] * len(groups)
    away = [g for g, columns in enumerate(groups) if not _at_default(current, default, columns)]
    kept = frozenset(range(len(groups))) - frozenset(away)
    gain = max(0.0, float(evaluate(current[None])[0]) - base)
    if gain <= 0.0:
        return Reverted(current, tuple(away), gain, {}, 1)
    evaluations, losses = 1, dict.fromkeys(away, float("nan"))
    while away:
        trials, candidates = [], []
        for g in away:
            trial = _reverted(current, default, groups, g, kept, pin)
            if trial is not None:
                trials.append(trial)
                candidates.append(g)
        if not trials:
            break
        values = torch.cat([evaluate(chunk) for chunk in torch.stack(trials).split(_CHUNK)])
        evaluations += len(trials)
        loss = [(gain - max(0.0, float(value) - base)) / gain for value in values]
        losses = dict(zip(candidates, loss, strict=True))
        best = min(range(len(loss)), key=lambda i: (loss[i] / weights[candidates[i]], candidates[i]))
        if len(away) == 1 or not (loss[best] <= rho or loss[best] * gain <= delta):
            break
        current = trials[best]
        kept |= {candidates[best]}
        away = [
            g
            for g, columns in enumerate(groups)
            if g not in kept and not _at_default(current, default, columns)
        ]
    return Reverted(current, tuple(away), gain, {g: losses[g] for g in away if g in losses}, evaluations)


def _at_default(x: Tensor, default: Tensor, columns: Sequence[int]) -> bool:
    index = list(columns)
    return bool((x[index] - default[index]).abs().max() <= 1e-9)


def _reverted(
    x: Tensor,
    default: Tensor,
    groups: Sequence[Sequence[int]],
    group: int,
    kept: frozenset[int],
    pin: Pin | None,
) -> Tensor | None:
    index = list(groups[group])
    trial = x.clone()
    trial[index] = default[index]
    return trial if pin is None else pin(trial, group, kept)
