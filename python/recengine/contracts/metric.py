"""What a metric is: a formula over the ranked lists of one user at a time, kept per user."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class RankedLists:
    """What a ranking metric sees of a set of users, computed once for all metrics.

    items: int64 [U, K], the recommended items, best first, -1 where a list is shorter.
    hits: bool [U, K], whether each is a target.
    n_targets: int64 [U].
    popularity: float64 [n_items], training counts.
    n_items: size of the catalogue.
    """

    items: NDArray[np.int64]
    hits: NDArray[np.bool_]
    n_targets: NDArray[np.int64]
    popularity: NDArray[np.float64]
    n_items: int


class Metric(Protocol):
    """A ranking metric at a cut-off. ``definition`` is the one-line formula printed with the protocol."""

    name: str
    definition: str
    higher_is_better: bool

    def per_user(self, lists: RankedLists, k: int) -> NDArray[np.float64]:
        """float64 [U]; NaN where the metric is not defined for a user."""
        ...
