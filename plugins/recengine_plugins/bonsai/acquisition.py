"""Acquisition functions by name, weighted by feasibility, with their natural scale."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from recengine_plugins.bonsai.config import BonsaiConfig
from recengine_plugins.bonsai.surrogate import Feasibility


class Acquisition(nn.Module):
    """``forward(X [b, 1, d]) -> [b]`` for the optimiser; ``natural(X [b, d]) -> [b]`` for pruning.

    Log acquisitions are exponentiated for pruning, so that its tolerance always acts on the natural scale.
    """

    def __init__(self, inner: Any, is_log: bool, feasibility: Feasibility | None) -> None:
        super().__init__()
        self.inner, self.is_log, self.feasibility = inner, is_log, feasibility

    def forward(self, X: Tensor) -> Tensor:
        value: Tensor = self.inner(X)
        if self.feasibility is None:
            return value
        log_p = self.feasibility.log_probability(X)
        return value + log_p if self.is_log else value * log_p.exp()

    def natural(self, X: Tensor) -> Tensor:
        with torch.no_grad():
            value = self(X.unsqueeze(-2))
            return value.exp() if self.is_log else value


class OnlyFeasibility(nn.Module):
    """log P(feasible): what is maximised while no feasible point is known. Never pruned."""

    def __init__(self, feasibility: Feasibility) -> None:
        super().__init__()
        self.feasibility = feasibility

    def forward(self, X: Tensor) -> Tensor:
        return self.feasibility.log_probability(X)


def build(
    config: BonsaiConfig,
    model: Any,
    X: Tensor,
    Y: Tensor,
    pending: Tensor | None,
    feasibility: Feasibility,
    seed: int,
) -> Acquisition:
    """The acquisition that the config names, given the data X [n, d], Y [n, m] and pending points."""
    from botorch.acquisition.analytic import LogExpectedImprovement
    from botorch.acquisition.logei import qLogNoisyExpectedImprovement
    from botorch.acquisition.monte_carlo import qUpperConfidenceBound
    from botorch.acquisition.multi_objective.logei import qLogNoisyExpectedHypervolumeImprovement
    from botorch.sampling import SobolQMCNormalSampler

    weight = None if feasibility.model is None else feasibility
    # fixed base samples: pruning compares values that differ by less than Monte Carlo noise
    sampler = SobolQMCNormalSampler(torch.Size([config.mc_samples]), seed=seed)
    if Y.shape[1] > 1:
        low, spread = Y.min(dim=0).values, (Y.max(dim=0).values - Y.min(dim=0).values).clamp_min(1e-9)
        inner: Any = qLogNoisyExpectedHypervolumeImprovement(
            model, (low - 0.1 * spread).tolist(), X, sampler=sampler, X_pending=pending, prune_baseline=True
        )
        return Acquisition(inner, True, weight)
    if config.acquisition == "ucb":
        return Acquisition(
            qUpperConfidenceBound(model, config.beta, sampler=sampler, X_pending=pending), False, weight
        )
    if config.acquisition == "log_ei" and pending is None:
        return Acquisition(LogExpectedImprovement(model, best_f=Y.max()), True, weight)
    inner = qLogNoisyExpectedImprovement(model, X, sampler=sampler, X_pending=pending, prune_baseline=True)
    return Acquisition(inner, True, weight)
