"""Losses aimed at the top K: SL@K, and SogCLR and SogSL@K for few sampled items.

b_u is the K-th largest cosine among the user's training items and the row's sampled ones, refreshed every
``refresh`` epochs; g_u is a moving average of E_j exp(s_j / t). Both are constants of the step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recengine.contracts.batch import StepContext
from recengine.contracts.loss import LossInput, Need
from recengine.contracts.model import DataFacts
from recengine.ops import sampled_scores
from recengine_plugins.losses.config import SLAtKConfig, SogCLRConfig, SogSLAtKConfig
from recengine_plugins.losses.sampled import Rows, SampledLoss, mean_of, need, state

_PAIRS = "take a model of user-item pairs"


class _Threshold(SampledLoss):
    """Keeps b_u."""

    needs: frozenset[Need] = frozenset({"negatives", "row_ids", "user_items"})
    thresholds: Tensor

    def __init__(self, config: SLAtKConfig | SogSLAtKConfig) -> None:
        super().__init__(config)
        self.k, self.refresh, self.sharpness = config.k, config.refresh, config.weight_temperature
        self.temperature = config.temperature
        self._longest = 0

    def prepare(self, facts: DataFacts) -> None:
        """b_u = 0 until the first refresh."""
        self.register_buffer("thresholds", torch.zeros(facts.n_users))

    def weights(self, rows: Rows, given: LossInput, context: StepContext) -> Tensor:
        """sigmoid((s_p - b_u) / t_w), [R]; b_u is renewed for the next step where the epoch is due."""
        users = need(given, "row_ids", "sl_at_k", _PAIRS)
        before = state(self, "thresholds")[users].to(rows.positive.dtype)
        if (context.epoch + 1) % self.refresh == 0:
            self.thresholds[users] = self._kth_largest(rows, users, given).to(self.thresholds.dtype)
        return torch.sigmoid((rows.positive - before) / self.sharpness)

    @torch.no_grad()
    def _kth_largest(self, rows: Rows, users: Tensor, given: LossInput) -> Tensor:
        indptr, items = need(given, "user_items", "sl_at_k", _PAIRS)
        lengths = indptr.diff()
        if not self._longest:  # users with more items than nine in ten are cut there
            self._longest = max(1, int(torch.quantile(lengths.double(), 0.9)))
        count = lengths[users].clamp(max=self._longest)
        place = torch.arange(int(count.max()), device=users.device)
        inside = place < count[:, None]
        entries = items[(indptr[users][:, None] + place).clamp(max=max(0, items.numel() - 1))]
        own = entries.masked_fill(~inside, -1)
        scores = torch.cat([_scores(rows, own), _scores(rows, rows.negatives)], 1)
        kth = scores.topk(min(self.k, scores.shape[1]), dim=1).values[:, -1]
        return torch.where(torch.isfinite(kth), kth, -1.0)


def _scores(rows: Rows, items: Tensor) -> Tensor:
    """Cosines with ``items`` ([R, N] or [N]), [R, N]; minus infinity where there is none (-1)."""
    return sampled_scores(rows.anchors, rows.items, items).masked_fill(items < 0, -torch.inf)


class SLAtK(_Threshold):
    """sigmoid((s_p - b_u) / t_w) log sum_j exp((s_j - s_p) / t): rows in reach of the top K count more.

    The gradient goes through the weight's s_p as well, b_u is held. Source: Yang et al., "Breaking the top-K
    barrier: advancing top-K ranking metrics optimization in recommender systems", KDD 2025.
    """

    def __init__(self, config: SLAtKConfig) -> None:
        super().__init__(config)

    def forward(self, given: LossInput, context: StepContext) -> Tensor:
        rows = self.rows(given)
        loss = rows.logsumexp(self.temperature) - rows.positive / self.temperature
        return mean_of(torch.where(loss > -torch.inf, loss, 0.0) * self.weights(rows, given, context))


class _Averages:
    """log g_u, a moving average of the user's mean exponential, in logarithms. -inf: not met yet."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def ratio(self, log_g: Tensor, users: Tensor, log_mean: Tensor, alive: Tensor) -> Tensor:
        """exp(log_mean) / g, g renewed by this row and held; ``log_g`` [n_users] takes the users' means over
        the rows that are ``alive`` (bool [R]); the others have nothing to say of g."""
        now = log_mean.detach().to(log_g.dtype)
        before = log_g[users]
        renewed = torch.logaddexp(
            before + torch.log1p(torch.tensor(-self.rate)), now + torch.log(torch.tensor(self.rate))
        )
        renewed = torch.where(before == -torch.inf, now, renewed)
        renewed = torch.where(alive, renewed, -torch.inf)
        top = torch.where(alive.any(), renewed.max(), 0.0)
        total = torch.zeros_like(log_g).index_add_(0, users, torch.exp(renewed - top))
        count = torch.zeros_like(log_g).index_add_(0, users, alive.to(now.dtype))
        means = (total[users] / count[users]).log() + top
        log_g[users] = torch.where(count[users] > 0, means, before)
        return torch.exp(log_mean - torch.where(alive, renewed, 0.0).to(log_mean.dtype))


class SogCLR(SampledLoss):
    """-s_p / t + E_j exp(s_j / t) / g_u: its gradient is that of a softmax over everything the user was ever
    shown, so few sampled items a step do.

    Source: Yuan et al., "Provable stochastic optimization for global contrastive learning", ICML 2022.
    """

    needs: frozenset[Need] = frozenset({"negatives", "row_ids"})
    local = True
    surrogate = True

    def __init__(self, config: SogCLRConfig) -> None:
        super().__init__(config)
        self.temperature, self.averages = config.temperature, _Averages(config.rate)

    def prepare(self, facts: DataFacts) -> None:
        """g_u unknown."""
        self.register_buffer("log_g", torch.full((facts.n_users,), -torch.inf))

    def forward(self, given: LossInput, context: StepContext) -> Tensor:
        rows = self.rows(given)
        users = need(given, "row_ids", "sogclr", _PAIRS)
        spread = _ratio(self, rows, users, self.temperature)
        return mean_of(spread - rows.positive / self.temperature)


class SogSLAtK(_Threshold):
    """-w_r s_p / t + E_j exp(s_j / t) / g_u, w_r SL@K's weights over their mean in the batch, held.

    Source: the combination of SL@K and SogCLR that IR-Benchmark lists; w is held here by decision.
    """

    surrogate = True

    def __init__(self, config: SogSLAtKConfig) -> None:
        super().__init__(config)
        self.averages = _Averages(config.rate)

    def prepare(self, facts: DataFacts) -> None:
        """b_u and g_u."""
        super().prepare(facts)
        self.register_buffer("log_g", torch.full((facts.n_users,), -torch.inf))

    def forward(self, given: LossInput, context: StepContext) -> Tensor:
        rows = self.rows(given)
        weight = self.weights(rows, given, context).detach()
        weight = weight / weight.mean().clamp(min=1e-12)
        spread = _ratio(self, rows, need(given, "row_ids", "sogsl_at_k", _PAIRS), self.temperature)
        return mean_of(spread - weight * rows.positive / self.temperature)


def _ratio(loss: SogCLR | SogSLAtK, rows: Rows, users: Tensor, temperature: float) -> Tensor:
    """E_j exp(s_j / t) over its moving average, [R]; zero for a row without entries."""
    normaliser = rows.logsumexp(temperature)
    alive = normaliser > -torch.inf
    log_mean = torch.where(alive, normaliser, 0.0) - rows.live.sum(1).clamp(min=1).log()
    log_g = state(loss, "log_g")
    return torch.where(alive, loss.averages.ratio(log_g, users, log_mean, alive), 0.0)
