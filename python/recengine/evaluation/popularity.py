"""Items grouped by how often they occur."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

DECILES = 10


def popularity_deciles(popularity: NDArray[np.generic]) -> NDArray[np.int64]:
    """Ten groups of equal number of items by popularity (equal counts by item row): 0 the rarest tenth, 9
    the most popular. int64 [n_items]."""
    n = popularity.shape[0]
    deciles = np.empty(n, np.int64)
    deciles[np.argsort(popularity, kind="stable")] = np.arange(n) * DECILES // max(n, 1)
    return deciles
