r"""Softmax losses over large catalogues: the logits are used where they are made and never stored.

:func:`linear_cross_entropy` sees the whole catalogue. With logits
:math:`z_{rv} = s\,\langle h_r, w_v\rangle + b_v`,

.. math:: \ell_r = \log\sum_v e^{z_{rv}} - z_{r y_r}, \qquad
          \frac{\partial \ell_r}{\partial z_{rv}} = e^{z_{rv} - \mathrm{lse}_r} - [v = y_r].

The forward pass keeps one log-sum-exp per row; the backward pass makes the logits of a block of items once
more and multiplies their gradient into both operands' gradients while it is in the cache.

Gradients do not depend on the number of threads: the catalogue is cut into parts by shapes alone, an item's
gradient is summed by one thread, and the parts of a row's gradient are added in order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._library import has_kernel, native

__all__ = ["linear_cross_entropy"]

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
    offset = None if bias is None else bias.to(torch.promote_types(bias.dtype, torch.float32))
    if correction is not None:
        constant = correction.detach().to(torch.promote_types(correction.dtype, torch.float32))
        offset = constant if offset is None else offset + constant
    loss: Tensor
    if _kernel_takes(hidden):
        loss = torch.ops.recengine.linear_cross_entropy(hidden, weight, target, offset, ignore_index, scale)[
            0
        ]
    else:
        loss = linear_cross_entropy_reference(hidden, weight, target, offset, ignore_index, scale)
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    return loss.sum() / (target != ignore_index).sum().clamp(min=1)


def linear_cross_entropy_reference(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None = None,
    ignore_index: int = -1,
    scale: float = 1.0,
) -> Tensor:
    """The loss of every row in plain torch, [R]; makes the rows-by-items matrix."""
    wide = torch.promote_types(hidden.dtype, torch.float32)
    logits = scale * (hidden.to(wide) @ weight.to(wide).t())
    if bias is not None:
        logits = logits + bias
    counts = target != ignore_index
    chosen = logits.gather(1, torch.where(counts, target, 0)[:, None]).squeeze(1)
    return torch.where(counts, logits.logsumexp(1) - chosen, 0.0)


def _linear_cross_entropy_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    hidden, weight, target, bias, ctx.ignore_index, ctx.scale = inputs
    ctx.save_for_backward(hidden, weight, target, bias, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _linear_cross_entropy_backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Any, ...]:
    if grad is None:
        return (None,) * 6
    hidden, weight, target, bias, lse = ctx.saved_tensors
    bias_grad = bias is not None and ctx.needs_input_grad[3]
    of_hidden, of_weight, of_bias = torch.ops.recengine.linear_cross_entropy_backward(
        grad, hidden, weight, target, bias, lse, ctx.ignore_index, ctx.scale, bias_grad
    )
    return of_hidden, of_weight, None, of_bias if bias_grad else None, None, None


def _register() -> None:
    library: Any = torch.library
    library.register_autograd(
        "recengine::linear_cross_entropy",
        _linear_cross_entropy_backward,
        setup_context=_linear_cross_entropy_setup,
    )

    @library.register_fake("recengine::linear_cross_entropy")  # type: ignore[untyped-decorator,unused-ignore]
    def _(hidden: Tensor, weight: Tensor, target: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        rows = hidden.new_empty(hidden.shape[0], dtype=torch.float32)
        return rows, torch.empty_like(rows)

    @library.register_fake("recengine::linear_cross_entropy_backward")  # type: ignore[untyped-decorator,unused-ignore]
    def _(grad: Tensor, hidden: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
        bias = weight.new_empty(weight.shape[0] if rest[-1] else 0, dtype=torch.float32)
        return hidden.new_empty(hidden.shape), weight.new_empty(weight.shape), bias


if native().cpu:
    _register()
