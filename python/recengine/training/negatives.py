"""The engine's negative samplers: native draws, counted by (seed, row, slot).

Each takes one number from the batch's generator as its seed, so a batch's negatives are a function of (seed,
epoch, step), at any number of threads. log q is that of the proposal, before a user's own items are rejected;
None stands for a uniform one.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recengine.data import Interactions
from recengine.data.matrix import pair_matrix
from recengine.data.sampling import AliasTable
from recengine.errors import DataError, UsageError
from recengine.ops.sampling import draw_negatives

Ids = NDArray[np.int64]
LogProbability = NDArray[np.float32]
Weights = NDArray[np.float64]


class Uniform:
    """Every item alike; what the user was trained on is rejected."""

    def __init__(self, train: Interactions) -> None:
        _need_items(train)
        self._n_items = train.n_items
        matrix = pair_matrix(train)
        self._met = torch.from_numpy(matrix.indptr), torch.from_numpy(matrix.columns)
        self._users, self._matrix = train.users, matrix
        self._left = train.n_items - np.diff(matrix.indptr)

    def sample(
        self, users: Ids, count: int, generator: np.random.Generator
    ) -> tuple[Ids, LogProbability | None]:
        """See recengine.data.sampling.Sampler. Raises UsageError for a user who met all that is drawn."""
        return self._draw(users, count, generator, None), None

    def sample_shared(self, count: int, generator: np.random.Generator) -> tuple[Ids, LogProbability | None]:
        """See recengine.data.sampling.Sampler."""
        return self._draw_shared(count, generator, None), None

    def _draw(
        self, users: Ids, count: int, generator: np.random.Generator, alias: tuple[Tensor, Tensor] | None
    ) -> Ids:
        self._need_a_negative(users)
        rows = torch.from_numpy(np.ascontiguousarray(users, np.int64))
        drawn = draw_negatives(rows, count, self._n_items, seed=_seed(generator), met=self._met, alias=alias)
        return drawn.numpy()

    def _need_a_negative(self, users: Ids) -> None:
        full = users[self._left[users] <= 0]
        if not len(full):
            return
        met = int(np.diff(self._matrix.indptr)[full[0]])
        whole, found, more = "of the catalogue", f"all {self._n_items} items", ""
        if met < self._n_items:
            whole, found = (
                "that this sampler draws",
                f"{met} of {self._n_items} items, the others never drawn",
            )
            more = ", or loss.sampler = 'uniform'"
        raise UsageError(
            f"a user met every item {whole}: there is no negative to draw",
            where="loss.sampler",
            found=f"user {self._users.tokens[full[0]]} with {found}",
            fix="leave such users out of the training data, or set loss.shared = true or "
            f"loss.sampler = 'in_batch', which reject nothing{more}",
        )

    def _draw_shared(
        self, count: int, generator: np.random.Generator, alias: tuple[Tensor, Tensor] | None
    ) -> Ids:
        nobody = torch.full((1,), -1, dtype=torch.int64)
        return draw_negatives(nobody, count, self._n_items, seed=_seed(generator), alias=alias)[0].numpy()


class _Weighed(Uniform):
    """p(i) proportional to weights[i], by an alias table; what weighs nothing is never drawn: somebody who
    met all the rest has no negative."""

    def __init__(self, train: Interactions, weights: Weights) -> None:
        super().__init__(train)
        self._alias = AliasTable(weights).tensors()
        drawn = np.concatenate([[0], np.cumsum(weights[self._matrix.columns] > 0)])
        self._left = (weights > 0).sum() - np.diff(drawn[self._matrix.indptr])
        with np.errstate(divide="ignore"):
            self._log_p = np.log(weights / weights.sum()).astype(np.float32)

    def sample(self, users: Ids, count: int, generator: np.random.Generator) -> tuple[Ids, LogProbability]:
        drawn = self._draw(users, count, generator, self._alias)
        return drawn, self._log_p[drawn]

    def sample_shared(self, count: int, generator: np.random.Generator) -> tuple[Ids, LogProbability]:
        drawn = self._draw_shared(count, generator, self._alias)
        return drawn, self._log_p[drawn]


class Popularity(_Weighed):
    """p(i) proportional to (training events of i) ** power; items never met are never drawn."""

    def __init__(self, train: Interactions, power: float = 1.0) -> None:
        super().__init__(train, _popularity(train, power))


class Mixed(_Weighed):
    """Each draw by popularity with probability one half, else uniform; q is the mixture of the two."""

    def __init__(self, train: Interactions, power: float = 1.0) -> None:
        weights = _popularity(train, power)
        super().__init__(train, 0.5 * weights / weights.sum() + 0.5 / train.n_items)


def _popularity(train: Interactions, power: float) -> Weights:
    _need_items(train)
    counts = train.popularity().astype(np.float64)
    return np.where(counts > 0, np.maximum(counts, 1e-300) ** power, 0.0)


class InBatch:
    """The other rows' positives, shared by the batch (as many as the batch has; ``count`` is not looked at).
    q is the item's share of the training events, by which it gets into a batch."""

    def __init__(self, train: Interactions) -> None:
        _need_items(train)
        counts = train.popularity().astype(np.float64)
        with np.errstate(divide="ignore"):
            self._log_p = np.log(counts / counts.sum()).astype(np.float32)

    def from_batch(self, items: Ids) -> tuple[Ids, LogProbability]:
        """int64 and float32 [len(items)]."""
        return items.copy(), self._log_p[items]


def _seed(generator: np.random.Generator) -> int:
    return int(generator.integers(0, 2**63))


def _need_items(train: Interactions) -> None:
    if train.n_items == 0 or len(train) == 0:
        raise DataError("there is nothing to sample from", found=f"{len(train)} training events")
