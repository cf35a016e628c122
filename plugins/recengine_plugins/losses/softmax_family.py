"""Softmax losses over sampled items; s are cosines, d_j = s_j - s_p, all are row means.

sl      log sum_j exp(d_j / t)
ssm     log(1 + sum_j exp(d_j / t - log(N q_j)))
bsl     -s_p / t1 + (t2 / t1) log sum_j exp(s_j / t2)                        form 'ratio'
        -log mean over the user's rows of exp(s_p / t) + w log E_j exp(s_j / t)   form 'grouped'
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from recengine.contracts.batch import StepContext
from recengine.contracts.loss import LossInput
from recengine.ops import logsumexp_rows
from recengine_plugins.losses.config import BSLConfig, SLConfig, SSMConfig
from recengine_plugins.losses.sampled import SampledLoss, mean_of, need


class SL(SampledLoss):
    """log sum_j exp((s_j - s_p) / t), negatives only in the sum.

    Source: Wu et al., "On the effectiveness of sampled softmax loss for item recommendation", TOIS 2023, in
    the form with sampled items only, as IR-Benchmark has it.
    """

    local = True

    def __init__(self, config: SLConfig) -> None:
        super().__init__(config)
        self.temperature = config.temperature

    def forward(self, given: LossInput, context: StepContext) -> Tensor:
        rows = self.rows(given)
        return mean_of(rows.logsumexp(self.temperature) - rows.positive / self.temperature)


class SSM(SampledLoss):
    """log(1 + sum_j exp((s_j - s_p) / t - log(N q_j))), q_j the probability with which j was drawn.

    Draws that are not uniform are corrected (logQ); uniform ones stand as they are.
    Source: Wu et al., TOIS 2023; Bengio and Senecal, 2008, for the correction.
    """

    local = True

    def __init__(self, config: SSMConfig) -> None:
        super().__init__(config)
        self.temperature, self.correct = config.temperature, config.log_q

    def forward(self, given: LossInput, context: StepContext) -> Tensor:
        rows = self.rows(given)
        weight = None
        if self.correct and given.log_q is not None and not 0 < self.keep < given.negatives.shape[-1]:
            weight = -(given.log_q + math.log(rows.shape[1])).to(rows.anchors.dtype)
        normaliser = rows.logsumexp(self.temperature, log_weight=weight, include_positive=True)
        return mean_of(normaliser - rows.positive / self.temperature)


class BSL(SampledLoss):
    """Bilateral softmax: the positive side gets a temperature of its own.

    Form 'ratio' (IR-Benchmark's): t1 = t2 is SL. Form 'grouped' (the authors'): the positives of one user in
    the batch are pooled by a log-mean-exp, and the negative side is weighed.
    Source: Wu et al., "BSL: understanding and improving softmax loss for recommendation", ICDE 2024.
    """

    local = True

    def __init__(self, config: BSLConfig) -> None:
        super().__init__(config)
        self.form, self.weight = config.form, config.negative_weight
        self.positive_temperature, self.temperature = config.positive_temperature, config.temperature
        if self.form == "grouped":
            self.needs = self.needs | {"row_ids", "user_groups"}

    def forward(self, given: LossInput, context: StepContext) -> Tensor:
        rows = self.rows(given)
        normaliser = rows.logsumexp(self.temperature)
        if self.form == "ratio":
            share = self.temperature / self.positive_temperature
            return mean_of(share * normaliser - rows.positive / self.positive_temperature)
        users = need(given, "row_ids", "bsl", "take a model of user-item pairs, or loss.form = 'ratio'")
        pooled = _pooled(rows.positive / self.temperature, users)
        entries = rows.live.sum(1).clamp(min=1).log()
        return mean_of(self.weight * (normaliser - entries) - pooled)


def _pooled(values: Tensor, groups: Tensor) -> Tensor:
    """log-mean-exp of ``values`` [R] over the rows with the same group, [R]."""
    _, group, sizes = torch.unique(groups, return_inverse=True, return_counts=True)
    order = torch.argsort(group, stable=True)
    begin = torch.cumsum(sizes, 0) - sizes
    place = torch.arange(len(order), device=values.device) - begin[group[order]]
    table = values.new_zeros(len(sizes), int(sizes.max()))
    table = table.index_put((group[order], place), values[order])
    live = torch.arange(table.shape[1], device=values.device) < sizes[:, None]
    return (logsumexp_rows(table, live) - sizes.log())[group]
