"""Where the model sees nothing left to gain.

The acquisition still has a best point then, but what it changes is chance: a thousandth of what was gained
is found with any parameter. What the best point changes is placed anew instead, and nothing else is changed.
A model of few points is easily too sure of itself, though: what the design saw do nothing at the default may
matter at the best point, and while the model expects nothing there, no proposal would show it. So a few idle
parameters at a time are moved away from the best point, those first that were moved least.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from recengine.tuning import Space
from recengine_plugins.bonsai.acquisition import Acquisition
from recengine_plugins.bonsai.dense import refine
from recengine_plugins.bonsai.design import moved_to
from recengine_plugins.bonsai.knowledge import Knowledge
from recengine_plugins.bonsai.limits import Limits

AT_ONCE = 3  # idle parameters that one point moves


def polished(
    acquisition: Acquisition, space: Space, limits: Limits, incumbent: Tensor, elsewhere: Tensor, box: Tensor
) -> Tensor:
    """The best place for what ``incumbent`` [d] changes, found from there and from where the rows of
    ``elsewhere`` [m, d] have these parameters, within ``box`` [2, d]."""
    groups = [space.names.index(name) for name in space.changed(space.decode(incumbent.numpy()))]
    columns = [c for g in groups for c in space.groups[g]]
    starts = incumbent.repeat(len(elsewhere) + 1, 1)
    starts[1:, columns] = elsewhere[:, columns]
    placed = torch.stack(
        [refine(acquisition, space, limits, x, groups, box) for x in starts if limits.holds(x)]
    )
    return placed[int(acquisition.plain(placed).argmax())]


def widened(space: Space, limits: Limits, known: Knowledge, incumbent: Tensor, seed: Sequence[int]) -> Tensor:
    """``incumbent`` [d] with ``AT_ONCE`` of the parameters that it leaves at their default drawn anew."""
    generator = np.random.default_rng(list(seed))
    default = torch.as_tensor(space.encode(space.default))
    away = (known.X - default).abs() > 1e-9
    times = [int(away[:, list(columns)].any(dim=1).sum()) for columns in space.groups]
    changed = space.changed(space.decode(incumbent.numpy()))
    idle = [g for g, name in enumerate(space.names) if name not in changed]
    order = sorted(generator.permutation(idle).tolist(), key=lambda g: times[g])
    row = incumbent.numpy().copy()
    for g in order[:AT_ONCE]:
        columns = list(space.groups[g])
        row[columns] = moved_to(space.parameters[g], generator.random(len(columns)), generator)
    return limits.admit(torch.as_tensor(space.encode(space.decode(row))))
