"""Negative samplers: items that stand for what a user did not choose.

A sampler draws with a generator that the caller owns; the same generator state gives the same draw. The
log probabilities are those of the proposal, before a user's own items are rejected; uniform samplers give
none (a constant drops out of every loss that corrects for them).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from recengine.data.interactions import Interactions
from recengine.data.ordering import distinct
from recengine.errors import DataError

Ids = NDArray[np.int64]
LogProbability = NDArray[np.float32]
_ROUNDS = 16


class Sampler(Protocol):
    """Draws negatives."""

    def sample(
        self, users: Ids, count: int, generator: np.random.Generator
    ) -> tuple[Ids, LogProbability | None]:
        """int64 [len(users), count], none of which is a training item of its user, and log probabilities."""
        ...

    def sample_shared(self, count: int, generator: np.random.Generator) -> tuple[Ids, LogProbability | None]:
        """int64 [count], one set for everybody (nobody's items are rejected), and log probabilities."""
        ...


@runtime_checkable
class BatchSampler(Protocol):
    """Makes the negatives of a batch of its own positives."""

    def from_batch(self, items: Ids) -> tuple[Ids, LogProbability | None]:
        """int64 [N], one set for all rows, and log probabilities; ``items``: int64, the rows' positives."""
        ...


class UniformSampler:
    """Every item alike; a user's training items are rejected."""

    def __init__(self, train: Interactions) -> None:
        _need_items(train)
        self._n_items = train.n_items
        self._seen = SeenPairs(train)

    def sample(self, users: Ids, count: int, generator: np.random.Generator) -> tuple[Ids, None]:
        """See Sampler."""

        def propose(n: int) -> Ids:
            return generator.integers(0, self._n_items, n)

        return _rejected(users, count, propose, self._seen, generator), None

    def sample_shared(self, count: int, generator: np.random.Generator) -> tuple[Ids, None]:
        """See Sampler."""
        return generator.integers(0, self._n_items, count), None


class PopularitySampler:
    """p(i) proportional to (training events of i) ** power; items never met are never drawn.

    Alias method (Walker 1977, Vose 1991): two random numbers a draw. power = 0.75 is the usual choice of
    word2vec, 1 the empirical distribution.
    """

    def __init__(self, train: Interactions, power: float = 1.0) -> None:
        _need_items(train)
        weights = train.popularity().astype(np.float64)
        weights = np.where(weights > 0, weights, 0.0) ** power * (weights > 0)
        self._table = AliasTable(weights)
        with np.errstate(divide="ignore"):
            self._log_p = np.log(weights / weights.sum()).astype(np.float32)
        self._seen = SeenPairs(train)

    def sample(self, users: Ids, count: int, generator: np.random.Generator) -> tuple[Ids, LogProbability]:
        """See Sampler."""

        def propose(n: int) -> Ids:
            return self._table.draw(n, generator)

        shares = np.exp(self._log_p.astype(np.float64))
        drawn = _rejected(users, count, propose, self._seen, generator, shares)
        return drawn, self._log_p[drawn]

    def sample_shared(self, count: int, generator: np.random.Generator) -> tuple[Ids, LogProbability]:
        """See Sampler."""
        drawn = self._table.draw(count, generator)
        return drawn, self._log_p[drawn]


class AliasTable:
    """Draws i with probability weights[i] / sum(weights) in constant time.

    Built in one sweep over cumulative sums: each light cell (below the mean) is topped up by the heavy cell
    that the sweep has reached; a heavy cell that gave too much is topped up by the next.
    Raises DataError when a weight is negative or not finite, or when all are zero.
    """

    def __init__(self, weights: NDArray[np.float64]) -> None:
        total = float(weights.sum())
        if not (np.isfinite(total) and total > 0 and bool((weights >= 0).all())):
            raise DataError(
                "weights to sample by must be finite, not negative, and not all zero", found=f"sum {total}"
            )
        scaled = weights * (len(weights) / total)
        light, heavy = np.flatnonzero(scaled < 1), np.flatnonzero(scaled >= 1)
        self._keep = np.ones(len(weights))
        self._alias = np.arange(len(weights))
        if not len(light) or not len(heavy):
            return
        taken = np.cumsum(1 - scaled[light])
        given = np.cumsum(scaled[heavy] - 1)
        giver = np.searchsorted(given, taken - (1 - scaled[light]), side="right")
        self._keep[light] = scaled[light]
        self._alias[light] = heavy[np.minimum(giver, len(heavy) - 1)]
        last = np.searchsorted(giver, np.arange(len(heavy)), side="right") - 1
        overdrawn = np.where(last >= 0, taken[np.maximum(last, 0)] - given, 0.0)[:-1]
        self._keep[heavy[:-1]] = 1 - np.clip(overdrawn, 0.0, 1.0)
        self._alias[heavy[:-1]] = heavy[1:]

    def draw(self, n: int, generator: np.random.Generator) -> Ids:
        """int64 [n]."""
        cell = generator.integers(0, len(self._keep), n)
        return np.where(generator.random(n) < self._keep[cell], cell, self._alias[cell])

    def tensors(self) -> tuple[Any, Any]:
        """keep float32 and alias int32 as torch tensors, for ops.draw_negatives."""
        from torch import from_numpy

        return from_numpy(self._keep.astype(np.float32)), from_numpy(self._alias.astype(np.int32))

    def probabilities(self) -> NDArray[np.float64]:
        """What the table draws by, float64 [len(weights)]: the weights over their sum."""
        share = self._keep.copy()
        np.add.at(share, self._alias, 1 - self._keep)
        return share / len(share)


class SeenPairs:
    """Answers whether a user met an item, for many pairs at once."""

    def __init__(self, train: Interactions) -> None:
        self._n_items = train.n_items
        self._keys = distinct(train.user.astype(np.int64) * train.n_items + train.item)

    def __contains__(self, pair: tuple[int, int]) -> bool:
        return bool(self.met(np.array([pair[0]]), np.array([pair[1]]))[0])

    def met(self, users: Ids, items: Ids) -> NDArray[np.bool_]:
        """bool like users and items; False for users below 0."""
        if not len(self._keys):
            return np.zeros(users.shape, bool)
        wanted = users * self._n_items + items
        at = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
        return np.asarray((self._keys[at] == wanted) & (users >= 0))

    def unmet(self, user: int) -> Ids:
        """Items that ``user`` did not meet, ascending."""
        begin, end = np.searchsorted(self._keys, [user * self._n_items, (user + 1) * self._n_items])
        mask = np.ones(self._n_items, bool)
        mask[self._keys[begin:end] - user * self._n_items] = False
        return np.flatnonzero(mask)


def _rejected(
    users: Ids,
    count: int,
    propose: Callable[[int], Ids],
    seen: SeenPairs,
    generator: np.random.Generator,
    shares: NDArray[np.float64] | None = None,
) -> Ids:
    """Proposals, those that their user met drawn again; who met nearly everything gets a draw from the rest,
    uniform or by ``shares`` [n_items], and who met everything that has a share keeps the proposal."""
    rows = np.repeat(np.asarray(users, np.int64), count)
    drawn: Ids = propose(rows.size)
    again = np.flatnonzero(seen.met(rows, drawn))
    for _ in range(_ROUNDS):
        if not again.size:
            break
        drawn[again] = propose(again.size)
        again = again[seen.met(rows[again], drawn[again])]
    for user in np.unique(rows[again]):
        at = again[rows[again] == user]
        rest = seen.unmet(int(user))
        if shares is not None:
            rest = rest[shares[rest] > 0]
        if not rest.size:
            continue
        if shares is None:
            drawn[at] = rest[generator.integers(0, rest.size, at.size)]
        else:
            drawn[at] = generator.choice(rest, at.size, p=shares[rest] / shares[rest].sum())
    return drawn.reshape(len(users), count)


def _need_items(train: Interactions) -> None:
    if train.n_items == 0 or len(train) == 0:
        raise DataError("there is nothing to sample from", found=f"{len(train)} training events")
