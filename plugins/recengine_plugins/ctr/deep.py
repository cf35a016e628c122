"""Models with a tower: DeepFM, DCN-v2, DLRM."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recengine.contracts.model import DataFacts
from recengine.nn.clicks import ClickModel, FirstOrder, Logit, Tower
from recengine.nn.features import Features
from recengine_plugins.ctr.config import DCNv2Config, DeepFMConfig, DLRMConfig
from recengine_plugins.ctr.linear import pair_sum


class DeepFM(ClickModel):
    """FM logit + tower of the concatenated vectors. Source: Guo et al., IJCAI 2017."""

    def __init__(self, config: DeepFMConfig, facts: DataFacts) -> None:
        super().__init__(config, facts)
        self.first = FirstOrder(self)
        width = self.n_features * config.embedding_dim
        self.tower = Tower(width, config.hidden, config.dropout, batch_norm=config.batch_norm)

    def score(self, vectors: Tensor, features: Features) -> Tensor:
        deep = self.tower(vectors.flatten(1)).squeeze(1)
        return self.first(features) + pair_sum(vectors) + deep


class DCNv2(ClickModel):
    """x_{l+1} = x_0 * (W_l x_l + b_l) + x_l over the concatenated vectors x_0, with a tower beside or on top.
    Source: Wang et al., WWW 2021."""

    def __init__(self, config: DCNv2Config, facts: DataFacts) -> None:
        super().__init__(config, facts)
        width = self.n_features * config.embedding_dim
        self.cross = nn.ModuleList(nn.Linear(width, width) for _ in range(config.cross_layers))
        self.tower = Tower(width, config.hidden, config.dropout, out=0, batch_norm=config.batch_norm)
        self.stacked = config.structure == "stacked"
        self.out = Logit(self.tower.width if self.stacked else width + self.tower.width, 1)

    def score(self, vectors: Tensor, features: Features) -> Tensor:
        first = crossed = vectors.flatten(1)
        for layer in self.cross:
            crossed = first * layer(crossed) + crossed
        ends = self.tower(crossed) if self.stacked else torch.cat([crossed, self.tower(first)], 1)
        made: Tensor = self.out(ends).squeeze(1)
        return made


class DLRM(ClickModel):
    """Numbers through a bottom tower to one vector z; all pairwise products among z and the other vectors;
    these and z through the top tower. Source: Naumov et al., arXiv 1906.00091."""

    def __init__(self, config: DLRMConfig, facts: DataFacts) -> None:
        super().__init__(config, facts)
        numbers = [f.name for f in self.facts if f.kind == "number"]
        self.numbers = numbers
        self.bottom = Tower(len(numbers), config.bottom, 0.0, config.embedding_dim) if numbers else None
        kept = [at for at, fact in enumerate(self.facts) if fact.kind != "number"]
        self.register_buffer("kept", torch.tensor(kept, dtype=torch.int64), persistent=False)
        n = len(kept) + bool(numbers)
        above = torch.triu_indices(n, n, offset=1)
        self.register_buffer("pairs", above[0] * n + above[1], persistent=False)
        width = n * (n - 1) // 2 + (config.embedding_dim if numbers else 0)
        self.tower = Tower(width, config.hidden, config.dropout, batch_norm=config.batch_norm)
        if numbers:  # the bottom tower reads the numbers themselves
            for parameter in (self.vectors.number_weight, self.vectors.number_bias):
                assert parameter is not None
                parameter.requires_grad_(False)

    def score(self, vectors: Tensor, features: Features) -> Tensor:
        ends, kept = [], vectors[:, self.kept]
        if self.bottom is not None:
            given = torch.stack([features[name] for name in self.numbers], 1)  # type: ignore[misc]
            dense = self.bottom(given.to(vectors.dtype))
            ends, kept = [dense], torch.cat([dense[:, None], kept], 1)
        products = (kept @ kept.transpose(1, 2)).flatten(1)[:, self.pairs]
        made: Tensor = self.tower(torch.cat([*ends, products], 1)).squeeze(1)
        return made
