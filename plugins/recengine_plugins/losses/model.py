"""Losses over anchors a_r, item vectors e_i and targets p_r; s_ri = <a_r, e_i> + b_i. All are row means."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from recengine.contracts.batch import StepContext
from recengine.contracts.loss import LossInput, Need
from recengine.errors import UsageError
from recengine.nn.threads import all_threads
from recengine.ops import linear_cross_entropy, logsumexp_rows, sampled_logits, sampled_logsumexp
from recengine_plugins.losses.config import (
    BCEConfig,
    BPRConfig,
    GBCEConfig,
    SampledSoftmaxConfig,
    SoftmaxConfig,
)
from recengine_plugins.losses.sampled import geometry, met


class Softmax:
    """-log softmax_i(s_ri / T)[p_r] over every item of the catalogue, s with the bias as in ranking."""

    needs: frozenset[Need] = frozenset({"catalogue"})

    def __init__(self, config: SoftmaxConfig) -> None:
        self.scale, self.score = 1.0 / config.temperature, config.score

    def __call__(self, given: LossInput, context: StepContext) -> Tensor:
        vectors = geometry(given, self.score)
        bias = None if given.bias is None else given.bias * self.scale

        def by_rows(anchors: Tensor, items: Tensor) -> Tensor:
            return linear_cross_entropy(
                anchors, items, given.positives, bias=bias, scale=self.scale, reduction="none"
            )

        return all_threads(by_rows, *vectors).mean()


class _Sampled:
    """What losses with sampled items ask the trainer for."""

    needs: frozenset[Need] = frozenset({"negatives"})

    def __init__(self, config: BPRConfig | BCEConfig | GBCEConfig | SampledSoftmaxConfig) -> None:
        self.negatives, self.shared = config.negatives, config.shared
        self.sampler, self.power = config.sampler, config.power


class SampledSoftmax(_Sampled):
    """log(exp s_p + sum_n exp(s_n - log(N q_n))) - s_p, scores over the temperature.

    q_n is the probability with which item n was drawn, so the sum estimates the full softmax's without bias
    (Bengio and Senecal, 2008); with log_q off the sampled scores stand as they are. A sampled item that is
    the row's own target is left out.
    """

    def __init__(self, config: SampledSoftmaxConfig) -> None:
        super().__init__(config)
        self.correct, self.scale = config.log_q, 1.0 / config.temperature

    def __call__(self, given: LossInput, context: StepContext) -> Tensor:
        if given.negatives is not None and given.negatives.ndim == 2 and given.bias is None:
            return self._of_rows(given)
        positive, negative = scores(given)
        negative = negative * self.scale + self._weights(given)
        positive = positive * self.scale
        assert given.negatives is not None
        sampled = logsumexp_rows(negative, given.negatives != given.positives[:, None])
        return (torch.logaddexp(sampled, positive) - positive).mean()

    def _of_rows(self, given: LossInput) -> Tensor:
        """Items sampled for each row: the R x N x d tensor of their vectors is never made."""
        assert given.negatives is not None
        negatives, positives = given.negatives, given.positives
        weight = self._weights(given).expand(negatives.shape)

        def reduce(anchors: Tensor, items: Tensor) -> Tensor:
            return sampled_logsumexp(
                anchors,
                items,
                negatives,
                log_weight=weight,
                temperature=1.0 / self.scale,
                positives=positives,
                exclude=positives,
            )

        positive = (given.anchors * functional.embedding(positives, given.items)).sum(1)
        return (all_threads(reduce, given.anchors, given.items) - positive * self.scale).mean()

    def _weights(self, given: LossInput) -> Tensor:
        """-log(N q_n), or zero without the correction."""
        if not self.correct:
            return given.anchors.new_zeros(())
        assert given.negatives is not None
        count = given.negatives.shape[-1]
        if given.log_q is None:
            return given.anchors.new_tensor(math.log(given.items.shape[0]) - math.log(count))
        return -(math.log(count) + given.log_q)


class GBCE(_Sampled):
    """-(beta log sigma(s_p) + sum_n log(1 - sigma(s_n))) / (N + 1).

    alpha = N / (items - 1) is the sampling rate and beta = alpha (t (1 - 1 / alpha) + 1 / alpha); t = 0 gives
    binary cross-entropy, t = 1 undoes the over-confidence that sampling causes.

    ``balanced`` reads s + log(beta / N) for s, which changes no ranking: zero scores then pull the target as
    much as they push the sampled items. Without it the N sampled items outweigh the target until all scores
    are far below zero, which a dot product says by giving every row the same vector: on ml-100k training then
    stayed at popularity's level (NDCG@10 .036 after 100 epochs, .09 after 24 with it). A decision of ours.
    Source: Petrov and Macdonald, "gSASRec", RecSys 2023.
    """

    def __init__(self, config: GBCEConfig) -> None:
        super().__init__(config)
        self.calibration, self.balanced = config.calibration, config.balanced

    def __call__(self, given: LossInput, context: StepContext) -> Tensor:
        positive, negative = scores(given)
        count = negative.shape[1]
        alpha = min(1.0, count / max(1, given.items.shape[0] - 1))
        beta = alpha * (self.calibration * (1 - 1 / alpha) + 1 / alpha)
        if self.balanced:
            shift = math.log(beta / count)
            positive, negative = positive + shift, negative + shift
        assert given.negatives is not None
        own = given.negatives == given.positives[:, None]
        against = functional.softplus(negative).masked_fill(own, 0.0).sum(1)
        return ((beta * functional.softplus(-positive) + against) / (count + 1)).mean()


class _Chosen(_Sampled):
    """Losses that are means over whichever sampled items count: the ``hardest`` alone, and with ``reject``
    none that the row's user was trained on.

    Not a SampledLoss, which scores the items once more to choose among them and takes biases for one more
    column of the item table: here the scores are there before the choice, and no table is copied.
    """

    def __init__(self, config: BPRConfig | BCEConfig) -> None:
        super().__init__(config)
        self.keep, self.reject = config.hardest, config.reject
        if self.reject:
            self.needs = self.needs | {"row_ids", "user_items"}

    def chosen(self, given: LossInput) -> tuple[Tensor, Tensor, Tensor]:
        """s of the targets [R] and of the sampled items [R, K], which of these do not count, bool [R, K]."""
        positive, negative = scores(given)
        assert given.negatives is not None
        out = given.negatives == given.positives[:, None]
        if self.reject:
            out = out | met(given)
        if 0 < self.keep < negative.shape[1]:
            ranked = negative.detach().masked_fill(out, -torch.inf)
            best = ranked.topk(self.keep, dim=1).indices
            negative, out = negative.gather(1, best), out.gather(1, best)
        return positive, negative, out


class BCE(_Chosen):
    """-(log sigma(s_p) + mean_n log(1 - sigma(s_n))). Source: Kang and McAuley, 2018 (one negative a row)."""

    def __call__(self, given: LossInput, context: StepContext) -> Tensor:
        positive, negative, out = self.chosen(given)
        against = functional.softplus(negative).masked_fill(out, 0.0).mean(1)
        return (functional.softplus(-positive) + against).mean()


class BPR(_Chosen):
    """-mean_n log sigma(s_p - s_n). Source: Rendle et al., "BPR", UAI 2009; with the hardest items alone:
    Zhang et al., "Optimizing top-N collaborative filtering via dynamic negative item sampling", SIGIR 2013.
    """

    def __call__(self, given: LossInput, context: StepContext) -> Tensor:
        positive, negative, out = self.chosen(given)
        return functional.softplus(negative - positive[:, None]).masked_fill(out, 0.0).mean(1).mean()


def scores(given: LossInput) -> tuple[Tensor, Tensor]:
    """s of the targets [R] and of the sampled items [R, N]; raises UsageError when none were sampled."""
    if given.negatives is None:
        raise UsageError(
            "this loss needs sampled items", where="loss", fix="let the model's feed ask for negatives"
        )
    anchors, items = given.anchors, given.items
    positive = (anchors * functional.embedding(given.positives, items)).sum(1)
    negatives = given.negatives
    if negatives.ndim == 1:  # a plain product, whose bits depend on the threads
        negative = sampled_logits(anchors, items, negatives)
    else:
        negative = all_threads(lambda a, t: sampled_logits(a, t, negatives), anchors, items)
    if given.bias is not None:
        positive = positive + given.bias[given.positives]
        negative = negative + given.bias[given.negatives]
    return positive, negative
