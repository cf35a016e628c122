"""Groups of evaluated users and of items, for results by group."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recengine.data.interactions import Interactions
from recengine.data.split import EvalTask

HISTORY_BUCKETS = ("0", "1-5", "6-20", "21+")
_EDGES = np.array([1, 6, 21])


@dataclass(frozen=True)
class Groups:
    """codes: int8 [E], position in ``names`` of each evaluated user's group."""

    names: tuple[str, ...]
    codes: NDArray[np.int8]

    def members(self, name: str) -> NDArray[np.int64]:
        """Positions of the group's users in the task."""
        return np.flatnonzero(self.codes == self.names.index(name))


def history_buckets(task: EvalTask) -> Groups:
    """Evaluated users by how many events they may be answered from: 0, 1-5, 6-20, 21 or more."""
    lengths = task.history.lengths()[task.users]
    return Groups(HISTORY_BUCKETS, np.searchsorted(_EDGES, lengths, side="right").astype(np.int8))


def cold_users(task: EvalTask, train: Interactions) -> NDArray[np.bool_]:
    """bool [E]: evaluated users without a training event."""
    return np.asarray(train.lengths()[task.users] == 0)


def cold_items(train: Interactions) -> NDArray[np.bool_]:
    """bool [n_items]: items without a training event."""
    return np.asarray(train.popularity() == 0)


def cold_targets(task: EvalTask, train: Interactions) -> NDArray[np.bool_]:
    """bool like task.targets: targets that no training event names."""
    return cold_items(train)[task.targets]
