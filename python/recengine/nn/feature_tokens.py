"""Tokens for mixers: the vectors of features that mean one thing together, brought to one width."""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recengine.contracts.features import FeatureFact
from recengine.errors import ConfigError
from recengine.nn.clicks import Tower


def token_groups(features: Sequence[FeatureFact], tokens: int, *, whole: bool = False) -> list[list[int]]:
    """Places of the features of each token.

    tokens 0: one token a group of features, in order of first appearance. Otherwise exactly so many: the
    features, group by group, cut into runs of about equal number; a group is cut only where there are fewer
    groups than tokens. whole: the model has a token of everything beside them, which ``model.tokens`` counts.
    Raises ConfigError when there are fewer features than tokens.
    """
    groups: dict[str, list[int]] = {}
    for place, feature in enumerate(features):
        groups.setdefault(feature.group, []).append(place)
    units = list(groups.values())
    if tokens == 0:
        return units
    if len(features) < tokens:
        raise ConfigError(
            "there are fewer features than tokens",
            where="model.tokens",
            found=f"{len(features)} features for {tokens} tokens" + " beside that of everything" * whole,
            expected=f"model.tokens of at most {len(features) + whole}",
            fix="lower model.tokens, or set it to 0 for one token a group; with a preset either leaves fewer "
            "weights than its name says",
        )
    if len(units) < tokens:
        units = [[place] for unit in units for place in unit]
    cuts = [len(units) * token // tokens for token in range(tokens + 1)]
    return [functools.reduce(operator.iadd, units[a:b], []) for a, b in itertools.pairwise(cuts)]


class GroupTokens(nn.Module):
    """X_i = MLP_i(the vectors of group i side by side), and before them the token of everything,
    X_G = MLP_g(all vectors side by side): [B, F, d] to [B, T, D].

    An MLP is Linear, ReLU, Linear. Source: TokenMixer-Large (arXiv 2602.06563), tokenisation.
    """

    order: Tensor

    def __init__(self, groups: Sequence[Sequence[int]], dim: int, width: int, *, whole: bool = True) -> None:
        super().__init__()
        places = [list(group) for group in groups]
        self.sizes = [len(group) * dim for group in places]
        order = [place for group in places for place in group]
        self.register_buffer("order", torch.tensor(order), persistent=False)
        self.in_order = order == list(range(len(order)))
        self.own = nn.ModuleList(Tower(size, (width,), out=width) for size in self.sizes)
        self.whole = Tower(sum(self.sizes), (width,), out=width) if whole else None
        self.tokens = len(places) + whole

    def forward(self, vectors: Tensor) -> Tensor:
        flat = (vectors if self.in_order else vectors[:, self.order]).flatten(1)
        parts = [mlp(part) for mlp, part in zip(self.own, torch.split(flat, self.sizes, 1), strict=True)]
        if self.whole is not None:
            parts.insert(0, self.whole(flat))
        return torch.stack(parts, 1)


class ChunkTokens(nn.Module):
    """All vectors side by side, cut into T equal pieces (zeros behind the last), each through a matrix of its
    own: [B, F, d] to [B, T, D]. Source: RankMixer (arXiv 2507.15551), tokenisation."""

    def __init__(self, features: int, dim: int, tokens: int, width: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.piece = -(-features * dim // tokens)
        self.missing = self.piece * tokens - features * dim
        self.weight = nn.Parameter(torch.empty(tokens, self.piece, width))
        self.bias = nn.Parameter(torch.zeros(tokens, width))
        for weight in self.weight:
            nn.init.xavier_uniform_(weight)

    def forward(self, vectors: Tensor) -> Tensor:
        flat = nn.functional.pad(vectors.flatten(1), (0, self.missing))
        pieces = flat.view(flat.shape[0], self.tokens, self.piece)
        return torch.einsum("btp,tpd->btd", pieces, self.weight) + self.bias
