r"""Softmax losses over sampled items: gather, inner product and reduction in one pass, without a B x N x d
tensor.

The whole softmax family reduces to :func:`sampled_logsumexp` (sampled softmax, SSM with logQ correction, BSL,
SL@K, DSL with per-entry weights and per-row temperatures); :func:`logsumexp_rows` does the same with logits
that a loss has changed first; :func:`sampled_logits` gives the inner products with their gradients to losses
that are no log-sum-exp.

Gradients do not depend on the number of threads: the entries of an item are brought together by a counting
sort and summed in row order, so repeated items are safe and the bits are the same every time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._checks import (
    need_device,
    need_dimensions,
    need_dtype,
    need_floating,
    need_operands,
    need_positive,
    need_range,
    need_shape,
    readable,
)
from ._library import differentiable_once, native
from ._precision import autocast, kernel_takes, safe_logsumexp, wide
from .softmax_loss import catalogue_loss

__all__ = ["logsumexp_rows", "sampled_logits", "sampled_logsumexp", "sampled_scores"]


def sampled_logsumexp(
    anchors: Tensor,
    table: Tensor,
    negatives: Tensor,
    *,
    log_weight: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    positives: Tensor | None = None,
    exclude: Tensor | None = None,
) -> Tensor:
    r"""Log-sum-exp of every anchor's logits over its sampled items, [B] in float32.

    .. math:: \mathrm{lse}_b = \log \sum_{j} \exp\bigl(\langle a_b, t_{n_{bj}}\rangle / \tau_b + w_{bj}\bigr)

    With cosines (normalise anchors and table first) and :math:`s^+_b` the positive's cosine, sampled softmax
    is ``lse - s_pos / tau``; SSM includes the positive; a logQ correction is ``log_weight = -log(N Q)``;
    DSL passes :math:`\log w_{bj}` and :math:`\tau_b`.

    Parameters
    ----------
    anchors: [B, d] float32 or bfloat16 (float16 on CUDA), any strides; the backward pass on a CPU holds a
        copy where they are not contiguous float32.
    table: [I, d], dtype of ``anchors``.
    negatives: int64 [B, N], or [N] where all rows share them; -1 is no entry; repeats are allowed.
    log_weight: [B, N] or [N], added to the logits; gets a gradient.
    temperature: positive, a number or [B]; a tensor gets a gradient.
    positives: [B] int64: one more entry per row, without weight (-1: none).
    exclude: [B] int64: entries with this id drop out of their row (``positives`` stay): collisions of
        negatives with the positive, masked instead of sampled again.

    Returns
    -------
    [B], float32 (float64 for float64); minus infinity, without gradient, for a row without entries.

    Raises
    ------
    RuntimeError: naming the argument, where shapes, dtypes or devices do not fit, an id is not in the table,
        or a temperature is not positive.
    """
    anchors, table = autocast(anchors, table)
    _check_weights(anchors, table, negatives, log_weight, temperature, positives, exclude)
    per_row = temperature if isinstance(temperature, Tensor) else None
    scale = 1.0 if isinstance(temperature, Tensor) else 1.0 / temperature
    if negatives.dim() == 1:
        shared = (anchors, table, negatives, log_weight, per_row, exclude, scale)
        lse = _shared_logsumexp(*shared)
        return lse if positives is None else _and_positive(lse, anchors, table, positives, per_row, scale)
    if log_weight is not None:
        log_weight = wide(log_weight, anchors)
        log_weight = log_weight.expand(anchors.shape[0], -1) if log_weight.dim() == 1 else log_weight
    if per_row is not None:
        per_row = wide(per_row, anchors)
    arguments = (anchors, table, negatives, log_weight, per_row, positives, exclude, scale)
    if kernel_takes(anchors):
        reduced: Tensor = torch.ops.recengine.sampled_logsumexp(*arguments)
        return reduced
    return sampled_logsumexp_reference(*arguments)


def sampled_scores(anchors: Tensor, table: Tensor, negatives: Tensor, *, temperature: float = 1.0) -> Tensor:
    r"""Inner products of every anchor with its sampled items over the temperature, [B, N], without gradient.

    For weights and temperatures that are computed from the scores but not differentiated (DSL, hard-negative
    mining): 0 where ``negatives`` is -1. Shapes and errors as in :func:`sampled_logsumexp`.
    """
    need_positive("sampled_scores", "temperature", temperature)
    anchors, table = autocast(anchors.detach(), table.detach())
    _check("sampled_scores", anchors, table, negatives)
    if negatives.dim() == 1:
        return _products(wide(anchors) / temperature if temperature != 1.0 else anchors, table, negatives)
    if kernel_takes(anchors):
        scores: Tensor = torch.ops.recengine.sampled_scores(anchors, table, negatives, 1.0 / temperature)
        return scores
    products = torch.einsum("bd,bnd->bn", wide(anchors), wide(table)[negatives.clamp(min=0)])
    return torch.where(negatives >= 0, products / temperature, 0.0)


def sampled_logits(anchors: Tensor, table: Tensor, negatives: Tensor) -> Tensor:
    r"""Inner products of every anchor with its sampled items, [B, N] float32, with gradients.

    .. math:: x_{bj} = \langle a_b, t_{n_{bj}}\rangle, \qquad
              \partial a_b = \sum_j \partial x_{bj}\, t_{n_{bj}}, \quad
              \partial t_i = \sum_{b, j :\, n_{bj} = i} \partial x_{bj}\, a_b

    For losses that are no log-sum-exp (pairwise, pointwise, margins): the B x N x d tensor of the items'
    vectors is made in neither pass on a CPU (on CUDA plain torch makes it, in float32). 0, without gradient,
    where ``negatives`` is -1. Shapes and errors as in :func:`sampled_logsumexp`; [N] negatives are shared by
    all rows. A gradient [B, N] that is not contiguous is copied.
    """
    anchors, table = autocast(anchors, table)
    _check("sampled_logits", anchors, table, negatives)
    if negatives.dim() == 1:
        return _products(anchors, table, negatives)
    if kernel_takes(anchors) and not anchors.is_cuda:
        scores: Tensor = torch.ops.recengine.sampled_scores(anchors, table, negatives, 1.0)
        return scores
    products = torch.einsum("bd,bnd->bn", wide(anchors), wide(table)[negatives.clamp(min=0)])
    return torch.where(negatives >= 0, products, 0.0)


def logsumexp_rows(logits: Tensor, live: Tensor | None = None) -> Tensor:
    r"""Log-sum-exp of every row of ``logits`` [B, N] over its live entries (bool [B, N]; None: all), [B].

    .. math:: \mathrm{lse}_b = \log \sum_{j :\, live_{bj}} e^{x_{bj}}, \qquad
              \frac{\partial\, \mathrm{lse}_b}{\partial x_{bj}} = live_{bj}\, e^{x_{bj} - \mathrm{lse}_b}

    What :func:`sampled_logsumexp` does, with logits that exist already: minus infinity, without a gradient,
    for a row without entries.

    Parameters
    ----------
    logits: [B, N] float32 or bfloat16 (float16 on CUDA), any strides; minus infinity is no entry.
    live: bool [B, N], any strides (an expanded row costs nothing).

    Returns
    -------
    [B], float32 (float64 for float64); the gradient comes in the dtype of ``logits``.

    Raises
    ------
    RuntimeError: naming the argument, where shapes, dtypes or devices do not fit.
    """
    need_floating("logsumexp_rows", logits=logits)
    need_device("logsumexp_rows", "logits", logits, live=live)
    need_dimensions("logsumexp_rows", "logits", logits, 2)
    need_shape("logsumexp_rows", "live", live, logits.shape)
    need_dtype("logsumexp_rows", "live", live, torch.bool)
    if kernel_takes(logits):
        lse: Tensor = torch.ops.recengine.logsumexp_rows(logits, live)
        return lse
    return logsumexp_rows_reference(logits, live)


def _check(op: str, anchors: Tensor, table: Tensor, negatives: Tensor) -> None:
    """Sizes and dtypes; ids where no kernel looks at them."""
    need_operands(op, "anchors", anchors, "table", table)
    need_device(op, "anchors", anchors, negatives=negatives)
    need_dtype(op, "negatives", negatives, torch.int64)
    if negatives.dim() != 1:
        need_dimensions(op, "negatives", negatives, 2)
        need_shape(op, "negatives", negatives, (anchors.shape[0], negatives.shape[1]))
    if negatives.dim() == 1 or not kernel_takes(anchors):
        _check_ids(op, "negatives", negatives, table)


def _check_ids(op: str, name: str, ids: Tensor | None, table: Tensor) -> None:
    if ids is not None and readable(ids) and ids.numel() and table.shape[0] == 0:
        raise RuntimeError(f"{op}: table has no rows, expected at least one item")
    need_range(op, name, ids, -1, table.shape[0] - 1)


def _check_weights(
    anchors: Tensor,
    table: Tensor,
    negatives: Tensor,
    log_weight: Tensor | None,
    temperature: float | Tensor,
    positives: Tensor | None,
    exclude: Tensor | None,
) -> None:
    op, rows = "sampled_logsumexp", anchors.shape[0]
    _check(op, anchors, table, negatives)
    per_row = temperature if isinstance(temperature, Tensor) else None
    need_floating(op, log_weight=log_weight, temperature=per_row)
    weights = {"log_weight": log_weight, "temperature": per_row}
    need_device(op, "anchors", anchors, positives=positives, exclude=exclude, **weights)
    for name, ids in (("positives", positives), ("exclude", exclude)):
        need_shape(op, name, ids, (rows,))
        need_dtype(op, name, ids, torch.int64)
    entries = negatives.shape[-1]
    if log_weight is not None:
        alone = log_weight.dim() == 1
        need_shape(op, "log_weight", log_weight, (entries,) if alone else (rows, entries))
    seen = negatives.dim() == 2 and kernel_takes(anchors)  # by the kernel
    if not seen:
        _check_ids(op, "positives", positives, table)
    if isinstance(temperature, Tensor):
        need_shape(op, "temperature", temperature, (rows,))
    if not (seen and isinstance(temperature, Tensor)):
        need_positive(op, "temperature", temperature)


def _products(anchors: Tensor, table: Tensor, negatives: Tensor) -> Tensor:
    """Inner products with the same items for all rows, [B, N]; 0 where there is no item."""
    chosen = wide(table.index_select(0, negatives.clamp(min=0)))
    return wide(anchors) @ (chosen * (negatives >= 0)[:, None]).t()


def _shared_logsumexp(
    anchors: Tensor,
    table: Tensor,
    negatives: Tensor,
    log_weight: Tensor | None,
    temperature: Tensor | None,
    exclude: Tensor | None,
    scale: float,
) -> Tensor:
    """All rows have the same entries: one product with the gathered rows, a catalogue of N items. Weights
    that differ from row to row are added to the product, which then exists."""
    if negatives.shape[0] == 0 or anchors.shape[0] == 0:
        return wide(anchors).sum(1) * 0.0 - torch.inf
    chosen = table.index_select(0, negatives.clamp(min=0))
    if temperature is not None:
        # In bfloat16 the quotient would be rounded before the product: both operands are widened.
        anchors, chosen = wide(anchors) / wide(temperature, anchors)[:, None], wide(chosen)
    if log_weight is not None and log_weight.dim() == 2:
        logits = torch.addmm(wide(log_weight, anchors), wide(anchors), wide(chosen).t(), alpha=scale)
        live = (negatives >= 0).expand_as(logits)
        if exclude is not None:
            live = live & (negatives != exclude[:, None])
        return logsumexp_rows(logits, live)
    offset = torch.where(negatives >= 0, 0.0, -torch.inf)
    if log_weight is not None:
        offset = offset + wide(log_weight, anchors)
    row_key, item_key = (None, None) if exclude is None else (exclude, negatives)
    return catalogue_loss(anchors, chosen, None, wide(offset, anchors), row_key, item_key, -1, scale)[1]


def _and_positive(
    lse: Tensor, anchors: Tensor, table: Tensor, positives: Tensor, temperature: Tensor | None, scale: float
) -> Tensor:
    """log(exp(lse) + exp(the positive's logit)), [B]; ``lse`` where there is no positive."""
    chosen = table.index_select(0, positives.clamp(min=0))
    logit = scale * (wide(anchors) * wide(chosen)).sum(1)
    if temperature is not None:
        logit = logit / wide(temperature, anchors)
    return torch.where(positives >= 0, torch.logaddexp(lse, logit), lse)


def sampled_logsumexp_reference(
    anchors: Tensor,
    table: Tensor,
    negatives: Tensor,
    log_weight: Tensor | None = None,
    temperature: Tensor | None = None,
    positives: Tensor | None = None,
    exclude: Tensor | None = None,
    scale: float = 1.0,
) -> Tensor:
    """The same in plain torch, [B]; makes the B x N x d tensor."""
    live = negatives >= 0
    if exclude is not None:
        live = live & (negatives != exclude[:, None])
    if positives is not None:
        negatives = torch.cat([negatives, positives[:, None]], 1)
        live = torch.cat([live, positives[:, None] >= 0], 1)
        if log_weight is not None:
            log_weight = torch.nn.functional.pad(log_weight, (0, 1))
    logits = scale * torch.einsum("bd,bnd->bn", wide(anchors), wide(table)[negatives.clamp(min=0)])
    if temperature is not None:
        logits = logits / temperature[:, None]
    if log_weight is not None:
        logits = logits + log_weight
    return safe_logsumexp(logits.masked_fill(~live, -torch.inf))


def logsumexp_rows_reference(logits: Tensor, live: Tensor | None = None) -> Tensor:
    """The same in plain torch, [B]."""
    return safe_logsumexp(wide(logits) if live is None else wide(logits).masked_fill(~live, -torch.inf))


def _sampled_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors, output)


def _sampled_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    *tensors, lse = ctx.saved_tensors
    of_anchors, of_table, share, of_temperature = torch.ops.recengine.sampled_logsumexp_backward(
        grad, *tensors, lse, ctx.scale
    )
    weighted, tempered = tensors[3] is not None, tensors[4] is not None
    of_weight = share[:, : tensors[2].shape[1]] if weighted else None
    return of_anchors, of_table, None, of_weight, of_temperature if tempered else None, None, None, None


def _scores_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors)


def _scores_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    of_anchors, of_table = torch.ops.recengine.sampled_scores_backward(
        grad.contiguous(), *ctx.saved_tensors, ctx.scale
    )
    return of_anchors, of_table, None, None


def _rows_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs, output)


def _rows_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    return torch.ops.recengine.logsumexp_rows_backward(grad, *ctx.saved_tensors), None


def _register() -> None:
    library: Any = torch.library
    differentiable_once("sampled_logsumexp", "sampled_logsumexp_backward")
    differentiable_once("sampled_logits", "sampled_scores_backward")
    differentiable_once("logsumexp_rows", "logsumexp_rows_backward")
    library.register_autograd("recengine::sampled_logsumexp", _sampled_backward, setup_context=_sampled_setup)
    library.register_autograd("recengine::sampled_scores", _scores_backward, setup_context=_scores_setup)
    library.register_autograd("recengine::logsumexp_rows", _rows_backward, setup_context=_rows_setup)

    @library.register_fake("recengine::sampled_logsumexp")  # type: ignore[untyped-decorator,unused-ignore]
    def _(anchors: Tensor, *_: Any) -> Tensor:
        return anchors.new_empty(anchors.shape[0], dtype=torch.float32)

    @library.register_fake("recengine::sampled_logsumexp_backward")  # type: ignore[untyped-decorator,unused-ignore]
    def _(
        grad: Tensor,
        anchors: Tensor,
        table: Tensor,
        negatives: Tensor,
        log_weight: Tensor | None,
        temperature: Tensor | None,
        positives: Tensor | None,
        *_: Any,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        rows, count = negatives.shape
        share = anchors.new_empty(rows, count + int(positives is not None), dtype=torch.float32)
        of_temperature = anchors.new_empty(0 if temperature is None else rows, dtype=torch.float32)
        return anchors.new_empty(anchors.shape), table.new_empty(table.shape), share, of_temperature

    @library.register_fake("recengine::sampled_scores")  # type: ignore[untyped-decorator,unused-ignore]
    def _(anchors: Tensor, table: Tensor, negatives: Tensor, scale: float) -> Tensor:
        return anchors.new_empty(negatives.shape, dtype=torch.float32)

    @library.register_fake("recengine::sampled_scores_backward")  # type: ignore[untyped-decorator,unused-ignore]
    def _(
        grad: Tensor, anchors: Tensor, table: Tensor, negatives: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        return anchors.new_empty(anchors.shape), table.new_empty(table.shape)

    @library.register_fake("recengine::logsumexp_rows")  # type: ignore[untyped-decorator,unused-ignore]
    def _(logits: Tensor, live: Tensor | None) -> Tensor:
        return logits.new_empty(logits.shape[0], dtype=torch.float32)

    @library.register_fake("recengine::logsumexp_rows_backward")  # type: ignore[untyped-decorator,unused-ignore]
    def _(grad: Tensor, logits: Tensor, *_: Any) -> Tensor:
        return logits.new_empty(logits.shape)


if native().cpu:
    _register()
