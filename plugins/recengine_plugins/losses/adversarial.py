"""InfoNCE whose negatives are weighed by an adversary (AdvInfoNCE)."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from recengine.contracts.batch import StepContext
from recengine.contracts.loss import LossInput, Need
from recengine.contracts.model import DataFacts
from recengine.ops import sampled_logits
from recengine_plugins.losses.config import AdvInfoNCEConfig
from recengine_plugins.losses.sampled import Rows, SampledLoss, mean_of, need, state

_NOTHING = -1e30  # exp of it is 0, and a row of nothing else has finite gradients


class AdvInfoNCE(SampledLoss):
    """log(1 + K sum_j delta_j exp((s_j - s_p) / t)), delta = N softmax_j <a_u, b_j> over the N sampled items
    of a row that count.

    The adversary's tables a and b climb the same loss, by steps of a fixed length along the sign of the
    gradient, in every ``every``-th of the first ``adversary_epochs`` epochs. That length stands in for the
    authors' second optimiser (Adam at the same rate): a loss here has no optimiser of its own. The model
    takes its step in those epochs as well (in IR-Benchmark the adversary's is instead of it), and the
    adversary rests after a number of epochs (the authors': once a KL budget is spent).
    Source: Zhang et al., "Empowering collaborative filtering with principled adversarial contrastive loss",
    NeurIPS 2023.
    """

    needs: frozenset[Need] = frozenset({"negatives", "row_ids"})
    adversary_users: Tensor
    adversary_items: Tensor

    def __init__(self, config: AdvInfoNCEConfig) -> None:
        super().__init__(config)
        self.temperature, self.weight = config.temperature, config.negative_weight
        self.width, self.rate = config.adversary_factors, config.adversary_rate
        self.every, self.until = config.every, config.adversary_epochs

    def prepare(self, facts: DataFacts) -> None:
        """The adversary's tables."""
        spread = self.width**-0.5
        users, items = torch.randn(facts.n_users, self.width), torch.randn(facts.n_items, self.width)
        self.register_buffer("adversary_users", users * spread)
        self.register_buffer("adversary_items", items * spread)

    def forward(self, given: LossInput, context: StepContext) -> Tensor:
        rows = self.rows(given)
        users = need(given, "row_ids", "advinfonce", "take a model of user-item pairs")
        a = functional.embedding(users, state(self, "adversary_users"))
        b = state(self, "adversary_items")
        if context.epoch < self.until and (context.epoch + 1) % self.every == 0:
            self._climb(rows, users, a, b)
        with torch.no_grad():
            weight = self._log_weight(rows, a, b).to(rows.positive.dtype)
        normaliser = rows.logsumexp(self.temperature, log_weight=weight, include_positive=True)
        return mean_of(normaliser - rows.positive / self.temperature)

    def _log_weight(self, rows: Rows, a: Tensor, b: Tensor) -> Tensor:
        """log(K delta), [R, N]; what does not count gets no share."""
        live = rows.live
        logits = sampled_logits(a, b, rows.negatives).masked_fill(~live, _NOTHING)
        entries = live.sum(1, keepdim=True).clamp(min=1).log().to(logits.dtype)
        return torch.log_softmax(logits, dim=1) + math.log(self.weight) + entries

    def _climb(self, rows: Rows, users: Tensor, a: Tensor, b: Tensor) -> None:
        """One step of the adversary upwards."""
        held = {"anchors": rows.anchors, "items": rows.items, "positive": rows.positive}
        still = replace(rows, **{name: tensor.detach() for name, tensor in held.items()})
        with torch.enable_grad():
            of_users, of_items = a.detach().requires_grad_(), b.detach().clone().requires_grad_()
            weight = self._log_weight(still, of_users, of_items).to(rows.positive.dtype)
            value = still.logsumexp(self.temperature, log_weight=weight, include_positive=True).sum()
            up_users, up_items = torch.autograd.grad(value, (of_users, of_items))
        with torch.no_grad():
            total = torch.zeros_like(self.adversary_users).index_add_(0, users, up_users)
            self.adversary_users += self.rate * total.sign()
            self.adversary_items += self.rate * up_items.sign()
