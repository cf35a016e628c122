"""The dense step: where the acquisition is largest, with no notion of a default.

Starts are drawn from a Sobol sequence and from sparse changes of the default and of the best points known.
Integers and choices are relaxed for the gradient, rounded, improved a step at a time, and held while the
other columns are optimised once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from botorch.optim import optimize_acqf
from botorch.optim.initializers import gen_batch_initial_conditions
from torch import Tensor

from recengine.tuning import Space
from recengine_plugins.bonsai.config import BonsaiConfig
from recengine_plugins.bonsai.limits import Limits

_MOST_CHANGES = 6  # of a sparse start
_ROUNDS = 8  # of steps over integers and choices


def dense_step(
    acquisition: Any,
    space: Space,
    limits: Limits,
    config: BonsaiConfig,
    anchors: Tensor,
    box: Tensor,
    seed: int,
) -> Tensor:
    """Points of the space [r, d] within ``box`` [2, d] where ``acquisition`` is large, the best first.

    anchors [m, d]: points from which sparse starts are drawn.
    """
    starts = _starts(acquisition, space, limits, config, anchors, box, seed)
    x = _climb(acquisition, space, limits, starts, box, {})
    x = torch.stack([limits.admit(row) for row in x])
    stiff = [c for p, g in zip(space.parameters, space.groups, strict=True) if p.kind != "float" for c in g]
    if stiff:
        x = _step_by_step(acquisition, space, limits, x)
        if len(stiff) < space.width:
            x = _climb(acquisition, space, limits, x, box, {c: x[:, c].clone() for c in stiff})
            x = torch.stack([limits.admit(row) for row in x])
    order = acquisition.plain(x).argsort(descending=True)
    return x[order]


def within_reach(space: Space, centres: Tensor, reach: float) -> Tensor:
    """The box [2, d] of what lies within ``reach`` of a range of some of ``centres`` [m, d], or between them;
    choices are free.

    Few points leave a surrogate unsure wherever nothing was measured, most of all at the ends of the ranges:
    without a bound, that is where the first steps go.
    """
    free = [c for p, g in zip(space.parameters, space.groups, strict=True) if p.kind == "choice" for c in g]
    box = torch.stack([centres.amin(dim=0) - reach, centres.amax(dim=0) + reach]).clamp(0, 1)
    box[0, free], box[1, free] = 0.0, 1.0
    return box


def refine(
    acquisition: Any, space: Space, limits: Limits, x: Tensor, groups: Sequence[int], box: Tensor
) -> Tensor:
    """``x`` [d] after a local search over the real-valued ones of ``groups`` within ``box``; never worse."""
    free = {c for g in groups if space.parameters[g].kind == "float" for c in space.groups[g]}
    if not free:
        return x
    held = {c: x[c : c + 1].clone() for c in range(len(x)) if c not in free}
    moved = limits.admit(_climb(acquisition, space, limits, x[None], box, held)[0])
    before, after = acquisition.plain(torch.stack([x, moved]))
    return moved if after > before else x


def _starts(
    acquisition: Any,
    space: Space,
    limits: Limits,
    config: BonsaiConfig,
    anchors: Tensor,
    box: Tensor,
    seed: int,
) -> Tensor:
    sparse = (config.restarts + 1) // 2
    pool = sparse_changes(anchors, space, config.raw_samples // 2, np.random.default_rng([seed, 1]))
    pool = torch.cat([anchors, pool]).clamp(box[0], box[1])
    pool = torch.stack([x for x in pool if limits.holds(x)])
    near = pool[acquisition.plain(pool).topk(min(sparse, len(pool))).indices]
    if config.restarts == len(near):
        return near
    wide = gen_batch_initial_conditions(
        acquisition,
        box,
        q=1,
        num_restarts=config.restarts - len(near),
        raw_samples=config.raw_samples,
        inequality_constraints=limits.for_botorch(),
        options={"seed": seed},
    )
    return torch.cat([near, wide[:, 0].detach()])


def sparse_changes(anchors: Tensor, space: Space, n: int, generator: np.random.Generator) -> Tensor:
    """n points [n, d], each an anchor with a few of its parameters drawn anew (or, every other one, moved
    a little)."""
    made = anchors[torch.as_tensor(generator.integers(len(anchors), size=n))].clone()
    groups = len(space.groups)
    for at, row in enumerate(made):
        k = int(generator.integers(1, min(_MOST_CHANGES, groups) + 1))
        for g in generator.choice(groups, size=k, replace=False):
            columns = list(space.groups[g])
            drawn = torch.as_tensor(generator.random(len(columns)))
            small = at % 2 == 1 and space.parameters[g].kind != "choice"
            row[columns] = (row[columns] + 0.3 * (drawn - 0.5)).clamp(0, 1) if small else drawn
    return made


def _climb(
    acquisition: Any, space: Space, limits: Limits, starts: Tensor, box: Tensor, held: dict[int, Tensor]
) -> Tensor:
    """Local optima [r, d] of the relaxed acquisition, columns ``held`` fixed."""
    # what the limits moved may lie outside
    ends = torch.stack([box[0].minimum(starts.amin(dim=0)), box[1].maximum(starts.amax(dim=0))])
    x, _ = optimize_acqf(
        acquisition,
        ends,
        q=1,
        num_restarts=len(starts),
        batch_initial_conditions=starts[:, None],
        fixed_features=held or None,
        inequality_constraints=limits.for_botorch(),
        # constrained problems are solved one start at a time: together their solver is cubic in all columns
        options={"maxiter": 200, "batch_limit": len(starts), "max_optimization_problem_aggregation_size": 1},
        return_best_only=False,
        retry_on_optimization_warning=False,
    )
    return x[:, 0].detach()


def _step_by_step(acquisition: Any, space: Space, limits: Limits, x: Tensor) -> Tensor:
    """Best improvement over single steps of integers and single choices, all points in one batch a round."""
    x = x.clone()
    value = acquisition.plain(x)
    going = list(range(len(x)))
    for _ in range(_ROUNDS):
        moves = [(i, y) for i in going for y in _neighbours(space, limits, x[i])]
        if not moves:
            break
        found = acquisition.plain(torch.stack([y for _, y in moves]))
        going = []
        for at, (i, y) in enumerate(moves):
            if found[at] > value[i]:
                x[i], value[i] = y, found[at]
                going.append(i)
        going = sorted(set(going))
    return x


def _neighbours(space: Space, limits: Limits, x: Tensor) -> list[Tensor]:
    point = space.decode(x.numpy())
    made = []
    for parameter in space.parameters:
        if parameter.kind == "float":
            continue
        here = point[parameter.name]
        if parameter.kind == "int":
            values = [v for v in (here - 1, here + 1) if parameter.contains(v)]
        else:
            values = [
                v
                for v in parameter.choices
                if parameter.encode(v).tolist() != parameter.encode(here).tolist()
            ]
        for v in values:
            other = space.settle({**point, parameter.name: v})
            if space.allows(other):
                made.append(torch.as_tensor(space.encode(other)))
    return made
