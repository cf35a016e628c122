"""Whether the order inside ties can be predicted: the share of ascending steps against one half.

A step is a pair of neighbouring events of one user with equal times. If the order inside ties means
nothing, half of the steps ascend in the original item id, and half in the row number of the file. The test
is the exact binomial one, two-sided; neighbouring steps of a random order are negatively correlated, which
makes it cautious.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from recengine.data.interactions import Interactions
from recengine.data.ordering import tie_mask
from recengine.data.split import EvalTask
from recengine.data.vocabulary import Vocabulary

ALPHA = 1e-6  # an audit runs before every fit: a false alarm must be out of the question
SMALLEST_EFFECT = 0.02  # a departure from one half that no ranking metric would notice is none


@dataclass(frozen=True)
class Steps:
    """How many steps there are, how many ascend, and the exact two-sided p of that under one half."""

    steps: int
    ascending: int
    p: float

    @property
    def share(self) -> float:
        """Share of ascending steps; 0.5 where there is none."""
        return self.ascending / self.steps if self.steps else 0.5

    @property
    def predictable(self) -> bool:
        """Whether the order is predictable: significant and large enough to matter."""
        return self.p < ALPHA and abs(self.share - 0.5) >= SMALLEST_EFFECT

    def evidence(self) -> dict[str, float]:
        """For a finding."""
        return {**asdict(self), "share": self.share}


@dataclass(frozen=True)
class TieReport:
    """Steps inside ties. tied_share: of all events, those at the time of
    the event before.
    file_ids: ids along the order of the file; used_ids, used_rows: ids and row numbers along the order that
    the store uses."""

    tied_share: float
    file_ids: Steps
    used_ids: Steps
    used_rows: Steps


def tie_report(interactions: Interactions) -> TieReport:
    """Measure the steps inside ties of a store. Without times every step of a user counts as tied."""
    tied = tie_mask(interactions.user, interactions.time)
    ranks = id_ranks(interactions.items)
    after = np.flatnonzero(tied)
    return TieReport(
        after.size / len(interactions) if len(interactions) else 0.0,
        _file_steps(interactions, tied, ranks),
        count_steps(ranks[interactions.item[after - 1]], ranks[interactions.item[after]]),
        count_steps(interactions.source[after - 1], interactions.source[after]),
    )


def held_out_steps(task: EvalTask) -> tuple[Steps, Steps]:
    """Steps from the last event that may be seen into the first target, where both have one time (all of
    them without times): on ids and on row numbers."""
    history = task.history
    answered = (history.lengths()[task.users] > 0) & (np.diff(task.indptr) > 0)
    last = history.indptr[1:][task.users[answered]] - 1
    first = task.indptr[:-1][answered]
    if history.time is not None and task.times is not None:
        tied = history.time[last] == task.times[first]
        last, first = last[tied], first[tied]
    ranks = id_ranks(history.items)
    ids = count_steps(ranks[history.item[last]], ranks[task.targets[first]])
    if task.sources is None:
        return ids, Steps(0, 0, 1.0)
    return ids, count_steps(history.source[last], task.sources[first])


def count_steps(before: NDArray[np.int64], after: NDArray[np.int64]) -> Steps:
    """Count ascending steps; steps between equal values say nothing and are left out."""
    ascending = int((after > before).sum())
    steps = ascending + int((after < before).sum())
    return Steps(steps, ascending, two_sided_p(ascending, steps))


def two_sided_p(ascending: int, steps: int) -> float:
    """Exact P of a count as far from steps / 2 as this one, under Binomial(steps, 1/2)."""
    if steps == 0:
        return 1.0
    from scipy.special import bdtr

    extreme = min(ascending, steps - ascending)
    return float(min(1.0, 2.0 * bdtr(extreme, steps, 0.5)))


def id_ranks(vocabulary: Vocabulary) -> NDArray[np.int64]:
    """Rank of each item by original id: text that is all digits in numeric order."""
    n = len(vocabulary)
    if not vocabulary.is_text or not n or not bool(np.char.isdigit(vocabulary.tokens).all()):
        return np.arange(n, dtype=np.int64)
    lengths = np.char.str_len(vocabulary.tokens)
    if int(lengths.max()) > 18:
        return np.arange(n, dtype=np.int64)
    ranks = np.empty(n, np.int64)
    ranks[np.argsort(vocabulary.tokens.astype(np.int64), kind="stable")] = np.arange(n)
    return ranks


def _file_steps(interactions: Interactions, tied: NDArray[np.bool_], ranks: NDArray[np.int64]) -> Steps:
    in_run = tied.copy()
    in_run[:-1] |= tied[1:]
    at = np.flatnonzero(in_run)
    run = np.cumsum(~tied[at])
    by_row = np.lexsort((interactions.source[at], run))
    item = ranks[interactions.item[at[by_row]]]
    within = run[1:] == run[:-1]
    return count_steps(item[:-1][within], item[1:][within])
