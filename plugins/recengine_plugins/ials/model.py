"""Implicit alternating least squares (Hu, Koren and Volinsky, ICDM 2008)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recengine.contracts.batch import HistoryBatch
from recengine.contracts.model import DataFacts
from recengine.data import Interactions
from recengine.data.matrix import PairMatrix, pair_matrix
from recengine.ops.factorization import gram, ials_solve
from recengine.ops.histories import distinct_rows
from recengine_plugins.ials.config import ImplicitALSConfig


class ImplicitALS(nn.Module):
    """Weighted least squares of the whole user-item matrix by two sets of vectors:

        min  sum_{u,i} c_ui (p_ui - x_u . y_i)^2 + sum_u lambda_u |x_u|^2 + sum_i lambda_i |y_i|^2
        p_ui = 1 where u took i, else 0;  c_ui = 1 + alpha r_ui, r from ``counts``
        lambda_row = regularization * max(1, entries of the row)^frequency_power

    Only item vectors and their Gram matrix are kept. A user, known or new, is solved from the
    history asked about: the same normal equation, by ``answer_steps`` steps of conjugate gradient from zero.
    Stopping early holds the vector near the few directions that explain the history best, which ranks
    better than the exact solution on the data tried.
    """

    items: Tensor
    square: Tensor

    def __init__(self, config: ImplicitALSConfig, facts: DataFacts) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("items", torch.zeros(facts.n_items, config.factors))
        self.register_buffer("square", torch.zeros(config.factors, config.factors))

    def fit_directly(self, train: Interactions, seed: int, progress: Any) -> None:
        """Alternate; users first, from small random item vectors."""
        config = self.config
        by_user = pair_matrix(train)
        sides = [self._side(matrix) for matrix in (by_user, by_user.transposed())]
        scale = config.init_scale / config.factors**0.5
        drawn = np.random.default_rng(seed).normal(0.0, scale, (train.n_items, config.factors))
        items = torch.from_numpy(drawn.astype(np.float32))
        users: Tensor | None = None
        for sweep in range(config.iterations):
            users = ials_solve(items, *sides[0], start=users, steps=config.steps)
            items = ials_solve(users, *sides[1], start=items, steps=config.steps)
            progress(sweep + 1, config.iterations, "sweeps")
        self.items.copy_(items)
        self.square.copy_(gram(items))

    def _side(self, matrix: PairMatrix) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        indptr = torch.from_numpy(matrix.indptr)
        weights = self._weights(torch.from_numpy(matrix.counts))
        return indptr, torch.from_numpy(matrix.columns), weights, self._penalty(indptr)

    def _weights(self, counts: Tensor) -> Tensor:
        if self.config.counts == "binary":
            return torch.full_like(counts, self.config.alpha)
        return self.config.alpha * (counts if self.config.counts == "count" else 1.0 + counts.log())

    def _penalty(self, indptr: Tensor) -> Tensor:
        entries = indptr.diff().clamp(min=1).to(torch.float32)
        return self.config.regularization * entries**self.config.frequency_power

    def user_vectors(self, histories: HistoryBatch) -> Tensor:
        """float32 [B, d]."""
        columns, indptr, counts = distinct_rows(histories.items.cpu(), histories.offsets.cpu())
        vectors = ials_solve(  # on the CPU, where the kernel is, wherever the tables lie
            self.items.cpu(),
            indptr,
            columns.to(torch.int32),
            self._weights(counts),
            self._penalty(indptr),
            steps=self.config.answer_steps,
            gram_matrix=self.square.cpu(),
        )
        return vectors.to(self.items.device)

    def item_vectors(self) -> Tensor:
        """float32 [n_items, d]."""
        return self.items

    def item_bias(self) -> Tensor | None:
        return None
