"""A small world with a known pattern: taste groups that popularity cannot see."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recengine.data import EvalTask, Interactions, Split


@dataclass(frozen=True)
class World:
    """split: leave-two-out. group_of_user, group_of_item: int64, the truth. Every item is as popular as any
    other (up to chance), so only who knows the groups can do better than ``chance`` at hit rate @ ``k``."""

    split: Split
    group_of_user: NDArray[np.int64]
    group_of_item: NDArray[np.int64]
    k: int
    chance: float


def planted(
    seed: int = 0, *, groups: int = 4, users_per_group: int = 30, items_per_group: int = 12, events: int = 8
) -> World:
    """Users of a group take ``events`` different items of their group's block, in random order.

    The last is the test target, the one before the validation target. Whoever knows the groups and masks
    what was seen ranks the target among items_per_group - events + 1 items.
    """
    rng = np.random.default_rng(seed)
    n_users, n_items = groups * users_per_group, groups * items_per_group
    taken = np.stack(
        [
            rng.permutation(items_per_group)[:events] + items_per_group * (user % groups)
            for user in range(n_users)
        ]
    )
    full = _interactions(taken, n_items, times=0)
    at = np.tile(np.arange(events), n_users)
    train, seen = full.select(at < events - 2), full.select(at < events - 1)
    users, indptr = np.arange(n_users, dtype=np.int64), np.arange(n_users + 1, dtype=np.int64)
    validation = EvalTask("validation", users, indptr, taken[:, -2].astype(np.int64), train)
    test = EvalTask("test", users, indptr, taken[:, -1].astype(np.int64), seen)
    k = items_per_group - events + 1
    return World(
        Split(train, validation, test, {"strategy": "leave_two_out", "world": "planted", "seed": seed}),
        users % groups,
        np.arange(n_items, dtype=np.int64) // items_per_group,
        k,
        k / (n_items - events + 1),
    )


def _interactions(taken: NDArray[np.int64], n_items: int, times: int) -> Interactions:
    """Users 0.. take the items of their row one after another; every item occurs in the vocabulary."""
    from recengine.data import Vocabulary

    n_users, events = taken.shape
    return Interactions.from_arrays(
        np.repeat(np.arange(n_users), events),
        taken.reshape(-1),
        times + np.tile(np.arange(events, dtype=np.int64), n_users),
        user_vocabulary=Vocabulary(np.arange(n_users)),
        item_vocabulary=Vocabulary(np.arange(n_items)),
    )
