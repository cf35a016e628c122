"""The design before the first model: the default, then the default with blocks of its parameters moved.

Every parameter is moved in ``ROUNDS`` of the points, each time beside others, drawn at random. Where most
parameters do nothing, many blocks leave the value as it was, which clears all of their parameters at once;
with k that matter, a point in which a share p of all is moved tells most while (1 - p)^k is near a half
(group testing). A dense design moves everything in every point and tells little about any one parameter.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from recengine.tuning import Parameter, Space
from recengine_plugins.bonsai.limits import Limits

Array = NDArray[np.float64]
ROUNDS = 2
FROM = 10  # parameters from which on blocks are moved


def blocks(space: Space, limits: Limits, n: int, seed: int, at: int, dense: Array) -> Array | None:
    """Row ``at`` (1 <= at < n) of a design of n points: the default row with its block moved toward the row
    ``dense``; None where its block is empty."""
    orders = [np.random.default_rng([seed, r]).permutation(len(space.groups)) for r in range(ROUNDS)]
    moved = {int(group) for order in orders for group in np.array_split(order, n - 1)[at - 1]}
    if not moved:
        return None
    generator = np.random.default_rng([seed, ROUNDS, at])
    row = space.encode(space.default)
    for group in sorted(moved):
        columns = list(space.groups[group])
        row[columns] = moved_to(space.parameters[group], dense[columns], generator)
    if not space.allows(space.decode(row)):
        # where the default lies on a limit, half of the directions are barred
        bound = np.flatnonzero(np.abs(limits.A).any(axis=0))
        row[bound] = np.clip(2 * limits.default[bound] - row[bound], 0, 1)
    return limits.admit(torch.as_tensor(row)).numpy()


def moved_to(parameter: Parameter, toward: Array, generator: np.random.Generator) -> Array:
    """A number as in the dense row; a choice that would stay as it is, drawn among the others."""
    others = [choice for choice in parameter.choices if choice != parameter.default]
    if others and parameter.decode(toward) == parameter.default:
        return parameter.encode(others[int(generator.integers(len(others)))])
    return toward
