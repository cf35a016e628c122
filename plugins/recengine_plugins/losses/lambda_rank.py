"""Pairs weighed by what exchanging them changes in DCG@K (LambdaRank's weight, LambdaLoss@K's cut)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from recengine.contracts.batch import StepContext
from recengine.contracts.loss import LossInput, Need
from recengine_plugins.losses.config import LambdaLossConfig
from recengine_plugins.losses.sampled import Rows, SampledLoss, mean_over

_CHUNK = 1 << 24  # scores that are held at a time


class LambdaLoss(SampledLoss):
    """mean_j |D(rank_p) - D(rank_j)| softplus(s_j - s_p), D(r) = 1 / log2(1 + r), zero below rank K.

    Ranks are over the whole catalogue, from 1, and held: O(rows x items) a step. K = 0: no cut (LambdaRank).
    The weight is LambdaRank's, of DCG: not LambdaLoss's own difference of ranks, and not divided by the ideal
    DCG of the user.
    Source: Burges, "From RankNet to LambdaRank to LambdaMART", 2010; Jagerman et al., "On optimizing top-K
    metrics for neural ranking models", SIGIR 2022, for the cut.
    """

    needs: frozenset[Need] = frozenset({"negatives", "catalogue"})
    score = "dot"
    surrogate = True  # ranks are constants of the step

    def __init__(self, config: LambdaLossConfig) -> None:
        super().__init__(config)
        self.k = config.k

    def forward(self, given: LossInput, context: StepContext) -> Tensor:
        rows = self.rows(given)
        logits = rows.logits()
        with torch.no_grad():
            own, others = self._discounts(rows)
        pairs = (own[:, None] - others).abs() * functional.softplus(logits - rows.positive[:, None])
        return mean_over(pairs, rows.live).mean()

    def _discounts(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """D of the targets [R] and of the sampled items [R, N]."""
        sampled = rows.negatives.expand(rows.shape)
        wanted = torch.cat([rows.positives[:, None], sampled], 1)
        found = torch.empty(wanted.shape, dtype=rows.anchors.dtype, device=rows.anchors.device)
        step = max(1, _CHUNK // max(1, rows.items.shape[0]))
        for low in range(0, rows.shape[0], step):
            scores = rows.anchors[low : low + step] @ rows.items.t()
            rank = torch.empty_like(scores, dtype=torch.int64)
            places = torch.arange(1, scores.shape[1] + 1, device=scores.device).expand(scores.shape)
            rank.scatter_(1, scores.argsort(dim=1, descending=True, stable=True), places)
            taken = rank.gather(1, wanted[low : low + step])
            discount = 1 / torch.log2(1 + taken.to(found.dtype))
            found[low : low + step] = torch.where(taken <= self.k, discount, 0.0) if self.k else discount
        return found[:, 0], found[:, 1:]
