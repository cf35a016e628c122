"""Splits: what may be learned from, and what is asked afterwards."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from recengine.data.interactions import Histories, Interactions


@dataclass(frozen=True)
class EvalTask:
    """One question set: for each user of ``users``, the targets, and the history that may be seen.

    users: int64 [E], rows of the vocabulary. targets: int64, CSR by evaluated user with ``indptr`` [E + 1].
    history: Interactions over the same vocabularies; everything that may be seen when answering
    (also what is masked as seen).
    times: int64 like targets, when each was met, or None. sources: int64 like targets, the row of the file
    that each came from, or None.
    """

    name: str
    users: NDArray[np.int64]
    indptr: NDArray[np.int64]
    targets: NDArray[np.int64]
    history: Interactions
    times: NDArray[np.int64] | None = None
    sources: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return int(self.users.shape[0])

    def __repr__(self) -> str:
        return f"EvalTask({self.name!r}, {len(self):,} users asked, {self.targets.size:,} targets)"

    def histories(self, max_length: int | None = None) -> Histories:
        """Packed histories of the evaluated users, in their order."""
        return self.history.history(self.users, max_length=max_length)

    def target_users(self) -> NDArray[np.int64]:
        """The user of each target, int64 like targets."""
        return np.repeat(self.users, np.diff(self.indptr))


@dataclass(frozen=True)
class Split:
    """train and the tasks; ``description`` goes into the protocol hash."""

    train: Interactions
    validation: EvalTask | None
    test: EvalTask
    description: dict[str, object] = field(repr=False)
