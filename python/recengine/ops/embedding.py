"""Sums of embedding rows, gradients that are sparse and safe under repeated ids, and row updates.

    out[b] = Σ_{offsets[b] ≤ i < offsets[b+1]} p_i · weight[indices[i]]
    ∂weight[r] = Σ_{i: indices[i] = r} p_i · ∂out[bag(i)]          ∂p_i = ⟨∂out[bag(i)], weight[indices[i]]⟩

The entries are sorted by row and every seen row is summed once, in the order of the batch: no atomics, and
the same bits whatever the number of threads. Updates touch the seen rows alone:

    row-wise Adagrad   s_r += mean(g_r²);  w_r -= lr · g_r / (√s_r + ε)
    Adam               m_r, v_r as in Adam but only where r was seen; bias correction with the global step t:
                       w_r -= lr / (1-β₁ᵗ) · m_r / (√v_r / √(1-β₂ᵗ) + ε)

Sources: Duchi et al., "Adaptive subgradient methods" (2011), with one sum a row as in FBGEMM; Kingma and Ba,
"Adam" (2015), restricted to seen rows as ``torch.optim.SparseAdam`` is.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..errors import UsageError
from ._checks import need_ascending, need_at_least, need_bounds, need_range
from ._inplace import need_writable, written
from ._library import differentiable_once, has_kernel, native

__all__ = ["embedding_bag_sum", "gradient_rows", "rowwise_adagrad_", "sparse_adam_"]


def embedding_bag_sum(
    weight: Tensor,
    indices: Tensor,
    offsets: Tensor | None = None,
    *,
    per_sample_weights: Tensor | None = None,
    sparse: bool = False,
) -> Tensor:
    """The (weighted) sum of table rows of every bag, [B, d].

    Parameters
    ----------
    weight: [V, d] float32 or bfloat16 (float16 on CUDA), any strides; sums are float32.
    indices: int64 [N] with ``offsets``, or [B, L]: bags of L entries each.
    offsets: int64 [B + 1], rising from 0 to N; bag b is ``indices[offsets[b]:offsets[b + 1]]``. An empty bag
        gives zeros.
    per_sample_weights: [N] (or [B, L]), one factor an entry; gets a gradient. These and both lists of indices
        are copied where they are not contiguous (factors also where they are not float32).
    sparse: whether the gradient of ``weight`` is a sparse tensor of the seen rows (see :func:`gradient_rows`;
        not under ``torch.compile``) or a dense one.

    Raises
    ------
    UsageError: shapes, dtypes or devices that do not fit. RuntimeError: an index or offset out of range, with
        its position (on the CPU; on CUDA values are not read back).
    """
    if indices.dim() == 2 and offsets is None:
        _check_factors(indices, per_sample_weights)
        bags, size = indices.shape
        offsets = torch.arange(bags + 1, device=indices.device) * size
        indices = indices.reshape(-1)
        if per_sample_weights is not None:
            per_sample_weights = per_sample_weights.reshape(-1)
    if offsets is None:
        raise _wrong("embedding_bag_sum", "offsets", "needed for indices [N]", "None", "int64 [B + 1]")
    _check_bags(weight, indices, offsets, per_sample_weights)
    if not _kernel_for(weight):
        need_range("embedding_bag_sum", "indices", indices, 0, weight.shape[0] - 1)
        need_bounds("embedding_bag_sum", "offsets", offsets, indices.shape[0])
        return embedding_bag_sum_reference(
            weight, indices, offsets, per_sample_weights=per_sample_weights, sparse=sparse
        )
    factors = None if per_sample_weights is None else per_sample_weights.float().contiguous()
    out: Tensor = torch.ops.recengine.embedding_bag_sum(
        weight, indices.contiguous(), offsets.contiguous(), factors, sparse
    )
    return out


def embedding_bag_sum_reference(
    weight: Tensor,
    indices: Tensor,
    offsets: Tensor,
    *,
    per_sample_weights: Tensor | None = None,
    sparse: bool = False,
) -> Tensor:
    """The same in plain torch; makes the [N, d] tensor of gathered rows. A sparse gradient has an entry for
    each of them, not yet summed by row."""
    wide = torch.promote_types(weight.dtype, torch.float32)
    rows = (torch.nn.functional.embedding(indices, weight, sparse=True) if sparse else weight[indices]).to(
        wide
    )
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.to(wide)[:, None]
    sizes = offsets.diff()
    bags = torch.repeat_interleave(
        torch.arange(sizes.numel(), device=sizes.device), sizes, output_size=indices.numel()
    )
    return rows.new_zeros(offsets.numel() - 1, weight.shape[1]).index_add(0, bags, rows).to(weight.dtype)


def gradient_rows(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """The rows (rising) and values of a sparse gradient [V, d], as the updates want them.

    ``.backward()`` forgets that the gradient of :func:`embedding_bag_sum` is coalesced; this looks instead of
    sorting again, and coalesces only where a gradient was accumulated from several calls.
    """
    if not gradient.is_sparse:
        raise _wrong("gradient_rows", "gradient", "is not sparse", gradient.layout, "torch.sparse_coo")
    rows = gradient._indices()[0]
    if not bool((rows.diff() > 0).all()):
        gradient = gradient.coalesce()
    return gradient._indices()[0], gradient._values()


def rowwise_adagrad_(
    weight: Tensor, state: Tensor, rows: Tensor, values: Tensor, *, lr: float, eps: float = 1e-10
) -> None:
    """One row-wise Adagrad step, in place, on the rows that have a gradient.

    Parameters
    ----------
    weight: [V, d], changed. state: float32 [V], one running sum a row, changed; start it at 0.
    rows, values: int64 [R], rising strictly, and [R, d]: :func:`gradient_rows` of ``weight.grad``.
    lr, eps: step size; added to the root.

    Raises
    ------
    UsageError: shapes, dtypes or devices that do not fit. RuntimeError: rows that do not rise or are not in
        the table; a step size or ``eps`` that is negative or not finite; a changed tensor that is expanded,
        or requires a gradient outside of ``torch.no_grad()``.
    """
    _check_update("rowwise_adagrad_", weight, rows, values, {"state": (state, (weight.shape[0],))})
    _check_step("rowwise_adagrad_", lr, eps)
    if _kernel_for(weight):
        torch.ops.recengine.rowwise_adagrad_(weight, state, rows, values, lr, eps)
        written(weight, state)
    else:
        need_ascending("rowwise_adagrad_", "rows", rows, weight.shape[0])
        rowwise_adagrad_reference_(weight, state, rows, values, lr=lr, eps=eps)


@torch.no_grad()
def rowwise_adagrad_reference_(
    weight: Tensor, state: Tensor, rows: Tensor, values: Tensor, *, lr: float, eps: float = 1e-10
) -> None:
    """The same in plain torch."""
    g = values.to(state.dtype)
    state[rows] = state[rows] + g.square().mean(1)
    step = lr / (state[rows].sqrt() + eps)
    weight[rows] = (weight[rows].to(state.dtype) - step[:, None] * g).to(weight.dtype)


def sparse_adam_(
    weight: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    rows: Tensor,
    values: Tensor,
    *,
    step: int,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> None:
    """One Adam step, in place, on the rows that have a gradient; the moments of other rows stay as they are.

    Parameters
    ----------
    weight: [V, d], changed. exp_avg, exp_avg_sq: float32 [V, d], changed; start them at 0.
    rows, values: as for :func:`rowwise_adagrad_`.
    step: number of this update, from 1. lr, betas, eps: as in Adam. Errors as there.
    """
    shape = tuple(weight.shape)
    states = {"exp_avg": (exp_avg, shape), "exp_avg_sq": (exp_avg_sq, shape)}
    _check_update("sparse_adam_", weight, rows, values, states)
    _check_step("sparse_adam_", lr, eps)
    for name, beta in zip(("betas[0]", "betas[1]"), betas, strict=True):
        need_at_least("sparse_adam_", name, beta, 0, 1)
    if step < 1:
        raise RuntimeError(f"sparse_adam_: step is {step}, expected 1 for the first update")
    if _kernel_for(weight):
        torch.ops.recengine.sparse_adam_(weight, exp_avg, exp_avg_sq, rows, values, step, lr, *betas, eps)
        written(weight, exp_avg, exp_avg_sq)
    else:
        need_ascending("sparse_adam_", "rows", rows, weight.shape[0])
        sparse_adam_reference_(
            weight, exp_avg, exp_avg_sq, rows, values, step=step, lr=lr, betas=betas, eps=eps
        )


@torch.no_grad()
def sparse_adam_reference_(
    weight: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    rows: Tensor,
    values: Tensor,
    *,
    step: int,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> None:
    """The same in plain torch."""
    g = values.to(exp_avg.dtype)
    m, v = exp_avg[rows].lerp(g, 1 - betas[0]), exp_avg_sq[rows].lerp(g.square(), 1 - betas[1])
    exp_avg[rows], exp_avg_sq[rows] = m, v
    change = lr / (1 - betas[0] ** step) * m / (v.sqrt() / math.sqrt(1 - betas[1] ** step) + eps)
    weight[rows] = (weight[rows].to(g.dtype) - change).to(weight.dtype)


def _wrong(name: str, argument: str, problem: str, found: object, expected: object) -> UsageError:
    return UsageError(problem, where=f"{name}({argument})", found=found, expected=expected)


def _kernel_for(weight: Tensor) -> bool:
    low = (torch.float16,) if weight.device.type == "cuda" else ()
    return has_kernel(weight) and weight.dtype in (torch.float32, torch.bfloat16, *low)


def _check_bags(weight: Tensor, indices: Tensor, offsets: Tensor, factors: Tensor | None) -> None:
    name = "embedding_bag_sum"
    if weight.dim() != 2 or not weight.is_floating_point():
        found = f"{tuple(weight.shape)} {weight.dtype}"
        raise _wrong(name, "weight", "is not an embedding table", found, "[V, d], floating point")
    for argument, value in (("indices", indices), ("offsets", offsets)):
        if value.dim() != 1 or value.dtype != torch.int64:
            found = f"{tuple(value.shape)} {value.dtype}"
            raise _wrong(name, argument, "has the wrong shape or dtype", found, "int64, one dimension")
    _check_factors(indices, factors)
    for argument, other in (("indices", indices), ("offsets", offsets), ("per_sample_weights", factors)):
        if other is not None and other.device != weight.device:
            raise _wrong(name, argument, "is on another device than weight", other.device, weight.device)


def _check_factors(indices: Tensor, factors: Tensor | None) -> None:
    if factors is not None and (factors.shape != indices.shape or not factors.is_floating_point()):
        found = f"{tuple(factors.shape)} {factors.dtype}"
        expected = tuple(indices.shape)
        raise _wrong("embedding_bag_sum", "per_sample_weights", "does not match indices", found, expected)


def _check_step(name: str, lr: float, eps: float) -> None:
    need_at_least(name, "lr", lr, 0)
    need_at_least(name, "eps", eps, 0)


def _check_update(
    name: str,
    weight: Tensor,
    rows: Tensor,
    values: Tensor,
    states: dict[str, tuple[Tensor, tuple[int, ...]]],
) -> None:
    if weight.dim() != 2 or not weight.is_floating_point():
        found = f"{tuple(weight.shape)} {weight.dtype}"
        raise _wrong(name, "weight", "is not an embedding table", found, "[V, d], floating point")
    for argument, changed in (("weight", weight), *((key, state) for key, (state, _) in states.items())):
        need_writable(name, argument, changed)
    if rows.dim() != 1 or rows.dtype != torch.int64:
        raise _wrong(
            name, "rows", "has the wrong shape or dtype", f"{tuple(rows.shape)} {rows.dtype}", "int64 [R]"
        )
    want = (rows.shape[0], weight.shape[1])
    if tuple(values.shape) != want or not values.is_floating_point():
        found = f"{tuple(values.shape)} {values.dtype}"
        raise _wrong(name, "values", "has the wrong shape or dtype", found, f"{want} floating point")
    for argument, (state, shape) in states.items():
        if tuple(state.shape) != shape or state.dtype not in (torch.float32, torch.float64):
            found = f"{tuple(state.shape)} {state.dtype}"
            raise _wrong(name, argument, "has the wrong shape or dtype", found, f"{shape} float32")
    others = {"rows": rows, "values": values, **{key: state for key, (state, _) in states.items()}}
    for argument, other in others.items():
        if other.device != weight.device:
            raise _wrong(name, argument, "is on another device than weight", other.device, weight.device)


def _fake_forward(
    weight: Tensor, indices: Tensor, offsets: Tensor, per_sample_weights: Tensor | None, sparse: bool
) -> Tensor:
    return weight.new_empty((offsets.shape[0] - 1, weight.shape[1]))


def _fake_backward(
    grad: Tensor, indices: Tensor, offsets: Tensor, per_sample_weights: Tensor | None, rows: int
) -> Tensor:
    return grad.new_empty((rows, grad.shape[1]))


def _fake_rows(
    grad: Tensor, indices: Tensor, offsets: Tensor, per_sample_weights: Tensor | None, rows: int
) -> tuple[Tensor, Tensor]:
    seen = torch.library.get_ctx().new_dynamic_size()
    return indices.new_empty((seen,)), grad.new_empty((seen, grad.shape[1]))


def _fake_weights(grad: Tensor, weight: Tensor, indices: Tensor, offsets: Tensor) -> Tensor:
    return grad.new_empty(indices.shape, dtype=torch.float32)


def _fake_update(*_: Any) -> None:
    return None


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    weight, indices, offsets, factors, ctx.sparse = inputs
    ctx.save_for_backward(weight if ctx.needs_input_grad[3] else None, indices, offsets, factors)
    ctx.shape = weight.shape


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    weight, indices, offsets, factors = ctx.saved_tensors
    ops = torch.ops.recengine
    of_weight = None
    if ctx.needs_input_grad[0]:
        if ctx.sparse:
            rows, values = ops.embedding_bag_sum_rows(grad, indices, offsets, factors, ctx.shape[0])
            of_weight = torch.sparse_coo_tensor(
                rows[None], values, ctx.shape, is_coalesced=True, check_invariants=False
            )
        else:
            of_weight = ops.embedding_bag_sum_backward(grad, indices, offsets, factors, ctx.shape[0])
    of_factors = None
    if ctx.needs_input_grad[3]:
        of_factors = ops.embedding_bag_sum_weights(grad, weight, indices, offsets)
    return of_weight, None, None, of_factors, None


if native().cpu:
    torch.library.register_fake("recengine::embedding_bag_sum", _fake_forward)
    torch.library.register_fake("recengine::embedding_bag_sum_backward", _fake_backward)
    torch.library.register_fake("recengine::embedding_bag_sum_rows", _fake_rows)
    torch.library.register_fake("recengine::embedding_bag_sum_weights", _fake_weights)
    torch.library.register_fake("recengine::rowwise_adagrad_", _fake_update)
    torch.library.register_fake("recengine::sparse_adam_", _fake_update)
    torch.library.register_autograd("recengine::embedding_bag_sum", _backward, setup_context=_setup_context)
    differentiable_once(
        "embedding_bag_sum",
        "embedding_bag_sum_backward",
        "embedding_bag_sum_rows",
        "embedding_bag_sum_weights",
    )
