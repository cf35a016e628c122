"""Losses with margins over sampled items.

ccl     (1 - s_p) + w mean_j relu(s_j - m)                                      cosines
simce   relu(m - s_p + max_j s_j)                                               dot products
drrl    relu(1 - s_p) + N^(-1/o) |e + a relu(s_j - m_u)|_o + m_u, o = p / (p - 1)   cosines
mse     (sigmoid(s_p) - 1)^2 + mean_j sigmoid(s_j)^2                            dot products
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recengine.contracts.batch import StepContext
from recengine.contracts.loss import LossInput, Need
from recengine.contracts.model import DataFacts
from recengine_plugins.losses.config import CCLConfig, DrRLConfig, MSEConfig, SimCEConfig
from recengine_plugins.losses.sampled import SampledLoss, mean_over, need, state


class CCL(SampledLoss):
    """Cosine contrastive loss. Source: Mao et al., "SimpleX", CIKM 2021."""

    local = True

    def __init__(self, config: CCLConfig) -> None:
        super().__init__(config)
        self.margin, self.weight = config.margin, config.weight

    def forward(self, given: LossInput, context: StepContext) -> Tensor:
        rows = self.rows(given)
        against = mean_over(torch.relu(rows.logits() - self.margin), rows.live)
        return (1 - rows.positive + self.weight * against).mean()


class SimCE(SampledLoss):
    """The margin to the hardest sampled item alone; an upper bound of the sampled softmax up to constants.

    Source: Yang et al., "SimCE: simplifying cross-entropy loss for collaborative filtering", 2024.
    """

    score = "dot"

    def __init__(self, config: SimCEConfig) -> None:
        super().__init__(config)
        self.margin = config.margin

    def forward(self, given: LossInput, context: StepContext) -> Tensor:
        rows = self.rows(given)
        top = rows.logits().masked_fill(~rows.live, -torch.inf).amax(1)
        return torch.relu(self.margin - rows.positive + top).mean()


class DrRL(SampledLoss):
    """Distributionally robust ranking with a margin m_u a user, learned with the same gradient steps.

    The norm is the dual of a Renyi divergence about the sampled items. Source: Zhang et al., "Advancing loss
    functions in recommender systems: a comparative study with a Renyi divergence-based solution", AAAI 2025
    (arXiv 2506.15120), written from the bound as IR-Benchmark has it.
    """

    needs: frozenset[Need] = frozenset({"negatives", "row_ids"})
    local = True

    def __init__(self, config: DrRLConfig) -> None:
        super().__init__(config)
        self.dual = config.order / (config.order - 1)
        self.slope, self.floor, self.start = config.slope, config.floor, config.margin
        self.margins: nn.Parameter | None = None

    def prepare(self, facts: DataFacts) -> None:
        """One margin a user."""
        self.margins = nn.Parameter(torch.full((facts.n_users,), self.start))

    def forward(self, given: LossInput, context: StepContext) -> Tensor:
        rows = self.rows(given)
        users = need(given, "row_ids", "drrl", "take a model of user-item pairs")
        margins = state(self, "margins")[users].to(rows.positive.dtype)
        excess = self.floor + self.slope * torch.relu(rows.logits() - margins[:, None])
        norm = (mean_over(excess**self.dual, rows.live) + 1e-20) ** (1 / self.dual)
        return (torch.relu(1 - rows.positive) + norm + margins).mean()


class MSE(SampledLoss):
    """Squared error of the sigmoid: a baseline."""

    score = "dot"

    def __init__(self, config: MSEConfig) -> None:
        super().__init__(config)

    def forward(self, given: LossInput, context: StepContext) -> Tensor:
        rows = self.rows(given)
        against = mean_over(torch.sigmoid(rows.logits()).square(), rows.live)
        return ((torch.sigmoid(rows.positive) - 1).square() + against).mean()
