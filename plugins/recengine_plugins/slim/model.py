"""SLIM: sparse linear methods."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from recengine.contracts.batch import HistoryBatch
from recengine.contracts.model import DataFacts
from recengine.data import Interactions
from recengine.data.matrix import pair_matrix
from recengine.ops.histories import distinct_rows
from recengine_plugins.slim.config import SLIMConfig

_BLOCK = 256  # columns that are solved together


class SLIM(nn.Module):
    """For each item j: min_w 1/2 |X_j - X w|^2 + l2 / 2 |w|^2 + l1 |w|_1, w_j = 0 (and w >= 0).

    X is the binary user-item matrix. Only the ``neighbours`` items most often met together with j are
    candidates. Coordinate descent on the normal equations, many columns at a time; a user is nothing but the
    history: score(u, j) = sum over its items i of w_ij.
    Source: Ning and Karypis, "SLIM: sparse linear methods for top-N recommender systems", ICDM 2011.
    """

    columns: Tensor
    values: Tensor

    def __init__(self, config: SLIMConfig, facts: DataFacts) -> None:
        super().__init__()
        self.config, self.n_items = config, facts.n_items
        self.width = min(config.neighbours, max(1, facts.n_items - 1))
        self.register_buffer("columns", torch.zeros(facts.n_items, self.width, dtype=torch.int64))
        self.register_buffer("values", torch.zeros(facts.n_items, self.width))

    def fit_directly(self, train: Interactions, seed: int, progress: Any) -> None:
        """Candidates and weights of every column, block by block."""
        matrix = pair_matrix(train)
        x = sparse.csr_matrix(
            (np.ones(len(matrix), np.float32), matrix.columns, matrix.indptr), (train.n_users, train.n_items)
        )
        gram = (x.T @ x).tocsr()
        for begin in range(0, self.n_items, _BLOCK):
            end = min(begin + _BLOCK, self.n_items)
            columns, values = self._solve(gram, begin, end)
            self.columns[begin:end] = torch.from_numpy(columns)
            self.values[begin:end] = torch.from_numpy(values)
            progress(end, self.n_items, "items")

    def _solve(self, gram: Any, begin: int, end: int) -> tuple[Any, Any]:
        config, width = self.config, self.width
        together = gram[begin:end].toarray()
        together[np.arange(end - begin), np.arange(begin, end)] = -1.0
        columns = np.argsort(-together, axis=1, kind="stable")[:, :width].astype(np.int64)
        target = np.maximum(np.take_along_axis(together, columns, 1), 0.0)
        weights = np.zeros((end - begin, width), np.float32)
        for row, chosen in enumerate(columns):
            square = gram[chosen][:, chosen].toarray().astype(np.float32)
            weights[row] = _descend(square, target[row], config)
        return columns, weights

    def score_items(self, histories: HistoryBatch) -> Tensor:
        """float32 [B, n_items]."""
        items, offsets, _ = distinct_rows(histories.items, histories.offsets)
        met = torch.zeros(len(histories), self.n_items, device=self.values.device)
        row = torch.arange(len(histories)).repeat_interleave(offsets.diff())
        met[row, items] = 1.0
        scores = torch.empty_like(met)
        for begin in range(0, self.n_items, _BLOCK):
            part = slice(begin, begin + _BLOCK)
            scores[:, part] = torch.einsum("bjk,jk->bj", met[:, self.columns[part]], self.values[part])
        return scores


def _descend(square: Any, target: Any, config: SLIMConfig) -> Any:
    """argmin_w 1/2 w'Gw - w'b + l2 / 2 |w|^2 + l1 |w|_1 by cyclic coordinate descent."""
    weights = np.zeros(len(target), np.float32)
    gradient = -target.astype(np.float32)
    diagonal = square.diagonal() + config.l2
    # Above zero a weight without a target only adds to the slope, below zero it may take from it.
    visited = np.flatnonzero(target > 0) if config.nonnegative else np.arange(len(target))
    for _ in range(config.sweeps):
        largest = 0.0
        for k in visited:
            if diagonal[k] <= 0:
                continue
            pull = weights[k] * square[k, k] - gradient[k]
            new = np.sign(pull) * max(abs(pull) - config.l1, 0.0) / diagonal[k]
            if config.nonnegative:
                new = max(new, 0.0)
            change = np.float32(new - weights[k])
            if change:
                gradient += change * square[k]
                weights[k] = new
                largest = max(largest, abs(float(change)))
        if largest < config.tolerance:
            break
    return weights
