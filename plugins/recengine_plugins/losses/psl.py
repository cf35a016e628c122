"""Pairwise softmax with an activation in place of the exponential (PSL)."""

from __future__ import annotations

import torch
from torch import Tensor

from recengine.contracts.batch import StepContext
from recengine.contracts.loss import LossInput
from recengine.ops import logsumexp_rows
from recengine_plugins.losses.config import PSLConfig
from recengine_plugins.losses.sampled import SampledLoss, mean_of

_SMALLEST = 1e-12
ACTIVATIONS = {
    "tanh": lambda x: torch.log1p(torch.tanh(x)),
    "atan": lambda x: torch.log1p(torch.atan(x)),
    "relu": lambda x: (1 + x).clamp(min=_SMALLEST).log(),
}


class PSL(SampledLoss):
    """log sum_j exp(phi((s_j - s_p) / 2) / t), phi = log(1 + tanh), log(1 + atan) or log relu(1 + x).

    Scores are halved cosines, so t is about half of SL's. With ``coupled`` the sum is the mean over all
    entries of the batch, inside of the logarithm (the authors' second form).
    Source: Yang et al., "PSL: rethinking and improving softmax loss from pairwise perspective for
    recommendation", NeurIPS 2024.
    """

    local = True

    def __init__(self, config: PSLConfig) -> None:
        super().__init__(config)
        self.temperature, self.coupled = config.temperature, config.coupled
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, given: LossInput, context: StepContext) -> Tensor:
        rows = self.rows(given)
        differences = (rows.logits() - rows.positive[:, None]) / 2
        each = logsumexp_rows(self.activation(differences) / self.temperature, rows.live)
        if not self.coupled:
            return mean_of(each)
        entries = rows.live.sum().clamp(min=1).log().to(each.dtype)
        return mean_of(logsumexp_rows(each[None]) - entries)
