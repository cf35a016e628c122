"""DSL-R. A derived design that agrees with the public description of DSL, not a reproduction of it: the
paper's equations are not public to us."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from recengine.contracts.batch import StepContext
from recengine.contracts.loss import LossInput, Need
from recengine.errors import UsageError
from recengine.nn.named import named_items
from recengine.nn.threads import all_threads, threads_from_outside
from recengine.nn.unit import unit_rows
from recengine.ops import sampled_competition, sampled_logsumexp, sampled_scores
from recengine.ops.histories import in_histories
from recengine_plugins.dsl.config import DSLRConfig


@dataclass(frozen=True)
class Competition:
    """log_weight [R, N] (log w_j; zero where an entry does not live) and temperature [R] of a batch, with the
    slate int64 [R, M], its intensity q [R] and its least cosine [R] (-1 where it has no entry)."""

    log_weight: Tensor
    temperature: Tensor
    slate: Tensor
    intensity: Tensor
    threshold: Tensor


class DSLR(nn.Module):
    """log((1 / N) sum_j w_j exp(d_j / t_r)), d_j = s_j - s_p on cosines; w and t_r are held in the gradient.

    Weights (kappa): see ``log_weights``. Temperatures (gamma): t_r = t0 clip(exp(-gamma (q_r - q)), low,
    high), q_r the intensity of the row's slate and q its moving average over batches. In the first
    ``warmup`` epochs kappa = gamma = 0, which is SL less log N but for the two settings below, which act
    from the first step; then both strengths rise over ``ramp`` epochs. A ``negative_weight`` v other than 1
    gives v log((1 / N) sum_j w_j exp(s_j / t_r)) - s_p / t_r: no temperature changes how much a row pulls
    its target for how much it pushes the sampled items away, v does (BSL's weight). A ``reach_temperature``
    t_w weighs the rows, as SL@K does: the row's log-sum (not divided by N, so that it is not below zero where
    the weight's own gradient would turn round) times sigmoid((s_p - b_r) / t_w), b_r the least cosine of the
    slate, held.
    """

    needs: frozenset[Need] = frozenset({"negatives", "item_similarity"})
    score = "cosine"
    surrogate = True
    centre: Tensor

    def __init__(self, config: DSLRConfig) -> None:
        super().__init__()
        self.config = config
        self.negatives, self.shared = config.negatives, config.shared
        self.sampler, self.power = config.sampler, config.power
        if config.reject:
            self.needs = self.needs | {"row_ids", "user_items"}
        self.register_buffer("centre", torch.tensor(-1.0))  # below 0: no batch was seen

    def strength(self, epoch: int) -> float:
        """Share of kappa and gamma in force in ``epoch``, in [0, 1]."""
        beyond = epoch - self.config.warmup + 1
        return min(1.0, max(0.0, beyond / max(1, self.config.ramp)))

    def forward(self, given: LossInput, context: StepContext) -> Tensor:
        if given.negatives is None:
            raise UsageError(
                "this loss needs sampled items", where="loss", fix="let the model's feed ask for them"
            )
        if given.bias is not None:
            raise UsageError(
                "a cosine has no place for item biases",
                where="loss",
                fix="take a model without biases, or a loss over dot products",
            )
        live = self._live(given, given.negatives)
        if given.negatives.ndim == 1:
            items, positives, negatives = named_items(given.items, given.positives, given.negatives)
            given = replace(given, items=items, positives=positives, negatives=negatives)
        _finite(given)
        anchors, items, negatives = unit_rows(given.anchors), unit_rows(given.items), given.negatives
        positive = (anchors * functional.embedding(given.positives, items)).sum(1)
        found = self.competition(anchors, items, given.positives, positive, negatives, live, context.epoch)
        temperature = found.temperature
        log_weight = (
            found.log_weight.masked_fill(~live, -torch.inf) if self.config.reject else found.log_weight
        )

        def reduce(a: Tensor, t: Tensor) -> Tensor:
            return sampled_logsumexp(
                a, t, negatives, log_weight=log_weight, temperature=temperature, exclude=given.positives
            )

        count = live.sum(1)
        entries = count.clamp(min=1).log().to(positive.dtype)
        shared = negatives.ndim == 1  # then a plain product, whose bits depend on the threads
        normaliser = reduce(anchors, items) if shared else all_threads(reduce, anchors, items)
        loss = self.config.negative_weight * (normaliser - entries) - positive / temperature
        if self.config.scale_by_tau:
            loss = loss * (temperature / self.config.temperature)
        if self.config.reach_temperature:
            reach = torch.sigmoid((positive - found.threshold) / self.config.reach_temperature)
            loss = (loss + entries) * reach
        return torch.where(count > 0, loss, 0.0).mean()

    def _live(self, given: LossInput, negatives: Tensor) -> Tensor:
        """bool [R, N]: not the row's own item, and not rejected."""
        live = negatives != given.positives[:, None]
        if not self.config.reject:
            return live
        if given.row_ids is None or given.user_items is None:
            raise UsageError(
                "rejection needs the rows' users and what they were trained on",
                where="loss.reject",
                fix="take a model of user-item pairs, or loss.reject = false",
            )
        return live & ~in_histories(given.row_ids, given.user_items, negatives, given.items.shape[0])

    @torch.no_grad()
    def competition(
        self,
        anchors: Tensor,
        items: Tensor,
        positives: Tensor,
        positive: Tensor,
        negatives: Tensor,
        live: Tensor,
        epoch: int,
    ) -> Competition:
        """Weights and temperatures of a batch; the centre takes its mean intensity."""
        config, share = self.config, self.strength(epoch)
        level = torch.full_like(positive, config.temperature)
        kappa, gamma = share * config.kappa, share * config.gamma
        if not kappa and not gamma and not config.reach_temperature:
            none = torch.zeros_like(positive)
            empty = torch.zeros((len(live), 0), dtype=torch.int64, device=positive.device)
            return Competition(positive.new_zeros(live.shape), level, empty, none, none - 1.0)
        scores = _scores(anchors, items, negatives)
        likeness = _scores(items[positives], items, negatives) if kappa and config.rho < 1 else None
        with threads_from_outside(scores.device):
            found = sampled_competition(
                scores,
                live,
                positive,
                likeness=likeness,
                kappa=kappa,
                rho=config.rho,
                temperature=config.temperature,
                slate=config.slate,
            )
        log_weight, intensity, least = (x.to(positive.dtype) for x in (found.log_weight, *found[2:]))
        if gamma:
            centre = self._centred(intensity)
            ratio = torch.exp(-gamma * (intensity - centre)).clamp(config.clip_low, config.clip_high)
            level = level * ratio
        return Competition(log_weight, level, found.slate, intensity, least)

    def _centred(self, intensity: Tensor) -> Tensor:
        """The moving average before this batch (its own mean for the first), then renewed."""
        mean = intensity.mean().to(self.centre.dtype)
        before = mean if float(self.centre) < 0 else self.centre.clone()
        self.centre.copy_(self.config.momentum * before + (1 - self.config.momentum) * mean)
        return before


def _scores(anchors: Tensor, items: Tensor, negatives: Tensor) -> Tensor:
    if negatives.ndim == 1:  # a plain product, whose bits depend on the threads
        return sampled_scores(anchors, items, negatives)
    with threads_from_outside(anchors.device):
        return sampled_scores(anchors, items, negatives)


def _finite(given: LossInput) -> None:
    """Raises UsageError where a vector is not finite (looked at on a CPU only: a GPU would have to wait)."""
    if given.anchors.device.type != "cpu":
        return
    for name, vectors in (("anchors", given.anchors), ("items", given.items)):
        if not bool(torch.isfinite(vectors.detach().sum())) and not bool(torch.isfinite(vectors).all()):
            raise UsageError(
                f"the {name} given to the loss are not finite",
                where=f"loss ({name})",
                expected="finite vectors",
                fix="lower training.learning_rate, raise loss.temperature, or set training.clip_norm",
            )
