"""A click model around a score of feature vectors: batches, loss, probabilities. And the tower it ends in."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from recengine.config import knob
from recengine.contracts.batch import FeatureBatch, PairBatch, SequenceBatch, StepContext
from recengine.contracts.features import click_rate, feature_facts
from recengine.contracts.model import DataFacts, Feed, ModelConfig
from recengine.errors import UsageError
from recengine.nn.dropout import Dropout
from recengine.nn.features import Features, FeatureVectors


class ClickConfig(ModelConfig):
    """What every click model has."""

    embedding_dim: int = knob(16, "length of a feature's vector", ge=1, choices=(8, 16, 32, 64))
    embedding_l2: float = knob(0.0, "pull of the looked-up vectors to zero", ge=0, low=0.0, high=1e-2)
    table_l2: float = knob(
        0.0, "pull of all vectors of the tables to zero, at every step", ge=0, low=0.0, high=1e-1
    )
    init_std: float = knob(0.01, "spread of the initial vectors", gt=0)


class ClickModel(nn.Module):
    """P(click) = sigmoid(score(vectors of the features) + b); b starts at the log-odds of the click rate.

    A subclass gives ``score``. The loss is the mean over rows of w (BCE(label, logit)), plus
    embedding_l2 / 2 times the mean over rows of the squared norm of the looked-up vectors, plus table_l2 / 2
    times the sum of the squares of all tables (which gives every row of a table a gradient in every step).
    """

    def __init__(self, config: ClickConfig, facts: DataFacts) -> None:
        super().__init__()
        self.config = config
        self.facts = feature_facts(facts)
        self.vectors = FeatureVectors(self.facts, config.embedding_dim, config.init_std)
        rate = click_rate(facts)
        self.bias = nn.Parameter(torch.tensor(math.log(rate / (1 - rate))))

    @property
    def n_features(self) -> int:
        """Features a row."""
        return len(self.facts)

    def score(self, vectors: Tensor, features: Features) -> Tensor:
        """float [B] from vectors [B, F, d] and the features themselves."""
        raise NotImplementedError

    def forward(self, features: Features) -> Tensor:
        """The logit of every row, float [B]."""
        logits: Tensor = self.score(self.vectors(features), features) + self.bias
        return logits

    def feed(self) -> Feed:
        """Rows of a click log."""
        return Feed("features")

    def training_loss(self, batch: SequenceBatch | PairBatch | FeatureBatch, context: StepContext) -> Tensor:
        """Mean over the rows of the batch."""
        rows = click_rows(batch)
        vectors = self.vectors(rows.features)
        loss = weighted_loss(self.score(vectors, rows.features) + self.bias, rows)
        return loss + self.penalty(vectors)

    def penalty(self, vectors: Tensor) -> Tensor:
        """embedding_l2 / 2 x the mean over rows of the squared norm of their vectors [B, F, d]
        + table_l2 / 2 x the sum of the squares of the tables."""
        pull = vectors.new_zeros(())
        if self.config.embedding_l2 > 0:
            pull = pull + 0.5 * self.config.embedding_l2 * vectors.square().sum((1, 2)).mean()
        if self.config.table_l2 > 0:
            tables = [part.table for part in self.modules() if isinstance(part, FeatureVectors)]
            pull = pull + 0.5 * self.config.table_l2 * sum(table.square().sum() for table in tables)
        return pull

    def predict(self, batch: FeatureBatch) -> Tensor:
        """float [B] in [0, 1]."""
        return torch.sigmoid(self(batch.features))


def click_rows(batch: SequenceBatch | PairBatch | FeatureBatch) -> FeatureBatch:
    """The batch, which must be of features. Raises UsageError otherwise."""
    if not isinstance(batch, FeatureBatch):
        raise UsageError("a click model is fed rows of features", found=type(batch).__name__)
    return batch


def weighted_loss(logits: Tensor, batch: FeatureBatch) -> Tensor:
    """mean(w (max(z, 0) - z y + log(1 + exp(-|z|)))) over the rows, w 1 where there are no weights."""
    return functional.binary_cross_entropy_with_logits(logits.float(), batch.labels, batch.weights)


class FirstOrder(nn.Module):
    """The sum of one weight a value: the linear part of a click model. float [B]."""

    def __init__(self, model: ClickModel) -> None:
        super().__init__()
        self.weights = FeatureVectors(model.facts, 1, 1e-4)

    def forward(self, features: Features) -> Tensor:
        made: Tensor = self.weights(features).sum((1, 2))
        return made


class Logit(nn.Linear):
    """The last line of a click model, to one number a row; also under autocast in the precision of its
    weights: of bfloat16 logits there are so few that rows tie."""

    def forward(self, input: Tensor) -> Tensor:
        """float [B, d] to [B, 1]."""
        kind = input.device.type
        if not torch.is_autocast_enabled(kind):
            return functional.linear(input, self.weight, self.bias)
        with torch.autocast(kind, enabled=False):
            return functional.linear(input.to(self.weight.dtype), self.weight, self.bias)


class Tower(nn.Module):
    """Linear, batch normalisation where it is asked for, ReLU and dropout for each width of ``hidden``, then
    Linear to ``out`` (0: no last layer; 1: a Logit)."""

    def __init__(
        self,
        width: int,
        hidden: Sequence[int],
        dropout: float = 0.0,
        out: int = 1,
        *,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for size in hidden:
            layers.append(nn.Linear(width, size))
            layers += [BatchNorm(size)] if batch_norm else []
            layers.append(nn.ReLU())
            layers += [Dropout(dropout)] if dropout else []
            width = size
        self.width = out or width
        if out:
            layers.append(Logit(width, 1) if out == 1 else nn.Linear(width, out))
        self.layers = nn.Sequential(*layers)
        for layer in layers:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.layers(x)
        return made


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation that meets a training batch of a single row (the last of an epoch may be one) with
    the running statistics: one row has no spread."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.shape[0] == 1:
            return functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        made: Tensor = super().forward(x)
        return made
