"""Matrix factorisation by Bayesian personalised ranking (Rendle et al., UAI 2009)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recengine.contracts.batch import HistoryBatch
from recengine.contracts.model import DataFacts
from recengine.data import Interactions
from recengine.data.matrix import pair_matrix
from recengine.ops.factorization import bpr_epoch_, gram, spd_inverse_
from recengine.ops.histories import distinct_rows
from recengine_plugins.bpr.config import BPRConfig


class BPR(nn.Module):
    """score(u, i) = x_u . y_i + b_i, fitted so that an item taken outranks one that was not:

        max  sum over (u, i, j) of  log sigmoid(score(u, i) - score(u, j)) - decay,   i taken, j not

    by stochastic gradient (ops.factorization.bpr_epoch_). Somebody new is represented by
    ``mean of y over the distinct items of the history`` times a d x d matrix: the ridge regression of the
    known users' vectors on the same means; so is a user without a training event, whose own vector is zero.
    An empty history is ranked by the biases.
    """

    users: Tensor
    items: Tensor
    bias: Tensor
    newcomer: Tensor

    def __init__(self, config: BPRConfig, facts: DataFacts) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("users", torch.zeros(facts.n_users, config.factors))
        self.register_buffer("items", torch.zeros(facts.n_items, config.factors))
        self.register_buffer("bias", torch.zeros(facts.n_items))
        self.register_buffer("newcomer", torch.zeros(config.factors, config.factors))

    def fit_directly(self, train: Interactions, seed: int, progress: Any) -> None:
        """Random vectors, then the epochs, then the answer for newcomers."""
        config = self.config
        matrix = pair_matrix(train)
        indptr, columns = torch.from_numpy(matrix.indptr), torch.from_numpy(matrix.columns)
        generator = np.random.default_rng(seed)
        for table in (self.users, self.items):
            drawn = generator.normal(0.0, config.init_scale / config.factors**0.5, tuple(table.shape))
            table.copy_(torch.from_numpy(drawn))
        users, items, bias = self.users.cpu(), self.items.cpu(), self.bias.zero_().cpu()
        for epoch in range(config.epochs):
            bpr_epoch_(
                users,
                items,
                bias,
                indptr,
                columns,
                seed=seed,
                epoch=epoch,
                shards=max(1, min(config.shards, train.n_items // 8)),
                rate=config.learning_rate,
                reg_user=config.reg_user,
                reg_item=config.reg_item,
                reg_bias=config.reg_bias,
            )
            progress(epoch + 1, config.epochs, "epochs")
        users[indptr.diff() == 0] = 0.0  # nothing has moved them from where they were drawn
        self.users.copy_(users)
        self.items.copy_(items)
        self.bias.copy_(bias)
        self.newcomer.copy_(_newcomer(_means(items, columns.long(), indptr), users))

    def user_vectors(self, histories: HistoryBatch) -> Tensor:
        """float32 [B, d]."""
        vectors = self.users[histories.users.clamp(min=0)]
        known = (histories.users >= 0) & vectors.any(1)
        if not bool(known.all()):
            items, offsets, _ = distinct_rows(histories.items, histories.offsets)
            vectors = torch.where(known[:, None], vectors, _means(self.items, items, offsets) @ self.newcomer)
        return vectors

    def item_vectors(self) -> Tensor:
        """float32 [n_items, d]."""
        return self.items

    def item_bias(self) -> Tensor | None:
        """float32 [n_items]."""
        return self.bias


def _means(items: Tensor, columns: Tensor, indptr: Tensor) -> Tensor:
    """Mean item vector of each row, zeros for an empty one."""
    return nn.functional.embedding_bag(columns, items, indptr[:-1], mode="mean")


def _newcomer(means: Tensor, users: Tensor) -> Tensor:
    """argmin_W |means W - users|^2 + ridge |W|^2."""
    d = means.shape[1]
    both = gram(torch.cat([means, users], 1)).double()
    square = both[:d, :d].contiguous()
    square.diagonal().add_(1e-3 * square.diagonal().mean() + 1e-12)
    return (spd_inverse_(square) @ both[:d, d:]).float()
