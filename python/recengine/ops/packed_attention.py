"""Exact attention over packed sequences: softmax, and HSTU's gated one.

With query i and key j of the same sequence, j <= i where causal,

    softmax   O_i = Σ_j p_ij v_j,   p_ij = exp(s q_i·k_j) / Σ_j' exp(s q_i·k_j')
    gated     O_i = (1/N) Σ_{j ≤ i} silu(q_i·k_j + b(i - j) + b'(⌊log2(1 + max(t_i - t_j, 0))⌋)) v_j

Backward, G = ∂L/∂O, D_ij = G_i·v_j: ∂v_j = Σ_i p_ij G_i; for softmax
∂x_ij = s p_ij (D_ij - Σ_j' p_ij' D_ij'), for the gated form ∂x_ij = (1/N) silu'(x_ij) D_ij; then
∂q_i = Σ_j ∂x_ij k_j, ∂k_j = Σ_i ∂x_ij q_i, and the biases add up ∂x_ij over the pairs that they stand at.

Sequences lie one after another; no grid of the longest of them is made on a CPU, and nothing of the size of
all pairs.

Sources: Vaswani et al., "Attention is all you need" (2017); Zhai et al., "Actions speak louder than words",
ICML 2024.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import UsageError
from ._checks import need_ascending, need_bounds, need_device, need_dtype, need_positive, need_shape, readable
from ._library import differentiable_once, native
from ._precision import kernel_takes, wide

__all__ = [
    "gated_attention",
    "gated_attention_reference",
    "packed_kernel_takes",
    "softmax_attention",
    "softmax_attention_at",
    "softmax_attention_reference",
]

MAX_HEAD_SIZE = 128
BUCKETS = 64  # of log2(1 + time): all that int64 can hold


def packed_kernel_takes(rows: Tensor) -> bool:
    """Whether a kernel is live for rows [T, ..., d] like these: float32 or bfloat16 on a CPU, d up to 128."""
    return kernel_takes(rows) and not rows.is_cuda and 1 <= rows.shape[-1] <= MAX_HEAD_SIZE


def softmax_attention(
    qkv: Tensor, *, cu_seqlens: Tensor, causal: bool = False, scale: float | None = None
) -> Tensor:
    """Softmax attention of packed sequences.

    Parameters
    ----------
    qkv: [T, 3, H, d]: queries, keys, values; any strides. float32 or bfloat16 on a CPU have a kernel (heads
        of up to 128), all else runs the reference. Sums are float32.
    cu_seqlens: int64 [B + 1], rising from 0 to T: sequence b is rows ``cu_seqlens[b]:cu_seqlens[b + 1]``.
        Copied where it is not contiguous, as are the other lists of this module.
    causal: whether a query sees its prefix only.
    scale: s, above 0; None: 1/√d.

    Returns
    -------
    [T, H, d], dtype of ``qkv``.

    Raises
    ------
    UsageError: shapes and dtypes that do not fit. RuntimeError naming the argument: values that do not.
    """
    _check(qkv, 4, cu_seqlens, "softmax_attention", "qkv", "[T, 3, H, d]", 3)
    need_device("softmax_attention", "qkv", qkv, cu_seqlens=cu_seqlens)
    factor = _factor("softmax_attention", qkv, scale)
    if packed_kernel_takes(qkv):
        out: Tensor = torch.ops.recengine.softmax_attention(qkv, cu_seqlens.contiguous(), causal, factor)
        return out
    need_bounds("softmax_attention", "cu_seqlens", cu_seqlens, qkv.shape[0])
    return softmax_attention_reference(qkv, cu_seqlens=cu_seqlens, causal=causal, scale=factor)


def softmax_attention_at(
    queries: Tensor,
    keys: Tensor,
    wanted: Tensor,
    *,
    cu_seqlens: Tensor,
    causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """:func:`softmax_attention` where only some rows ask.

    Parameters
    ----------
    queries: [R, H, d], of the rows ``wanted``; any strides, as are those of ``keys``.
    keys: [T, 2, H, d], keys and values of all rows.
    wanted: int64 [R], ascending.
    cu_seqlens, causal, scale: as for ``softmax_attention``.

    Returns
    -------
    [R, H, d]: the rows ``wanted`` of ``softmax_attention``, up to rounding.

    Raises
    ------
    UsageError, RuntimeError: as ``softmax_attention``; rows that do not ascend are found on a CPU.
    """
    where = "softmax_attention_at"
    _check(keys, 4, cu_seqlens, where, "keys", "[T, 2, H, d]", 2)
    need_device(where, "keys", keys, queries=queries, wanted=wanted, cu_seqlens=cu_seqlens)
    _check_wanted(queries, (*keys.shape[2:],), wanted, keys, where)
    factor = _factor(where, queries, scale)
    if packed_kernel_takes(queries):
        found: Tensor = torch.ops.recengine.softmax_attention_at(
            queries, keys, wanted.contiguous(), cu_seqlens.contiguous(), causal, factor
        )
        return found
    need_bounds(where, "cu_seqlens", cu_seqlens, keys.shape[0])
    need_ascending(where, "wanted", wanted, keys.shape[0])
    asked = queries.new_zeros((keys.shape[0], *queries.shape[1:])).index_copy(0, wanted, queries)
    laid = torch.cat([asked[:, None], keys], 1)
    whole = softmax_attention_reference(laid, cu_seqlens=cu_seqlens, causal=causal, scale=factor)
    return whole.index_select(0, wanted)


def gated_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    wanted: Tensor,
    *,
    cu_seqlens: Tensor,
    by_distance: Tensor,
    times: Tensor | None = None,
    by_time: Tensor | None = None,
    share: float = 1.0,
) -> Tensor:
    """HSTU's attention of packed sequences, causal, where some rows (or all) ask.

    Parameters
    ----------
    queries: [R, H, d], of the rows ``wanted``; keys, values: [T, H, d]. Any strides; dtypes as for
        ``softmax_attention``.
    wanted: int64 [R], ascending.
    cu_seqlens: int64 [B + 1], as for ``softmax_attention``.
    by_distance: float32 [L]: b(0) to b(L - 1), L at least the longest sequence; shared by the heads.
    times: int64 [T] and by_time: float32 [64], b', or neither.
    share: 1/N.

    Returns
    -------
    [R, H, d], dtype of ``queries``.

    Raises
    ------
    UsageError, RuntimeError: as ``softmax_attention_at``.
    """
    where = "gated_attention"
    _check(keys, 3, cu_seqlens, where, "keys", "[T, H, d]")
    rows = {"queries": queries, "values": values, "wanted": wanted, "cu_seqlens": cu_seqlens}
    need_device(where, "keys", keys, **rows, by_distance=by_distance, times=times, by_time=by_time)
    _check_wanted(queries, (*keys.shape[1:],), wanted, keys, where)
    if values.shape != keys.shape or values.dtype != keys.dtype:
        raise UsageError(
            "does not look as keys do",
            where=f"{where}(values)",
            found=(tuple(values.shape), values.dtype),
            expected=(tuple(keys.shape), keys.dtype),
        )
    if (times is None) != (by_time is None):
        raise UsageError("come together or not at all", where=f"{where}(times, by_time)", found="one of them")
    if packed_kernel_takes(queries):
        out: Tensor = torch.ops.recengine.gated_attention(
            queries,
            keys,
            values,
            wanted.contiguous(),
            cu_seqlens.contiguous(),
            by_distance.float(),
            None if times is None else times.contiguous(),
            None if by_time is None else by_time.float(),
            share,
        )
        return out
    _check_gated(keys, wanted, cu_seqlens, by_distance, times, by_time)
    return gated_attention_reference(
        queries,
        keys,
        values,
        wanted,
        cu_seqlens=cu_seqlens,
        by_distance=by_distance,
        times=times,
        by_time=by_time,
        share=share,
    )


def softmax_attention_reference(
    qkv: Tensor, *, cu_seqlens: Tensor, causal: bool = False, scale: float | None = None
) -> Tensor:
    """The same in plain torch, sequence by sequence, for any floating dtype and device."""
    factor = qkv.shape[-1] ** -0.5 if scale is None else scale
    parts = []
    for start, stop in itertools.pairwise(cu_seqlens.tolist()):
        query, key, value = wide(qkv[start:stop]).permute(1, 2, 0, 3)  # each [H, n, d]
        scores = query @ key.transpose(-1, -2) * factor
        if causal:
            hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=qkv.device).triu(1)
            scores = scores.masked_fill(hidden, -torch.inf)
        parts.append((scores.softmax(-1) @ value).transpose(0, 1))
    return torch.cat(parts).to(qkv.dtype) if parts else qkv[:, 0]


def gated_attention_reference(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    wanted: Tensor,
    *,
    cu_seqlens: Tensor,
    by_distance: Tensor,
    times: Tensor | None = None,
    by_time: Tensor | None = None,
    share: float = 1.0,
) -> Tensor:
    """The same in plain torch, sequence by sequence, for any floating dtype and device."""
    parts = []
    for start, stop in itertools.pairwise(cu_seqlens.tolist()):
        inside = (wanted >= start) & (wanted < stop)
        own, here = wanted[inside], torch.arange(start, stop, device=keys.device)
        query = wide(queries[inside]).transpose(0, 1)
        key, value = wide(keys[start:stop]).transpose(0, 1), wide(values[start:stop]).transpose(0, 1)
        distance = own[:, None] - here
        bias = by_distance.to(query.dtype)[distance.clamp(min=0)]
        if times is not None and by_time is not None:
            bias = bias + by_time.to(query.dtype)[_bucket(times[own][:, None] - times[start:stop])]
        scores = query @ key.transpose(-1, -2) + bias
        weights = functional.silu(scores) * (distance >= 0) * share
        parts.append((weights @ value).transpose(0, 1))
    return torch.cat(parts).to(queries.dtype) if parts else queries.new_zeros(queries.shape)


def _bucket(gap: Tensor) -> Tensor:
    """floor(log2(1 + max(gap, 0))), exact for any int64."""
    powers = torch.arange(1, BUCKETS - 1, device=gap.device)
    edges = torch.bitwise_left_shift(torch.ones_like(powers), powers) - 1  # the least gap of buckets 1 to 62
    return torch.bucketize(gap.clamp(min=0), edges, right=True)


def _check(
    keys: Tensor,
    dimensions: int,
    cu_seqlens: Tensor,
    where: str,
    name: str,
    shape: str,
    parts: int | None = None,
) -> None:
    def wrong(argument: str, problem: str, found: object, expected: object) -> UsageError:
        return UsageError(problem, where=f"{where}({argument})", found=found, expected=expected)

    if keys.dim() != dimensions or (parts is not None and keys.shape[1] != parts):
        raise wrong(name, "has the wrong shape", tuple(keys.shape), shape)
    if keys.shape[-1] < 1:
        raise wrong(name, "has heads of no size", tuple(keys.shape), "d of at least 1")
    if not keys.is_floating_point():
        raise wrong(name, "is not floating point", keys.dtype, "float32 or bfloat16")
    if cu_seqlens.dim() != 1 or cu_seqlens.dtype != torch.int64:
        raise wrong(
            "cu_seqlens",
            "is no list of bounds",
            (tuple(cu_seqlens.shape), cu_seqlens.dtype),
            "int64 [B + 1]",
        )


def _check_gated(
    keys: Tensor,
    wanted: Tensor,
    cu_seqlens: Tensor,
    by_distance: Tensor,
    times: Tensor | None,
    by_time: Tensor | None,
) -> None:
    """What the kernel checks of :func:`gated_attention` beside shapes of rows."""
    op = "gated_attention"
    need_bounds(op, "cu_seqlens", cu_seqlens, keys.shape[0])
    need_ascending(op, "wanted", wanted, keys.shape[0])
    need_shape(op, "times", times, keys.shape[:1])
    need_dtype(op, "times", times, torch.int64)
    need_shape(op, "by_time", by_time, (BUCKETS,))
    if readable(cu_seqlens) and cu_seqlens.numel() > 1:
        longest = int(cu_seqlens.diff().max())
        if by_distance.dim() != 1 or by_distance.shape[0] < longest:
            found = "x".join(str(size) for size in by_distance.shape)
            raise RuntimeError(f"{op}: by_distance has size {found}, expected at least {longest}")


def _factor(op: str, rows: Tensor, scale: float | None) -> float:
    """s: what is given, above 0, or one over the root of the heads' size."""
    need_positive(op, "scale", scale)
    factor: float = rows.shape[-1] ** -0.5 if scale is None else scale
    return factor


def _check_wanted(queries: Tensor, heads: tuple[int, ...], wanted: Tensor, keys: Tensor, where: str) -> None:
    def wrong(argument: str, problem: str, found: object, expected: object) -> UsageError:
        return UsageError(problem, where=f"{where}({argument})", found=found, expected=expected)

    if wanted.dim() != 1 or wanted.dtype != torch.int64:
        raise wrong("wanted", "is no list of rows", (tuple(wanted.shape), wanted.dtype), "int64 [R]")
    if tuple(queries.shape) != (wanted.shape[0], *heads):
        raise wrong("queries", "has the wrong shape", tuple(queries.shape), (wanted.shape[0], *heads))
    if queries.dtype != keys.dtype:
        raise wrong("queries", "has another dtype than keys", queries.dtype, keys.dtype)


def _fake(qkv: Tensor, cu_seqlens: Tensor, causal: bool, scale: float) -> Tensor:
    rows, _, heads, d = qkv.shape
    return qkv.new_empty((rows, heads, d))


def _fake_backward(grad: Tensor, qkv: Tensor, cu_seqlens: Tensor, causal: bool, scale: float) -> Tensor:
    return qkv.new_empty(qkv.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, causal, scale = inputs
    ctx.save_for_backward(*tensors)
    ctx.settings = (causal, scale)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    made = torch.ops.recengine.softmax_attention_backward(grad, *ctx.saved_tensors, *ctx.settings)
    return made, None, None, None


def _fake_at(q: Tensor, kv: Tensor, wanted: Tensor, cu_seqlens: Tensor, causal: bool, scale: float) -> Tensor:
    return q.new_empty(q.shape)


def _fake_at_backward(
    grad: Tensor, q: Tensor, kv: Tensor, wanted: Tensor, cu_seqlens: Tensor, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), kv.new_empty(kv.shape)


def _backward_at(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    dq, dkv = torch.ops.recengine.softmax_attention_at_backward(grad, *ctx.saved_tensors, *ctx.settings)
    return dq, dkv, None, None, None, None


def _fake_gated(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    wanted: Tensor,
    cu_seqlens: Tensor,
    by_distance: Tensor,
    times: Tensor | None,
    by_time: Tensor | None,
    share: float,
) -> Tensor:
    return q.new_empty(q.shape)


def _fake_gated_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    wanted: Tensor,
    cu_seqlens: Tensor,
    by_distance: Tensor,
    times: Tensor | None,
    by_time: Tensor | None,
    share: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    d_time = by_distance.new_empty(0 if by_time is None else BUCKETS)
    return (
        q.new_empty(q.shape),
        k.new_empty(k.shape),
        k.new_empty(k.shape),
        by_distance.new_empty(by_distance.shape),
        d_time,
    )


def _setup_gated(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.share = inputs
    ctx.save_for_backward(*tensors)


def _backward_gated(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    dq, dk, dv, d_distance, d_time = torch.ops.recengine.gated_attention_backward(
        grad, *ctx.saved_tensors, ctx.share
    )
    return dq, dk, dv, None, None, d_distance, None, d_time if ctx.needs_input_grad[7] else None, None


if native().cpu:
    torch.library.register_fake("recengine::softmax_attention", _fake)
    torch.library.register_fake("recengine::softmax_attention_backward", _fake_backward)
    torch.library.register_autograd("recengine::softmax_attention", _backward, setup_context=_setup)
    torch.library.register_fake("recengine::softmax_attention_at", _fake_at)
    torch.library.register_fake("recengine::softmax_attention_at_backward", _fake_at_backward)
    torch.library.register_autograd("recengine::softmax_attention_at", _backward_at, setup_context=_setup)
    torch.library.register_fake("recengine::gated_attention", _fake_gated)
    torch.library.register_fake("recengine::gated_attention_backward", _fake_gated_backward)
    torch.library.register_autograd("recengine::gated_attention", _backward_gated, setup_context=_setup_gated)
    differentiable_once("softmax_attention", "softmax_attention_backward")
    differentiable_once("softmax_attention_at", "softmax_attention_at_backward")
    differentiable_once("gated_attention", "gated_attention_backward")
