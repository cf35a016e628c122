"""The core of BONSAI: put groups of coordinates back to the default while little of the gain is lost.

Starting from proposals x whose best gain is G = max a(x) - b, each round evaluates all single reversions of
all proposals in one batch, loss_j = (G - max(0, a(x with group j at its default) - b))/G, and accepts the
cheapest admissible one (loss per unit of change cost; admissible: loss_j G <= max(rho G, min(delta, .9 G))).
Losses are always relative to the dense gain, so that is what the whole pruning costs at most.

Reversions that cost next to nothing need no round each: the admissible ones, cheapest first, are also tried
as prefixes (the first two together, the first three, ...), all in one batch, and the longest prefix that uses
at most half of the tolerance left is accepted at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

Evaluate = Callable[[Tensor], Tensor]
Pin = Callable[[Tensor, int, frozenset[int]], Tensor | None]
_CHUNK = 1024
_MOST = 0.9  # share of the gain that an absolute tolerance may cost
_STRIDE = 0.5  # share of the tolerance left that one prefix may use
_ROUNDING = 1e-9  # of the gain: what arithmetic loses


@dataclass(frozen=True)
class Reverted:
    """x [d] after pruning; changed: groups still away from the default; gain of the dense proposal;
    value: acquisition at x; admissible: whether its loss lies within the tolerance; losses: relative loss
    if each remaining group were reverted; evaluations: points evaluated for all proposals together."""

    x: Tensor
    changed: tuple[int, ...]
    gain: float
    value: float
    admissible: bool
    losses: dict[int, float] = field(default_factory=dict)
    evaluations: int = 0


class _Path:
    """One proposal on its way to the default."""

    def __init__(self, x: Tensor, value: float, default: Tensor, groups: Sequence[Sequence[int]]) -> None:
        self.x, self.value = x, value
        self._default, self._groups = default, groups
        self.kept: frozenset[int] = frozenset()
        self.kept = frozenset(range(len(groups))) - frozenset(self.away)
        self.losses: dict[int, float] = {}
        self.ended = False

    @property
    def away(self) -> list[int]:
        """Groups that differ from the default and may still go back."""
        return [
            g
            for g, columns in enumerate(self._groups)
            if g not in self.kept and not _at_default(self.x, self._default, columns)
        ]

    def tried(self, x: Tensor, group: int, kept: frozenset[int], pin: Pin | None) -> Tensor | None:
        index = list(self._groups[group])
        trial = x.clone()
        trial[index] = self._default[index]
        return trial if pin is None else pin(trial, group, kept)


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
    keep: int = 1,
    dense_gain: float = 0.0,
) -> list[Reverted]:
    """Prune each of ``x`` [r, d] toward ``default`` [d]; all of them share the gain of the best, or
    ``dense_gain`` where that is larger.

    evaluate: natural-scale acquisition of rows [b, d] -> [b]. groups: columns that are reverted together.
    pin(x, group, pinned): a feasible point with that group and all pinned ones at their default, or None.
    keep: changes that must remain. A proposal that already lies below the tolerance is not pruned.
    """
    weights = list(costs) if costs is not None else [1.0] * len(groups)
    values = evaluate(x).tolist()
    evaluations = len(values)
    gain = max(0.0, dense_gain, max(values) - base)
    paths = [_Path(row.clone(), value, default, groups) for row, value in zip(x, values, strict=True)]
    if gain <= 0.0:
        # nothing to gain: what costs nothing at all still goes back
        gain = _ROUNDING * max(1e-300, abs(max(values)))
        base, rho, delta = max(values) - gain, 0.5, 0.0
    tolerance = max(rho + _ROUNDING, min(delta / gain, _MOST))

    def loss(value: float) -> float:
        return (gain - max(0.0, value - base)) / gain

    def measured(trials: Iterable[Tensor]) -> list[float]:
        nonlocal evaluations
        rows = list(trials)
        evaluations += len(rows)
        return [v for chunk in torch.stack(rows).split(_CHUNK) for v in evaluate(chunk).tolist()]

    for path in paths:
        path.ended = loss(path.value) > tolerance
    while going := [path for path in paths if not path.ended]:
        singles = [
            (path, g, trial)
            for path in going
            for g in path.away
            if (trial := path.tried(path.x, g, path.kept, pin)) is not None
        ]
        for path in going:
            path.losses = {}
        if singles:
            found = measured(trial for *_, trial in singles)
            for (path, g, _), value in zip(singles, found, strict=True):
                path.losses[g] = loss(value)
        at = {(id(path), g): trial for path, g, trial in singles}
        chains: list[tuple[_Path, list[int], list[Tensor]]] = []
        for path in going:
            room = len(path.away) - keep
            order = sorted(
                (g for g, lost in path.losses.items() if lost <= tolerance),
                key=lambda g: (path.losses[g] / weights[g], g),
            )[: max(0, room)]
            if not order:
                path.ended = True
                continue
            trials, kept = [at[id(path), order[0]]], path.kept | {order[0]}
            for g in order[1:]:
                trial = path.tried(trials[-1], g, kept, pin)
                if trial is None:
                    break
                trials.append(trial)
                kept |= {g}
            chains.append((path, order, trials))
        longer = [trial for _, _, trials in chains for trial in trials[1:]]
        found = measured(longer) if longer else []
        for path, order, trials in chains:
            chain, found = found[: len(trials) - 1], found[len(trials) - 1 :]
            now = loss(path.value)
            most = now + _STRIDE * (tolerance - now)
            accepted = max((k for k, v in enumerate(chain, start=1) if loss(v) <= most), default=0)
            first = gain * (1 - path.losses[order[0]]) + base
            path.value = chain[accepted - 1] if accepted else first
            path.x = trials[accepted]
            path.kept |= frozenset(order[: accepted + 1])
    return [
        Reverted(
            path.x,
            tuple(path.away),
            gain,
            path.value,
            loss(path.value) <= tolerance,
            {g: path.losses[g] for g in path.away if g in path.losses},
            evaluations,
        )
        for path in paths
    ]


def _at_default(x: Tensor, default: Tensor, columns: Sequence[int]) -> bool:
    index = list(columns)
    return bool((x[index] - default[index]).abs().max() <= 1e-9)
