"""Acquisition functions by name, weighted by feasibility, with their natural scale."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from recengine_plugins.bonsai.config import BonsaiConfig
from recengine_plugins.bonsai.improvement import LogImprovement
from recengine_plugins.bonsai.surrogate import Feasibility


class Acquisition(nn.Module):
    """``forward(X [b, 1, d]) -> [b]`` for the optimiser; ``natural(X [b, d]) -> [b]`` for pruning.

    Log acquisitions are exponentiated for pruning, so that its tolerance always acts on the natural scale.
    Feasibility multiplies the natural value above ``floor`` (0 for improvements; for a confidence bound the
    worst value measured, since it has a sign).
    """

    def __init__(self, inner: Any, is_log: bool, feasibility: Feasibility | None, floor: float = 0.0) -> None:
        super().__init__()
        self.inner, self.is_log, self.feasibility, self.floor = inner, is_log, feasibility, floor

    def forward(self, X: Tensor) -> Tensor:
        value: Tensor = self.inner(X)
        if self.feasibility is None:
            return value
        log_p = self.feasibility.log_probability(X)
        if self.is_log:
            return value + log_p
        above = value - self.floor
        return torch.where(above > 0, above * log_p.exp(), above) + self.floor

    def plain(self, X: Tensor) -> Tensor:
        """``forward`` of rows [b, d] without gradients."""
        with torch.no_grad():
            return self(X.unsqueeze(-2))

    def natural(self, X: Tensor, log_unit: float = 0.0) -> Tensor:
        """Natural scale of rows [b, d]; a log acquisition in units of exp(``log_unit``), so that pruning
        still tells gains apart that are too small for a float."""
        value = self.plain(X)
        return (value - log_unit).exp() if self.is_log else value


class OnlyFeasibility(nn.Module):
    """log P(feasible): what is maximised while no feasible point is known. Never pruned."""

    def __init__(self, feasibility: Feasibility) -> None:
        super().__init__()
        self.feasibility = feasibility

    def forward(self, X: Tensor) -> Tensor:
        return self.feasibility.log_probability(X)

    def plain(self, X: Tensor) -> Tensor:
        """``forward`` of rows [b, d] without gradients."""
        with torch.no_grad():
            return self(X.unsqueeze(-2))


def build(
    config: BonsaiConfig,
    model: Any,
    X: Tensor,
    Y: Tensor,
    pending: Tensor | None,
    feasibility: Feasibility,
    seed: int,
) -> Acquisition:
    """The acquisition that the config names, given the data X [n, d], Y [n, m] and pending points.

    The closed form of improvement cannot wait for pending points; its Monte Carlo form then takes its place.
    """
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
        inner = qUpperConfidenceBound(model, config.beta, sampler=sampler, X_pending=pending)
        return Acquisition(inner, False, weight, floor=float(Y.min()))
    if config.acquisition == "log_ei" and pending is None:
        return Acquisition(LogImprovement(model, X), True, weight)
    inner = qLogNoisyExpectedImprovement(model, X, sampler=sampler, X_pending=pending, prune_baseline=True)
    return Acquisition(inner, True, weight)
