"""Vectors of the features of a click log: one table for all of them, so a batch is one look-up."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from recengine.contracts.features import FeatureFact
from recengine.errors import DataError
from recengine.ops.embedding import embedding_bag_sum

Features = dict[str, Tensor | tuple[Tensor, Tensor]]


class FeatureVectors(nn.Module):
    """A vector of ``dim`` a feature: of one value its row of the table, of several values the mean of their
    rows, of a number x the vector x w + b.

    The parameter ``table`` has the attribute ``rows = True``: an optimiser may update just the rows that a
    batch names. Where one does, it sets ``table.sparse_gradient`` and the gradient comes as those rows.
    """

    place: Tensor
    shift: Tensor

    def __init__(self, features: Sequence[FeatureFact], dim: int, std: float = 0.01) -> None:
        super().__init__()
        self.dim, self.names = dim, tuple(feature.name for feature in features)
        self.ones = tuple(feature.name for feature in features if feature.kind == "one")
        self.bags = tuple(feature.name for feature in features if feature.kind == "bag")
        self.numbers = tuple(feature.name for feature in features if feature.kind == "number")
        begin, rows = {}, 0
        for feature in features:
            if feature.kind != "number" and feature.table not in begin:
                begin[feature.table] = rows
                rows += feature.size
        self.sizes = {feature.name: feature.size for feature in features}
        self.shifts = {f.name: begin[f.table] for f in features if f.kind != "number"}
        self.table = nn.Parameter(torch.randn(max(rows, 1), dim) * std)
        self.table.rows = True  # type: ignore[attr-defined]
        self.number_weight = nn.Parameter(torch.randn(len(self.numbers), dim) * std) if self.numbers else None
        self.number_bias = nn.Parameter(torch.zeros(len(self.numbers), dim)) if self.numbers else None
        order = [*self.ones, *self.bags, *self.numbers]
        place = torch.tensor([order.index(name) for name in self.names])
        self.register_buffer("place", place, persistent=False)
        shift = torch.tensor([self.shifts[name] for name in self.ones], dtype=torch.int64)
        self.register_buffer("shift", shift, persistent=False)
        self.in_order = list(self.names) == order

    def forward(self, features: Features) -> Tensor:
        """float [B, F, dim], features in the order of the schema."""
        parts = []
        if self.ones:
            parts.append(self._look_up(torch.stack([_one(features, name) for name in self.ones], 1)))
        for name in self.bags:
            values, offsets = _bag(features, name)
            parts.append(self._mean(values + self.shifts[name], offsets)[:, None])
        if self.number_weight is not None and self.number_bias is not None:
            x = torch.stack([_one(features, name) for name in self.numbers], 1)
            parts.append(x[..., None] * self.number_weight + self.number_bias)
        vectors = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        return vectors if self.in_order else vectors[:, self.place]

    def _look_up(self, rows: Tensor) -> Tensor:
        rows = rows + self.shift
        if self.training and getattr(self.table, "sparse_gradient", False):
            return embedding_bag_sum(self.table, rows.reshape(-1, 1), sparse=True).view(*rows.shape, self.dim)
        return functional.embedding(rows, self.table)

    def _mean(self, rows: Tensor, offsets: Tensor) -> Tensor:
        sizes = offsets.diff()
        if self.training and getattr(self.table, "sparse_gradient", False):
            share = torch.repeat_interleave(1.0 / sizes.clamp_min(1), sizes, output_size=rows.shape[0])
            return embedding_bag_sum(self.table, rows, offsets, per_sample_weights=share, sparse=True)
        return functional.embedding_bag(rows, self.table, offsets, mode="mean", include_last_offset=True)


def _one(features: Features, name: str) -> Tensor:
    given = features.get(name)
    if not isinstance(given, Tensor):
        raise DataError(
            f"the batch has no feature '{name}' with one value a row",
            found=", ".join(features),
            expected=name,
        )
    return given


def _bag(features: Features, name: str) -> tuple[Tensor, Tensor]:
    given = features.get(name)
    if given is None or isinstance(given, Tensor):
        raise DataError(
            f"the batch has no feature '{name}' with several values a row",
            found=", ".join(features),
            expected=name,
        )
    return given
