"""EASE (Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from recengine.contracts.batch import HistoryBatch
from recengine.contracts.model import DataFacts
from recengine.data import Interactions
from recengine.data.matrix import pair_matrix
from recengine.errors import DataError
from recengine.ops.factorization import cooccurrence, spd_inverse_
from recengine.ops.histories import distinct_rows
from recengine_plugins.ease.config import EASEConfig


class EASE(nn.Module):
    """Least squares of the binary user-item matrix X on itself, with a zero diagonal:

        min_B ||X - X B||^2 + lambda ||B||^2,  diag(B) = 0
        P = (X^T X + lambda I)^-1,  B_ij = -P_ij / P_jj  (i != j),  B_jj = 0
        score(u, j) = sum over the distinct items i of the history of B_ij

    A user is nothing but the history, so somebody new is answered like anybody else.
    """

    weights: Tensor

    def __init__(self, config: EASEConfig, facts: DataFacts) -> None:
        super().__init__()
        self.config, self.n_items = config, facts.n_items
        self._check_memory()
        self.register_buffer("weights", torch.zeros(facts.n_items, facts.n_items))

    def _check_memory(self) -> None:
        per_cell = 4 + (8 if self.config.precision == "float64" else 4)
        need = self.n_items**2 * per_cell / 2**30
        if need > self.config.memory_limit_gib:
            raise DataError(
                f"EASE on {self.n_items} items needs {need:.1f} GiB for its two square matrices",
                where="memory_limit_gib",
                found=f"{self.config.memory_limit_gib:g} GiB",
                fix="drop rare items, set precision = 'float32', raise the limit, or take itemknn or ials",
            )

    def fit_directly(self, train: Interactions, seed: int, progress: Any) -> None:
        """Gram matrix, inverse, weights."""
        matrix = pair_matrix(train)
        by_item = matrix.transposed()
        gram = cooccurrence(
            *(torch.from_numpy(part) for part in (matrix.indptr, matrix.columns)),
            *(torch.from_numpy(part) for part in (by_item.indptr, by_item.columns)),
            dtype=torch.float64 if self.config.precision == "float64" else torch.float32,
        )
        gram.diagonal().add_(self.config.regularization)
        inverse = spd_inverse_(gram)
        torch.div(inverse, -inverse.diagonal().clone(), out=inverse)
        self.weights.copy_(inverse)
        self.weights.fill_diagonal_(0.0)
        if self.config.nonnegative:
            self.weights.clamp_(min=0.0)

    def score_items(self, histories: HistoryBatch) -> Tensor:
        """float32 [B, n_items]."""
        items, offsets, _ = distinct_rows(histories.items, histories.offsets)
        return nn.functional.embedding_bag(items, self.weights, offsets[:-1], mode="sum")
