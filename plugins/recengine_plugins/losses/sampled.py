"""What losses over sampled items share: scores by cosine or dot product, log-sum-exp, checks of the input.

All log-sum-exp forms run through recengine.ops.sampled_logsumexp, all others through sampled_logits: the
R x N x d tensor of the sampled items' vectors is never made.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from recengine.contracts.loss import LossInput, Need
from recengine.errors import UsageError
from recengine.nn.named import named_items
from recengine.nn.threads import all_threads
from recengine.nn.unit import unit_rows
from recengine.ops import hardest, sampled_logits, sampled_logsumexp
from recengine.ops.histories import in_histories
from recengine_plugins.losses.config import SampledConfig


@dataclass(frozen=True)
class Rows:
    """A batch in the loss's own geometry: anchors [R, d], items [n, d] (of a ``local`` loss those that the
    batch names, and positives and negatives say which of these), positive [R] (the score of each row's own
    item), negatives int64 [R, N] or [N], rejected bool [R, N] (None: none), live bool [R, N] (not the row's
    own item, and not rejected)."""

    anchors: Tensor
    items: Tensor
    positives: Tensor
    positive: Tensor
    negatives: Tensor
    rejected: Tensor | None = None

    @property
    def live(self) -> Tensor:
        """bool [R, N]."""
        live = self.negatives != self.positives[:, None]
        return live if self.rejected is None else live & ~self.rejected

    def logits(self) -> Tensor:
        """Scores of the sampled items, [R, N], with gradients."""
        negatives = self.negatives
        if negatives.ndim == 1:  # a plain product, whose bits depend on the threads
            return sampled_logits(self.anchors, self.items, negatives)
        return all_threads(lambda a, t: sampled_logits(a, t, negatives), self.anchors, self.items)

    def logsumexp(
        self,
        temperature: float | Tensor,
        *,
        log_weight: Tensor | None = None,
        include_positive: bool = False,
    ) -> Tensor:
        """log sum_j exp(s_j / temperature + log_weight_j), [R]; the row's own item is left out of the sampled
        ones, and is one more entry with ``include_positive``. Minus infinity where no entry is left."""
        negatives, positives = self.negatives, self.positives
        if self.rejected is not None:
            given = self.anchors.new_zeros(()) if log_weight is None else log_weight
            log_weight = given.expand(self.shape).masked_fill(self.rejected, -torch.inf)

        def reduce(anchors: Tensor, items: Tensor, *weight: Tensor) -> Tensor:
            return sampled_logsumexp(
                anchors,
                items,
                negatives,
                log_weight=weight[0] if weight else None,
                temperature=temperature,
                positives=positives if include_positive else None,
                exclude=positives,
            )

        if log_weight is None:
            return all_threads(reduce, self.anchors, self.items)
        if negatives.ndim == 1:  # a plain product, whose bits depend on the threads
            return reduce(self.anchors, self.items, log_weight.expand(self.shape))
        return all_threads(reduce, self.anchors, self.items, log_weight.expand(self.shape))

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, sampled items of each."""
        return self.anchors.shape[0], self.negatives.shape[-1]


class SampledLoss(nn.Module):
    """Base of the losses over sampled items: says what it needs, and makes Rows of its input. local: it reads
    no items but those that positives and negatives name, and asks for nothing by their ids."""

    needs: frozenset[Need] = frozenset({"negatives"})
    local = False
    score: Literal["cosine", "dot"] = "cosine"

    def __init__(self, config: SampledConfig) -> None:
        super().__init__()
        self.negatives, self.shared = config.negatives, config.shared
        self.sampler, self.power, self.keep = config.sampler, config.power, config.hardest
        self.reject = config.reject
        if self.reject:
            self.needs: frozenset[Need] = self.needs | {"row_ids", "user_items"}

    def rows(self, given: LossInput) -> Rows:
        """Raises UsageError, naming the setting, when nothing was sampled or a vector is not finite."""
        if given.negatives is None:
            raise UsageError(
                "this loss needs sampled items", where="loss", fix="let the model's feed ask for negatives"
            )
        _no_bias_beside_cosines(given, self.score)
        rejected = met(given) if self.reject else None
        given = with_bias_as_a_column(given)
        if self.local and given.negatives.ndim == 1:
            items, positives, negatives = named_items(given.items, given.positives, given.negatives)
            given = replace(given, items=items, positives=positives, negatives=negatives)
        anchors, items = geometry(given, self.score)
        positive = (anchors * functional.embedding(given.positives, items)).sum(1)
        negatives = given.negatives
        if 0 < self.keep < negatives.shape[-1]:
            open_to = negatives.masked_fill(negatives == given.positives[:, None], -1)
            negatives = hardest(anchors, items, open_to, self.keep)
        return Rows(anchors, items, given.positives, positive, negatives, rejected)


def with_bias_as_a_column(given: LossInput) -> LossInput:
    """The same scores <a_r, e_i> + b_i as inner products alone: b_i is one more column of the items, which
    stands against ones in the anchors."""
    if given.bias is None:
        return given
    ones = given.anchors.new_ones(given.anchors.shape[0], 1)
    column = given.bias.to(given.items.dtype)[:, None]
    return replace(
        given,
        anchors=torch.cat([given.anchors, ones], dim=1),
        items=torch.cat([given.items, column], dim=1),
        bias=None,
    )


def met(given: LossInput) -> Tensor:
    """bool [R, N]: shared items that the row's user was trained on. Raises UsageError where the model does
    not say who that is."""
    why = "take a model of user-item pairs, or loss.reject = false"
    users, history = need(given, "row_ids", "reject", why), need(given, "user_items", "reject", why)
    return in_histories(users, history, need(given, "negatives", "reject", why), given.items.shape[0])


def geometry(given: LossInput, score: str) -> tuple[Tensor, Tensor]:
    """Anchors and items, of length one for cosines, beside which biases are refused. On a CPU vectors are
    checked to be finite."""
    _no_bias_beside_cosines(given, score)
    anchors, items = given.anchors, given.items
    if anchors.device.type == "cpu":
        for name, vectors in (("anchors", anchors), ("items", items)):
            if not bool(torch.isfinite(vectors.detach().sum())):
                _not_finite(name, vectors.detach())
    if score == "cosine":
        return unit_rows(anchors), unit_rows(items)
    return anchors, items


def _no_bias_beside_cosines(given: LossInput, score: str) -> None:
    if given.bias is not None and score == "cosine":
        raise UsageError(
            "a cosine has no place for item biases",
            where="loss",
            fix="take a model without biases, or a loss over dot products",
        )


def mean_of(rows: Tensor, live: Tensor | None = None) -> Tensor:
    """Mean over rows; those without an entry (``live`` false, or a loss of minus infinity) count as zero."""
    live = rows.detach() > -torch.inf if live is None else live
    return torch.where(live, rows, 0.0).mean()


def mean_over(values: Tensor, live: Tensor) -> Tensor:
    """Mean of ``values`` [R, N] over the live entries of each row, [R]; zero for a row without any."""
    return (values * live).sum(1) / live.sum(1).clamp(min=1)


def need(given: Any, what: str, loss: str, fix: str) -> Any:
    """``given.what``; raises UsageError when the model did not supply it."""
    found = getattr(given, what)
    if found is None:
        raise UsageError(f"the loss '{loss}' needs {what}", where="loss.name", found="None", fix=fix)
    return found


def state(loss: nn.Module, name: str) -> Tensor:
    """The state ``name`` of the loss; raises UsageError before it was sized."""
    found = getattr(loss, name, None)
    if found is None:
        raise UsageError(
            "the loss has not been told how many users and items there are",
            where=type(loss).__name__,
            fix="train it with recengine.fit, or call prepare(facts) first",
        )
    held: Tensor = found
    return held


def _not_finite(name: str, vectors: Tensor) -> None:
    wrong = ~torch.isfinite(vectors).all(1)
    if bool(wrong.any()):
        raise UsageError(
            f"training diverged: the {name} given to the loss are not finite",
            where=f"loss ({name})",
            found=f"NaN or infinity in {int(wrong.sum())} of {len(wrong)} rows",
            expected="finite vectors",
            fix="lower training.learning_rate, set training.clip_norm, or raise a low loss.temperature",
        )
