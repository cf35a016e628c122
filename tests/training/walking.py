"""A small world that a sequence model can learn."""

from __future__ import annotations

import numpy as np

from recengine.data import Interactions


def walks(n_users: int = 60, n_items: int = 40, length: int = 12, seed: int = 0) -> Interactions:
    """Users walk along a ring of items, one step at a time, from a random start; every tenth step jumps."""
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, n_items, n_users)
    jumps = rng.integers(0, n_items, (n_users, length)) * (rng.random((n_users, length)) < 0.1)
    items = (starts[:, None] + np.arange(length) + np.cumsum(jumps, axis=1)) % n_items
    users = np.repeat(np.arange(n_users), length)
    return Interactions.from_arrays(users, 100 + items.ravel(), np.tile(np.arange(length), n_users))
