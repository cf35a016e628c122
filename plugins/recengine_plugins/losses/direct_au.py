"""Alignment and uniformity, without negatives (DirectAU)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from recengine.contracts.batch import StepContext
from recengine.contracts.loss import LossInput, Need
from recengine.ops import logsumexp_rows, sampled_logsumexp
from recengine_plugins.losses.config import DirectAUConfig
from recengine_plugins.losses.sampled import geometry, need


class DirectAU:
    """E |x_u - y_i|^2 + g/2 (log E exp(-2 |x_u - x_u'|^2) + log E exp(-2 |y_i - y_i'|^2)), unit vectors.

    The first mean is over rows, the others over pairs of different users and of different items of the batch
    (each once, however often it occurs). On unit vectors -2 |x - x'|^2 = 4 <x, x'> - 4, so both run through
    the sampled log-sum-exp with the batch as its table.
    Source: Wang et al., "Towards representation alignment and uniformity in collaborative filtering",
    KDD 2022.
    """

    needs: frozenset[Need] = frozenset({"row_ids"})
    score = "cosine"

    def __init__(self, config: DirectAUConfig) -> None:
        self.uniformity = config.uniformity

    def __call__(self, given: LossInput, context: StepContext) -> Tensor:
        users = need(given, "row_ids", "directau", "take a model of user-item pairs")
        anchors, items = geometry(given, "cosine")
        targets = functional.embedding(given.positives, items)
        aligned = (anchors - targets).square().sum(1).mean()
        spread = _uniformity(anchors[_firsts(users)]) + _uniformity(targets[_firsts(given.positives)])
        return aligned + 0.5 * self.uniformity * spread


def _firsts(ids: Tensor) -> Tensor:
    """Where each distinct id is first met, by ascending id."""
    distinct, inverse = torch.unique(ids, return_inverse=True)
    place = torch.arange(len(ids), device=ids.device)
    return torch.full((len(distinct),), len(ids), device=ids.device).scatter_reduce(0, inverse, place, "amin")


def _uniformity(vectors: Tensor) -> Tensor:
    """log of the mean over pairs of different rows of exp(-2 |x - x'|^2)."""
    count = vectors.shape[0]
    if count < 2:
        return vectors.sum() * 0.0
    every = torch.arange(count, device=vectors.device)
    each = sampled_logsumexp(vectors, vectors, every, temperature=0.25, exclude=every)
    return logsumexp_rows(each[None])[0] - math.log(count * (count - 1)) - 4.0
