"""A temperature a user, from how well the user is fitted (Adap-tau)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from recengine.contracts.batch import StepContext
from recengine.contracts.loss import LossInput, Need
from recengine.contracts.model import DataFacts
from recengine_plugins.losses.config import AdapTauConfig
from recengine_plugins.losses.sampled import Rows, SampledLoss, mean_of, need, state

_PAIRS = "take a model of user-item pairs"


class AdapTau(SampledLoss):
    """Softmax over the target and sampled items at t_u = t_0 exp(W(max(-1/e, (l_u - mean l) / beta))).

    l_u is the user's mean loss in the epoch before, W Lambert's function; 1 / t_0 = (log 1/2 + log(U I) -
    log E) / (mean cosine of pairs - mean cosine of everything), E the training events (the sum of
    ``popularity``), the means from the first batch of the epoch, within ``lowest`` and ``highest``. Badly
    fitted users get a softer temperature.
    Source: Chen et al., "Adap-tau: adaptively modulating embedding magnitude for recommendation", WWW 2023.
    """

    needs: frozenset[Need] = frozenset({"negatives", "row_ids", "popularity"})
    sums: Tensor
    counts: Tensor
    factors: Tensor
    common: Tensor
    surrogate = True  # the temperatures are constants of the step

    def __init__(self, config: AdapTauConfig) -> None:
        super().__init__(config)
        self.beta, self.lowest, self.highest = config.beta, config.lowest, config.highest
        self.n_users = self.n_items = 0

    def prepare(self, facts: DataFacts) -> None:
        """Loss memory, counts and factor of every user; the common temperature and its epoch."""
        self.n_users, self.n_items = facts.n_users, facts.n_items
        for name in ("sums", "counts"):
            self.register_buffer(name, torch.zeros(facts.n_users))
        self.register_buffer("factors", torch.ones(facts.n_users))
        self.register_buffer("common", torch.tensor([1.0, -1.0]))

    def forward(self, given: LossInput, context: StepContext) -> Tensor:
        rows = self.rows(given)
        users = need(given, "row_ids", "adap_tau", _PAIRS)
        factors, common = state(self, "factors"), state(self, "common")
        if int(common[1]) != context.epoch:
            self._new_epoch(rows, need(given, "popularity", "adap_tau", _PAIRS), context.epoch)
        temperature = (common[0] * factors[users]).clamp(self.lowest, self.highest)
        temperature = temperature.to(rows.positive.dtype)
        loss = rows.logsumexp(temperature, include_positive=True) - rows.positive / temperature
        seen = loss.detach().to(self.sums.dtype)
        self.sums.index_add_(0, users, seen)
        self.counts.index_add_(0, users, torch.ones_like(seen))
        return mean_of(loss)

    @torch.no_grad()
    def _new_epoch(self, rows: Rows, popularity: Tensor, epoch: int) -> None:
        met = self.counts > 0
        if bool(met.any()):
            mean = self.sums[met] / self.counts[met]
            z = ((mean - mean.mean()) / self.beta).clamp(min=-1 / math.e)
            self.factors.fill_(1.0)
            self.factors[met] = torch.exp(lambert_w(z))
            self.sums.zero_()
            self.counts.zero_()
        apart = float(rows.positive.mean() - rows.anchors.mean(0) @ rows.items.mean(0))
        events = max(float(popularity.sum()), 1.0)
        reach = math.log(0.5) + math.log(self.n_users * self.n_items) - math.log(events)
        common = apart / reach if apart > 0 and reach > 0 else self.highest
        self.common[0] = min(max(common, self.lowest), self.highest)
        self.common[1] = epoch


def lambert_w(z: Tensor) -> Tensor:
    """W_0(z), the w >= -1 with w exp(w) = z, for z >= -1/e: Halley's iteration from log(1 + z) or, near the
    branch point, from its square-root expansion."""
    p = (2 * (math.e * z + 1)).clamp(min=0).sqrt()
    w = torch.where(z < 0, -1 + p - p.square() / 3, torch.log1p(z.clamp(min=0)))
    for _ in range(8):
        e = torch.exp(w)
        f = w * e - z
        slope = e * (w + 1) - (w + 2) * f / (2 * w + 2).clamp(min=1e-6)
        w = torch.where(slope.abs() > 1e-9, w - f / slope, w)
    return w
