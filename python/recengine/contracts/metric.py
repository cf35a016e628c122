"""What a metric is: a formula over the ranked list of each user, kept per user; over the exact place of a
user's only target; or over what all lists together show of the catalogue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from recengine.data.interactions import Interactions


@dataclass(frozen=True)
class RankedLists:
    """What a ranking metric sees of a set of users, computed once for all metrics.

    items: int64 [U, K], the recommended items, best first, -1 where a list is shorter.
    hits: bool [U, K], whether each is a target.
    n_targets: int64 [U].
    popularity: float64 [n_items], how often each item occurs in what may be seen.
    n_items: size of the catalogue.
    targets: int64 [T], distinct target items by user, and indptr: int64 [U + 1], whose they are; None where
        the caller does not say.
    history: everything that may be seen; None where the caller does not say.
    """

    items: NDArray[np.int64]
    hits: NDArray[np.bool_]
    n_targets: NDArray[np.int64]
    popularity: NDArray[np.float64]
    n_items: int
    targets: NDArray[np.int64] | None = None
    indptr: NDArray[np.int64] | None = None
    history: Interactions | None = None


@runtime_checkable
class Metric(Protocol):
    """A ranking metric at a cut-off. ``definition`` is the one-line formula printed with the protocol."""

    name: str
    definition: str
    higher_is_better: bool

    def per_user(self, lists: RankedLists, k: int) -> NDArray[np.float64]:
        """float64 [U]; NaN where the metric is not defined for a user."""
        ...


@runtime_checkable
class PlaceMetric(Protocol):
    """A metric of the exact place of a user's only target among everything that was ranked: no cut-off.

    The place is counted, no list is made. It is defined where every user has one target.
    """

    name: str
    definition: str
    higher_is_better: bool

    def of_places(self, places: NDArray[np.int64], n_ranked: NDArray[np.int64]) -> NDArray[np.float64]:
        """float64 [U]. places: int64 [U], 1 is first, 0 where the target is never retrieved (its score is NaN
        or -inf). n_ranked: int64 [U], how many items were ranked, the target among them."""
        ...


@runtime_checkable
class CatalogueMetric(Protocol):
    """A metric of all lists together. It sees counts, which add up over shards of the users."""

    name: str
    definition: str
    higher_is_better: bool

    def over_catalogue(self, exposure: NDArray[np.int64]) -> float:
        """exposure: int64 [n_items], how many users have the item among their first k."""
        ...
