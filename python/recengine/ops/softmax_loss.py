r"""Softmax losses over large catalogues: the logits are used where they are made and never stored.

:func:`linear_cross_entropy` sees the whole catalogue. With logits
:math:`z_{rv} = s\,\langle h_r, w_v\rangle + b_v`,

.. math:: \ell_r = \log\sum_v e^{z_{rv}} - z_{r y_r}, \qquad
          \frac{\partial \ell_r}{\partial z_{rv}} = e^{z_{rv} - \mathrm{lse}_r} - [v = y_r].

The forward pass keeps one log-sum-exp per row; the backward pass makes the logits of a block of items once
more and multiplies their gradient into both operands' gradients while it is in the cache.


:func:`sampled_logsumexp` sees sampled items only: gather, inner product and reduction are one pass over the
gathered rows, and no B x N x d tensor exists. The whole softmax family reduces to it (sampled softmax, SSM
with logQ correction, BSL, SL@K, DSL with per-entry weights and per-row temperatures); :func:`sampled_logits`
gives the inner products with their gradients to losses that do not. :func:`info_nce` is the catalogue loss
whose catalogue is the batch.

Gradients do not depend on the number of threads: the catalogue is cut into parts by shapes alone, an item's
gradient is summed by one thread, and the parts of a row's gradient are added in order. In the sampled case
the entries of an item are brought together by a counting sort and summed in row order, so repeated items are
safe and the bits are the same every time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._library import has_kernel, native

__all__ = [
    "info_nce",
    "linear_cross_entropy",
    "logsumexp_rows",
    "sampled_logits",
    "sampled_logsumexp",
    "sampled_scores",
]

_REDUCTIONS = ("mean", "sum", "none")


def _kernel_takes(tensor: Tensor) -> bool:
    """float64 always runs the reference; float16 has kernels on CUDA only."""
    if not has_kernel(tensor):
        return False
    return tensor.dtype in (torch.float32, torch.bfloat16) or (
        tensor.dtype == torch.float16 and tensor.is_cuda
    )


def _autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Under autocast: a product's operands in autocast's dtype, as ``torch.nn.functional.linear`` does."""
    device = tensors[0].device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        return tuple(t if t.dtype == torch.float64 else t.to(dtype) for t in tensors)
    return tensors


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    *,
    bias: Tensor | None = None,
    correction: Tensor | None = None,
    ignore_index: int = -1,
    scale: float = 1.0,
    reduction: str = "mean",
) -> Tensor:
    r"""Softmax cross-entropy of every row over the whole catalogue, without a rows-by-items matrix.

    .. math:: \ell_r = \log\sum_v e^{z_{rv}} - z_{r y_r}, \quad
              z_{rv} = s\,\langle h_r, w_v\rangle + b_v + c_v

    Parameters
    ----------
    hidden: [R, d] float32 or bfloat16 (float16 on CUDA), any strides.
    weight: [V, d], the item table, dtype of ``hidden``.
    target: [R] int64, the right item of each row; rows where it is ``ignore_index`` are skipped, their loss
        and gradient are zero.
    bias: [V], added to the logits, gets a gradient.
    correction: [V], added to the logits as a constant: for a logQ correction pass :math:`-\log Q_v`.
    scale: multiplies the inner products (one over the temperature).
    reduction: "mean" over the rows that count (0 where there is none), "sum", or "none" for [R].

    Returns
    -------
    float32 whatever the inputs (float64 for float64); gradients come in the dtype of their tensors.

    Raises
    ------
    RuntimeError: naming the argument, where shapes, dtypes or devices do not fit or a target is neither an
        item nor ``ignore_index``. ValueError: unknown reduction.
    """
    if reduction not in _REDUCTIONS:
        raise ValueError(f"reduction is {reduction!r}, expected one of {', '.join(_REDUCTIONS)}")
    hidden, weight = _autocast(hidden, weight)
    offset = None if bias is None else _wide(bias, hidden)
    if correction is not None:
        constant = _wide(correction.detach(), hidden)
        offset = constant if offset is None else offset + constant
    loss, _ = _catalogue(hidden, weight, target, offset, None, None, ignore_index, scale)
    return _reduce(loss, (target != ignore_index).sum(), reduction)


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
    anchors: [B, d] float32 or bfloat16 (float16 on CUDA), any strides.
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
    anchors, table = _autocast(anchors, table)
    per_row = temperature if isinstance(temperature, Tensor) else None
    scale = 1.0 if isinstance(temperature, Tensor) else 1.0 / temperature
    if negatives.dim() == 1:
        shared = (anchors, table, negatives, log_weight, per_row, exclude, scale)
        lse = _shared_logsumexp(*shared)
        return lse if positives is None else _and_positive(lse, anchors, table, positives, per_row, scale)
    if log_weight is not None:
        log_weight = _wide(log_weight, anchors)
        log_weight = log_weight.expand(anchors.shape[0], -1) if log_weight.dim() == 1 else log_weight
    if per_row is not None:
        per_row = _wide(per_row, anchors)
    arguments = (anchors, table, negatives, log_weight, per_row, positives, exclude, scale)
    if _kernel_takes(anchors):
        reduced: Tensor = torch.ops.recengine.sampled_logsumexp(*arguments)
        return reduced
    return sampled_logsumexp_reference(*arguments)


def sampled_scores(anchors: Tensor, table: Tensor, negatives: Tensor, *, temperature: float = 1.0) -> Tensor:
    r"""Inner products of every anchor with its sampled items over the temperature, [B, N], without gradient.

    For weights and temperatures that are computed from the scores but not differentiated (DSL, hard-negative
    mining): 0 where ``negatives`` is -1. Shapes and errors as in :func:`sampled_logsumexp`.
    """
    anchors, table = _autocast(anchors.detach(), table.detach())
    if negatives.dim() == 1:
        return _products(anchors / temperature if temperature != 1.0 else anchors, table, negatives)
    if _kernel_takes(anchors):
        scores: Tensor = torch.ops.recengine.sampled_scores(anchors, table, negatives, 1.0 / temperature)
        return scores
    products = torch.einsum("bd,bnd->bn", _wide(anchors), _wide(table)[negatives.clamp(min=0)])
    return torch.where(negatives >= 0, products / temperature, 0.0)


def sampled_logits(anchors: Tensor, table: Tensor, negatives: Tensor) -> Tensor:
    r"""Inner products of every anchor with its sampled items, [B, N] float32, with gradients.

    .. math:: x_{bj} = \langle a_b, t_{n_{bj}}\rangle, \qquad
              \partial a_b = \sum_j \partial x_{bj}\, t_{n_{bj}}, \quad
              \partial t_i = \sum_{b, j :\, n_{bj} = i} \partial x_{bj}\, a_b

    For losses that are no log-sum-exp (pairwise, pointwise, margins): the B x N x d tensor of the items'
    vectors is made in neither pass. 0, without gradient, where ``negatives`` is -1. Shapes and errors as in
    :func:`sampled_logsumexp`; [N] negatives are shared by all rows.
    """
    anchors, table = _autocast(anchors, table)
    if negatives.dim() == 1:
        return _products(anchors, table, negatives)
    if _kernel_takes(anchors) and not anchors.is_cuda:
        scores: Tensor = torch.ops.recengine.sampled_scores(anchors, table, negatives, 1.0)
        return scores
    products = torch.einsum("bd,bnd->bn", _wide(anchors), _wide(table)[negatives.clamp(min=0)])
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
    if _kernel_takes(logits):
        lse: Tensor = torch.ops.recengine.logsumexp_rows(logits, live)
        return lse
    return logsumexp_rows_reference(logits, live)


def info_nce(
    a: Tensor,
    b: Tensor,
    *,
    temperature: float = 1.0,
    ids: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""In-batch InfoNCE: row i of ``a`` against all rows of ``b``, of which row i is the right one.

    .. math:: \ell_i = \log\sum_{j \in \{i\} \cup \{j : id_j \ne id_i\}} e^{\langle a_i, b_j\rangle / \tau}
              - \langle a_i, b_i\rangle / \tau

    Parameters
    ----------
    a, b: [B, d]; normalise them first where cosines are meant.
    temperature: positive.
    ids: [B] int64: rows with the same id are the same thing, and no negatives of each other.
    reduction: "mean" (0 for an empty batch), "sum" or "none" for [B].

    Raises
    ------
    RuntimeError: naming the argument that does not fit. ValueError: unknown reduction.
    """
    if reduction not in _REDUCTIONS:
        raise ValueError(f"reduction is {reduction!r}, expected one of {', '.join(_REDUCTIONS)}")
    a, b = _autocast(a, b)
    if a.shape[0] == 0:
        nothing = _wide(a).sum(1)
        return nothing if reduction == "none" else nothing.sum()
    target = torch.arange(a.shape[0], device=a.device)
    loss, _ = _catalogue(a, b, target, None, ids, ids, -1, 1.0 / temperature)
    return _reduce(loss, a.shape[0], reduction)


def _products(anchors: Tensor, table: Tensor, negatives: Tensor) -> Tensor:
    """Inner products with the same items for all rows, [B, N]; 0 where there is no item."""
    chosen = _wide(table.index_select(0, negatives.clamp(min=0)))
    return _wide(anchors) @ (chosen * (negatives >= 0)[:, None]).t()


def _wide(tensor: Tensor, like: Tensor | None = None) -> Tensor:
    """In the dtype that sums are made in: float32, or float64 where the (other) tensor is."""
    return tensor.to(torch.promote_types((tensor if like is None else like).dtype, torch.float32))


def _reduce(loss: Tensor, count: Tensor | int, reduction: str) -> Tensor:
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    return loss.sum() / (count.clamp(min=1) if isinstance(count, Tensor) else max(count, 1))


def _catalogue(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor | None,
    bias: Tensor | None,
    row_key: Tensor | None,
    item_key: Tensor | None,
    ignore_index: int,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Loss and log-sum-exp of every row, by kernel or reference."""
    arguments = (hidden, weight, target, bias, row_key, item_key, ignore_index, scale)
    if _kernel_takes(hidden):
        loss, lse = torch.ops.recengine.linear_cross_entropy(*arguments)
        return loss, lse
    return linear_cross_entropy_reference(*arguments)


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
        return _wide(anchors).sum(1) * 0.0 - torch.inf
    if temperature is not None:
        anchors = (_wide(anchors) / _wide(temperature, anchors)[:, None]).to(anchors.dtype)
    chosen = table.index_select(0, negatives.clamp(min=0))
    if log_weight is not None and log_weight.dim() == 2:
        logits = torch.addmm(_wide(log_weight, anchors), _wide(anchors), _wide(chosen).t(), alpha=scale)
        live = (negatives >= 0).expand_as(logits)
        if exclude is not None:
            live = live & (negatives != exclude[:, None])
        return logsumexp_rows(logits, live)
    offset = torch.where(negatives >= 0, 0.0, -torch.inf)
    if log_weight is not None:
        offset = offset + _wide(log_weight, anchors)
    row_key, item_key = (None, None) if exclude is None else (exclude, negatives)
    return _catalogue(anchors, chosen, None, _wide(offset, anchors), row_key, item_key, -1, scale)[1]


def _and_positive(
    lse: Tensor, anchors: Tensor, table: Tensor, positives: Tensor, temperature: Tensor | None, scale: float
) -> Tensor:
    """log(exp(lse) + exp(the positive's logit)), [B]; ``lse`` where there is no positive."""
    chosen = table.index_select(0, positives.clamp(min=0))
    logit = scale * (_wide(anchors) * _wide(chosen)).sum(1)
    if temperature is not None:
        logit = logit / _wide(temperature, anchors)
    return torch.where(positives >= 0, torch.logaddexp(lse, logit), lse)


def linear_cross_entropy_reference(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor | None,
    bias: Tensor | None = None,
    row_key: Tensor | None = None,
    item_key: Tensor | None = None,
    ignore_index: int = -1,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Loss and log-sum-exp of every row in plain torch, [R] each; makes the rows-by-items matrix.

    Without ``target`` the loss is zero. Items whose key is the row's drop out of it, its target apart.
    """
    logits = scale * (_wide(hidden) @ _wide(weight).t())
    if bias is not None:
        logits = logits + bias
    counts = torch.ones_like(logits[:, 0], dtype=torch.bool) if target is None else target != ignore_index
    chosen = logits.new_zeros(logits.shape[0])
    if target is not None:
        place = torch.where(counts, target, 0)[:, None]
        chosen = logits.gather(1, place).squeeze(1)
    if row_key is not None and item_key is not None:
        twin = row_key[:, None] == item_key
        if target is not None:
            twin = twin & ~torch.zeros_like(twin).scatter_(1, place, True)
        logits = logits.masked_fill(twin, -torch.inf)
    lse = _safe_logsumexp(logits)
    loss = torch.zeros_like(lse) if target is None else torch.where(counts, lse - chosen, 0.0)
    return loss, torch.where(counts, lse, 0.0)


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
    logits = scale * torch.einsum("bd,bnd->bn", _wide(anchors), _wide(table)[negatives.clamp(min=0)])
    if temperature is not None:
        logits = logits / temperature[:, None]
    if log_weight is not None:
        logits = logits + log_weight
    return _safe_logsumexp(logits.masked_fill(~live, -torch.inf))


def logsumexp_rows_reference(logits: Tensor, live: Tensor | None = None) -> Tensor:
    """The same in plain torch, [B]."""
    return _safe_logsumexp(_wide(logits) if live is None else _wide(logits).masked_fill(~live, -torch.inf))


def _safe_logsumexp(logits: Tensor) -> Tensor:
    """Over the last dimension; minus infinity, with a zero gradient (torch's is NaN), if all are."""
    if logits.shape[-1] == 0:
        return logits.sum(-1) - torch.inf
    empty = (logits == -torch.inf).all(-1)
    lse = torch.where(empty[:, None], 0.0, logits).logsumexp(-1)
    return torch.where(empty, -torch.inf, lse)


def _linear_cross_entropy_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.ignore_index, ctx.scale = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.set_materialize_grads(False)


def _linear_cross_entropy_backward(ctx: Any, loss: Tensor | None, lse: Tensor | None) -> tuple[Any, ...]:
    if loss is None and lse is None:
        return (None,) * 8
    *tensors, sums = ctx.saved_tensors
    bias_grad = tensors[3] is not None and ctx.needs_input_grad[3]
    of_hidden, of_weight, of_bias = torch.ops.recengine.linear_cross_entropy_backward(
        loss, lse, *tensors, sums, ctx.ignore_index, ctx.scale, bias_grad
    )
    return of_hidden, of_weight, None, of_bias if bias_grad else None, None, None, None, None


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
    library.register_autograd("recengine::logsumexp_rows", _rows_backward, setup_context=_rows_setup)
    library.register_autograd("recengine::sampled_scores", _scores_backward, setup_context=_scores_setup)
    library.register_autograd(
        "recengine::linear_cross_entropy",
        _linear_cross_entropy_backward,
        setup_context=_linear_cross_entropy_setup,
    )
    library.register_autograd("recengine::sampled_logsumexp", _sampled_backward, setup_context=_sampled_setup)

    @library.register_fake("recengine::linear_cross_entropy")  # type: ignore[untyped-decorator,unused-ignore]
    def _(hidden: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        rows = hidden.new_empty(hidden.shape[0], dtype=torch.float32)
        return rows, torch.empty_like(rows)

    @library.register_fake("recengine::linear_cross_entropy_backward")  # type: ignore[untyped-decorator,unused-ignore]
    def _(
        loss: Tensor | None, lse: Tensor | None, hidden: Tensor, weight: Tensor, *rest: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        bias = weight.new_empty(weight.shape[0] if rest[-1] else 0, dtype=torch.float32)
        return hidden.new_empty(hidden.shape), weight.new_empty(weight.shape), bias

    @library.register_fake("recengine::sampled_logsumexp")  # type: ignore[untyped-decorator,unused-ignore]
    def _(anchors: Tensor, *_: Any) -> Tensor:
        return anchors.new_empty(anchors.shape[0], dtype=torch.float32)

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


if native().cpu:
    _register()
