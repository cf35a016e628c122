"""Which events stay: first meetings, k-core."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recengine.data.interactions import Interactions
from recengine.data.ordering import counting_order
from recengine.errors import DataError


def is_first(interactions: Interactions) -> NDArray[np.bool_]:
    """bool [n]: whether an event is the first of its user with its item, in the order of the store."""
    user, item = interactions.user, interactions.item
    by_item = counting_order(None, item, int(item.max(initial=0)))
    by_pair = counting_order(by_item, user, int(user.max(initial=0)))
    user, item = user[by_pair], item[by_pair]
    first = np.ones(len(interactions), bool)
    first[by_pair[1:]] = (user[1:] != user[:-1]) | (item[1:] != item[:-1])
    return first


def first_meetings(interactions: Interactions) -> Interactions:
    """Only the first event of each user-item pair."""
    first = is_first(interactions)
    return interactions if bool(first.all()) else interactions.select(first)


def k_core(interactions: Interactions, k: int) -> Interactions:
    """Drop users and items with fewer than ``k`` events until every one left has ``k``; vocabularies
    shrink with them. Raises DataError when nothing is left."""
    kept = np.ones(len(interactions), bool)
    while True:
        per_user = np.bincount(interactions.user[kept], minlength=interactions.n_users)
        per_item = np.bincount(interactions.item[kept], minlength=interactions.n_items)
        stays = kept & (per_user >= k)[interactions.user] & (per_item >= k)[interactions.item]
        if int(stays.sum()) == int(kept.sum()):
            break
        kept = stays
    if not kept.any():
        raise DataError(
            f"no interactions are left after the {k}-core filter",
            found=f"{len(interactions)} events before it",
            fix="use a smaller k_core",
        )
    return (interactions if bool(kept.all()) else interactions.select(kept)).compact()


def at_least(interactions: Interactions, weight: float) -> Interactions:
    """Events whose weight is ``weight`` or more (ratings as positives); vocabularies shrink with them.
    Raises DataError without weights or when nothing is left."""
    if interactions.weight is None:
        raise DataError("a smallest weight was asked for, but there are no weights", fix="name the column")
    kept = interactions.weight >= weight
    if not kept.any():
        raise DataError(
            "no interactions are left after the weight filter",
            found=f"largest weight {float(interactions.weight.max(initial=0)):g}",
            expected=f"some of at least {weight:g}",
            fix="lower the bound",
        )
    return interactions.select(kept).compact()
