"""Lower-left partial AUC (LLPAUC)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from recengine.contracts.batch import StepContext
from recengine.contracts.loss import LossInput
from recengine_plugins.losses.config import LLPAUCConfig
from recengine_plugins.losses.sampled import SampledLoss, mean_over

_KAPPA = 5.0
_START = {"a": 1.0, "b": 0.0, "upper": 0.5, "lower": 0.5, "gamma": 0.0, "price_a": 0.5, "price_b": 0.5}


class LLPAUC(SampledLoss):
    """A surrogate of the AUC among the best-scored positives and negatives; x = sigmoid of dot products.

        -s1 - r(-(x_p - a)^2 + 2 (1 + g) x_p - s1) / alpha + s2 + r((x_j - b)^2 + 2 (1 + g) x_j - s2) / beta
        - g^2 + l_a (a + g) + l_b (g + 1 - b),    r(y) = log(1 + exp(kappa y)) / kappa, kappa = 5

    with learned scalars clipped to a, b in [0, 1], s1 in [-1, 4], s2 in [0, 5], g in [max(-a, b - 1), 1]. The
    paper asks for ascent in s1 and g; here, as in IR-Benchmark, all scalars descend (there s1, s2 and g at
    twice the learning rate, here at the model's).
    Source: Shi et al., "Lower-left partial AUC", WWW 2024.
    """

    score = "dot"

    def __init__(self, config: LLPAUCConfig) -> None:
        super().__init__(config)
        self.alpha, self.beta = config.alpha, config.beta
        self.scalars = nn.ParameterDict({name: nn.Parameter(torch.tensor(v)) for name, v in _START.items()})

    def forward(self, given: LossInput, context: StepContext) -> Tensor:
        rows = self.rows(given)
        self._clip()
        a, b, upper, lower, gamma, price_a, price_b = (self.scalars[name] for name in _START)
        x, y = torch.sigmoid(rows.positive), torch.sigmoid(rows.logits())
        taken = -(x - a).square() + 2 * (1 + gamma) * x - upper
        left = (y - b).square() + 2 * (1 + gamma) * y - lower
        gain = functional.softplus(taken, beta=_KAPPA).mean() / self.alpha
        cost = mean_over(functional.softplus(left, beta=_KAPPA), rows.live).mean() / self.beta
        prices = price_a * (a + gamma) + price_b * (gamma + 1 - b)
        total: Tensor = -upper - gain + lower + cost - gamma.square() + prices
        return total

    @torch.no_grad()
    def _clip(self) -> None:
        bounds = {"a": (0.0, 1.0), "b": (0.0, 1.0), "upper": (-1.0, 4.0), "lower": (0.0, 5.0)}
        for name, (low, high) in bounds.items():
            self.scalars[name].clamp_(low, high)
        least = max(-float(self.scalars["a"]), float(self.scalars["b"]) - 1)
        self.scalars["gamma"].clamp_(least, 1.0)
