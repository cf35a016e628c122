r"""Softmax losses over a whole catalogue: logits are used where they are made; many are not stored.

:func:`linear_cross_entropy` sees every item. With logits
:math:`z_{rv} = s\,\langle h_r, w_v\rangle + b_v`,

.. math:: \ell_r = \log\sum_v e^{z_{rv}} - z_{r y_r}, \qquad
          \frac{\partial \ell_r}{\partial z_{rv}} = e^{z_{rv} - \mathrm{lse}_r} - [v = y_r].

The forward pass keeps one log-sum-exp per row; the backward pass makes the logits of a block of items once
more and multiplies their gradient into both operands' gradients while it is in the cache. Where all of them
take no more than 18 MB they are kept instead (float32, no matrix tiles, eager): three products, not four.
:func:`info_nce` is the loss whose catalogue is the batch.

Gradients do not depend on the number of threads: the catalogue is cut into parts by shapes alone, an item's
gradient is summed by one thread, and the parts of a row's gradient are added in order.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ._checks import (
    need_device,
    need_dtype,
    need_floating,
    need_operands,
    need_positive,
    need_range,
    need_shape,
)
from ._library import differentiable_once, native
from ._precision import autocast, kernel_takes, safe_logsumexp, wide

__all__ = ["info_nce", "linear_cross_entropy"]

_REDUCTIONS = ("mean", "sum", "none")


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
    r"""Softmax cross-entropy of every row over the whole catalogue; no rows-by-items matrix above 18 MB.

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
    hidden, weight = autocast(hidden, weight)
    need_operands("linear_cross_entropy", "hidden", hidden, "weight", weight)
    if weight.shape[0] == 0:
        raise RuntimeError("linear_cross_entropy: weight has no rows, expected at least one item")
    for name, each in (("bias", bias), ("correction", correction)):
        need_shape("linear_cross_entropy", name, each, weight.shape[:1])
    need_floating("linear_cross_entropy", bias=bias, correction=correction)
    need_device("linear_cross_entropy", "hidden", hidden, target=target, bias=bias, correction=correction)
    need_shape("linear_cross_entropy", "target", target, hidden.shape[:1])
    need_dtype("linear_cross_entropy", "target", target, torch.int64)
    if not kernel_takes(hidden):
        chosen = torch.where(target == ignore_index, 0, target)
        need_range("linear_cross_entropy", "target", chosen, 0, weight.shape[0] - 1)
    offset = None if bias is None else wide(bias, hidden)
    if correction is not None:
        constant = wide(correction.detach(), hidden)
        offset = constant if offset is None else offset + constant
    loss, _ = catalogue_loss(hidden, weight, target, offset, None, None, ignore_index, scale)
    return _reduce(loss, (target != ignore_index).sum(), reduction)


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
    need_positive("info_nce", "temperature", temperature)
    a, b = autocast(a, b)
    need_operands("info_nce", "a", a, "b", b)
    need_shape("info_nce", "b", b, a.shape)
    need_device("info_nce", "a", a, ids=ids)
    need_shape("info_nce", "ids", ids, a.shape[:1])
    need_dtype("info_nce", "ids", ids, torch.int64)
    if a.shape[0] == 0:
        nothing = wide(a).sum(1)
        return nothing if reduction == "none" else nothing.sum()
    target = torch.arange(a.shape[0], device=a.device)
    loss, _ = catalogue_loss(a, b, target, None, ids, ids, -1, 1.0 / temperature)
    return _reduce(loss, a.shape[0], reduction)


def _reduce(loss: Tensor, count: Tensor | int, reduction: str) -> Tensor:
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    return loss.sum() / (count.clamp(min=1) if isinstance(count, Tensor) else max(count, 1))


def catalogue_loss(
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
    if kernel_takes(hidden):
        learning = torch.ops.recengine.learning_cross_entropy
        op = learning if _keeps(hidden, weight, bias) else torch.ops.recengine.linear_cross_entropy
        loss, lse = op(*arguments)[:2]
        return loss, lse
    return linear_cross_entropy_reference(*arguments)


def _keeps(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether the backward pass, if there will be one, is given the logits. A compiled graph makes them
    again: what it keeps must not hang on the number of rows, which it need not know."""
    if not _KEEPS or torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return False
    learned = hidden.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
    fits = hidden.dtype == torch.float32 and hidden.device.type == "cpu"
    return learned and fits and hidden.dim() == 2 and _kept(hidden.shape[0], weight.shape[0]) <= MOST_KEPT


def _kept(rows: int, items: int) -> int:
    """Logits that are kept of so many: whole tiles are (csrc/softmax_loss/catalogue.h)."""
    return math.ceil(rows / 96) * 96 * math.ceil(items / 192) * 192


def _kept_shape(hidden: Tensor, weight: Tensor) -> tuple[int, int]:
    """Of the kept logits, as the kernel has them (csrc/softmax_loss/op_cpu.cpp)."""
    return hidden.shape[0] + 128, (weight.shape[0] + 191) // 192 * 192


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
    logits = scale * (wide(hidden) @ wide(weight).t())
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
    lse = safe_logsumexp(logits)
    loss = torch.zeros_like(lse) if target is None else torch.where(counts, lse - chosen, 0.0)
    return loss, torch.where(counts, lse, 0.0)


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


def _learning_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, ctx.ignore_index, ctx.scale = inputs
    ctx.save_for_backward(*tensors, output[1], output[2])
    ctx.mark_non_differentiable(output[2])
    ctx.set_materialize_grads(False)


def _learning_backward(ctx: Any, loss: Tensor | None, lse: Tensor | None, *_: Any) -> tuple[Any, ...]:
    if loss is None and lse is None:
        return (None,) * 8
    *tensors, sums, logits = ctx.saved_tensors
    bias_grad = tensors[3] is not None and ctx.needs_input_grad[3]
    of_hidden, of_weight, of_bias = torch.ops.recengine.learning_cross_entropy_backward(
        loss, lse, *tensors, sums, logits, ctx.ignore_index, ctx.scale, bias_grad
    )
    return of_hidden, of_weight, None, of_bias if bias_grad else None, None, None, None, None


def _register() -> None:
    library: Any = torch.library
    differentiable_once(
        "linear_cross_entropy", "linear_cross_entropy_backward", "learning_cross_entropy_backward"
    )
    library.register_autograd(
        "recengine::learning_cross_entropy", _learning_backward, setup_context=_learning_setup
    )
    library.register_autograd(
        "recengine::linear_cross_entropy",
        _linear_cross_entropy_backward,
        setup_context=_linear_cross_entropy_setup,
    )

    @library.register_fake("recengine::linear_cross_entropy")  # type: ignore[untyped-decorator,unused-ignore]
    def _(hidden: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        rows = hidden.new_empty(hidden.shape[0], dtype=torch.float32)
        return rows, torch.empty_like(rows)

    @library.register_fake("recengine::learning_cross_entropy")  # type: ignore[untyped-decorator,unused-ignore]
    def _(hidden: Tensor, weight: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
        rows = hidden.new_empty(hidden.shape[0], dtype=torch.float32)
        return rows, torch.empty_like(rows), hidden.new_empty(_kept_shape(hidden, weight))

    @library.register_fake("recengine::learning_cross_entropy_backward")  # type: ignore[untyped-decorator,unused-ignore]
    @library.register_fake("recengine::linear_cross_entropy_backward")  # type: ignore[untyped-decorator,unused-ignore]
    def _(
        loss: Tensor | None, lse: Tensor | None, hidden: Tensor, weight: Tensor, *rest: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        bias = weight.new_empty(weight.shape[0] if rest[-1] else 0, dtype=torch.float32)
        return hidden.new_empty(hidden.shape), weight.new_empty(weight.shape), bias


MOST_KEPT = 4_500_000  # logits, 18 MB
_KEEPS = False

if native().cpu:
    _KEEPS = not torch.ops.recengine.on_tiles()
    _register()
