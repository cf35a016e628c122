"""Cosine linear attention straight from packed queries, keys and values.

With q̂ = φ(q) / max(‖φ(q)‖, 1e-12) and k̂ likewise, φ the identity or elu, per head and sequence

    bidirectional   O_i = c q̂_i · Σ_j k̂_j v_jᵀ           causal   O_i = c_i q̂_i · Σ_{j ≤ i} a_j k̂_j v_jᵀ

which costs 4·S·d² operations instead of softmax attention's 4·S²·d, and the other order,
c (q̂ k̂ᵀ) v, when S < d. Positions that the mask drops take no part, and give 0. The scale is

    "length"      n^-σ(m), n the valid positions that the query sees (its prefix, when causal)
    "sequence"    n^-σ(m), n the valid positions of the whole sequence, also when causal
    "key_prefix"  causal only: a_j = (valid positions up to j)^-σ(m), c = 1
    "sqrt_d"      1/√d
    "one"         1

so that Cottention and Cotten4Rec (activation "none", scale "length"; Cottention's causal code is
"key_prefix") and LinRec (activation "elu", scale "sqrt_d", no mask) are one operator.

Backward, G = ∂L/∂O, M = Σ k̂ vᵀ, R = Σ q̂ Gᵀ: ∂q̂ = c G Mᵀ, ∂k̂ = c v Rᵀ, ∂v = c k̂ R; through the
normalisation ∂q = (∂q̂ - q̂ (q̂·∂q̂)) / ‖q‖; and since q̂·∂q̂ = G·O, ∂m = -σ(m)(1-σ(m)) Σ ln n Σ_i G_i·O_i.

Sources: Mongaras et al., "Cottention" (2024); Cotten4Rec (arXiv 2602.06935); Liu et al., "LinRec" (2023).
"""

from __future__ import annotations

import itertools
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import UsageError
from ._checks import need_ascending, need_bounds, need_range
from ._library import differentiable_once, has_kernel, native

Activation = Literal["none", "elu"]
Scale = Literal["length", "sequence", "key_prefix", "sqrt_d", "one"]

EPS = 1e-12
MAX_HEAD_SIZE = 128
_POWERS = ("length", "sequence", "key_prefix")


def cosine_attention(
    qkv: Tensor,
    *,
    mask: Tensor | None = None,
    lengths: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    m: Tensor | None = None,
    causal: bool = False,
    activation: Activation = "none",
    scale: Scale = "length",
) -> Tensor:
    """Cosine linear attention of packed queries, keys and values (formulas: this module's docstring).

    Parameters
    ----------
    qkv: [B, S, 3, H, d], or [T, 3, H, d] with ``cu_seqlens``; any strides. float32 or bfloat16 (float16
        on CUDA); sums are float32. Heads of up to 128 have a kernel, larger ones run the reference.
    mask: bool [B, S], True = valid; padding may lie anywhere.
    lengths: int64 [B]; the first ``lengths[b]`` positions are valid (right padding).
    cu_seqlens: int64 [B + 1], rising from 0 to T: sequence b is rows ``cu_seqlens[b]:cu_seqlens[b + 1]``.
        Copied where it is not contiguous.
    m: float32 [H], one learned exponent parameter a head; for the three scales that are powers of n.
    causal: whether a query sees its prefix only.
    activation: "none" or "elu", applied before the normalisation.
    scale: "length", "sequence", "key_prefix", "sqrt_d" or "one".

    Returns
    -------
    [B, S, H, d] or [T, H, d], dtype of ``qkv``.

    Raises
    ------
    UsageError: arguments that do not fit together. Shapes, dtypes and ranges are checked by the operator
        (RuntimeError naming the argument); on CUDA the values of lengths and cu_seqlens are not read back.
    """
    _check(qkv, mask, lengths, cu_seqlens, m, causal, activation, scale)
    if not _kernel_for(qkv):
        need_range("cosine_attention", "lengths", lengths, 0, qkv.shape[1])
        if cu_seqlens is not None:
            need_bounds("cosine_attention", "cu_seqlens", cu_seqlens, qkv.shape[0])
        return cosine_attention_reference(
            qkv,
            mask=mask,
            lengths=lengths,
            cu_seqlens=cu_seqlens,
            m=m,
            causal=causal,
            activation=activation,
            scale=scale,
        )
    trained = torch.is_grad_enabled() and (qkv.requires_grad or (m is not None and m.requires_grad))
    # The d x d sums help the gradient on CUDA; on a CPU making them again costs less than keeping them.
    kept = trained and qkv.is_cuda
    exponent = None if m is None else m.float()
    bounds = None if cu_seqlens is None else cu_seqlens.contiguous()
    out: Tensor = torch.ops.recengine.cosine_attention(
        qkv, mask, lengths, bounds, exponent, causal, activation, scale, kept
    )[0]
    return out


def cosine_attention_at(
    queries: Tensor,
    keys: Tensor,
    wanted: Tensor,
    *,
    cu_seqlens: Tensor,
    m: Tensor | None = None,
    causal: bool = False,
    activation: Activation = "none",
    scale: Scale = "length",
) -> Tensor:
    """:func:`cosine_attention` where only some rows of packed sequences ask.

    Parameters
    ----------
    queries: [R, H, d], of the rows ``wanted``; any strides, as are those of ``keys``.
    keys: [T, 2, H, d], keys and values of all rows.
    wanted: int64 [R], ascending.
    cu_seqlens, m, causal, activation, scale: as for ``cosine_attention``.

    Returns
    -------
    [R, H, d]: the rows ``wanted`` of ``cosine_attention``, up to rounding. Bidirectional on a CPU, nothing
    of the size of the other rows' queries is made, in the backward pass neither.

    Raises
    ------
    UsageError, RuntimeError: as ``cosine_attention``; rows that do not ascend are found on a CPU.
    """
    _check_at(queries, keys, wanted)
    if causal or not _kernel_for(queries) or queries.is_cuda:
        need_ascending("cosine_attention_at", "wanted", wanted, keys.shape[0])
        asked = queries.new_zeros((keys.shape[0], *queries.shape[1:])).index_copy(0, wanted, queries)
        laid = torch.cat([asked[:, None], keys], 1)
        whole = cosine_attention(
            laid, cu_seqlens=cu_seqlens, m=m, causal=causal, activation=activation, scale=scale
        )
        return whole.index_select(0, wanted)
    _check(keys, None, None, cu_seqlens, m, causal, activation, scale, "keys", 2)
    exponent = None if m is None else m.float()
    out: Tensor = torch.ops.recengine.cosine_attention_at(
        queries, keys, wanted, cu_seqlens.contiguous(), exponent, activation, scale
    )
    return out


def cosine_attention_reference(
    qkv: Tensor,
    *,
    mask: Tensor | None = None,
    lengths: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    m: Tensor | None = None,
    causal: bool = False,
    activation: Activation = "none",
    scale: Scale = "length",
) -> Tensor:
    """The same in plain torch, for any floating dtype and device, by way of the S x S matrix."""
    if cu_seqlens is not None:
        bounds = cu_seqlens.tolist()
        parts = [
            cosine_attention_reference(
                qkv[None, start:stop], m=m, causal=causal, activation=activation, scale=scale
            )[0]
            for start, stop in itertools.pairwise(bounds)
        ]
        return torch.cat(parts) if parts else qkv[:, 0]
    work = qkv.float() if qkv.dtype in (torch.float16, torch.bfloat16) else qkv
    sequences, positions = qkv.shape[:2]
    if lengths is not None:
        mask = torch.arange(positions, device=qkv.device) < lengths[:, None]
    if mask is None:
        mask = torch.ones(sequences, positions, dtype=torch.bool, device=qkv.device)
    q, k, v = torch.where(mask[:, :, None, None, None], work, 0).permute(2, 0, 3, 1, 4)  # each [B, H, S, d]
    if activation == "elu":
        q, k = torch.nn.functional.elu(q), torch.nn.functional.elu(k)
    q, k = (torch.nn.functional.normalize(x, dim=-1, eps=EPS) for x in (q, k))
    similarity = q @ k.transpose(-1, -2)
    if causal:
        similarity = similarity.tril()
    similarity = similarity * _scales(mask, m, q.shape[1], q.shape[-1], causal, scale).to(work)
    out: Tensor = (similarity @ v).transpose(1, 2).to(qkv.dtype)
    return out


def _scales(mask: Tensor, m: Tensor | None, heads: int, d: int, causal: bool, scale: Scale) -> Tensor:
    """What the similarities [B, H, S, S] are multiplied by, as a tensor that broadcasts to them."""
    if m is None:
        return torch.full((1, 1, 1, 1), d**-0.5 if scale == "sqrt_d" else 1.0, dtype=torch.float64)
    prefix = scale == "key_prefix" or (causal and scale == "length")
    count = mask.cumsum(1) if prefix else mask.sum(1, keepdim=True)
    power = torch.sigmoid(m.double()).view(1, heads, 1, 1)
    log = count.clamp(min=1).double().log()
    return torch.exp(-power * (log[:, None, None, :] if scale == "key_prefix" else log[:, None, :, None]))


def _kernel_for(qkv: Tensor) -> bool:
    low = (torch.float16,) if qkv.device.type == "cuda" else ()
    return (
        has_kernel(qkv)
        and qkv.dtype in (torch.float32, torch.bfloat16, *low)
        and 1 <= qkv.shape[-1] <= MAX_HEAD_SIZE
    )


def _check(
    qkv: Tensor,
    mask: Tensor | None,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
    m: Tensor | None,
    causal: bool,
    activation: str,
    scale: str,
    packed_as: str = "qkv",
    parts: int = 3,
) -> None:
    def wrong(argument: str, problem: str, found: object, expected: object) -> UsageError:
        argument = packed_as if argument == "qkv" else argument
        return UsageError(problem, where=f"cosine_attention({argument})", found=found, expected=expected)

    packed = cu_seqlens is not None
    if sum(x is not None for x in (mask, lengths, cu_seqlens)) > 1:
        raise wrong("mask, lengths, cu_seqlens", "only one can say what is valid", "several", "at most one")
    if qkv.dim() != (4 if packed else 5) or qkv.shape[-3] != parts:
        expected = f"[T, {parts}, H, d]" if packed else f"[B, S, {parts}, H, d]"
        raise wrong("qkv", "has the wrong shape", tuple(qkv.shape), expected)
    if qkv.shape[-1] < 1:
        raise wrong("qkv", "has heads of no size", tuple(qkv.shape), "d of at least 1")
    if not qkv.is_floating_point():
        raise wrong("qkv", "is not floating point", qkv.dtype, "float32 or bfloat16")
    sequences, positions, heads = qkv.shape[0], qkv.shape[-4], qkv.shape[-2]
    for name, value, dtype, shape in (
        ("mask", mask, torch.bool, (sequences, positions)),
        ("lengths", lengths, torch.int64, (sequences,)),
        ("cu_seqlens", cu_seqlens, torch.int64, None),
        ("m", m, None, (heads,)),
    ):
        if value is None:
            continue
        if dtype is not None and value.dtype != dtype:
            raise wrong(name, "has the wrong dtype", value.dtype, dtype)
        if (shape is not None and tuple(value.shape) != shape) or (shape is None and value.dim() != 1):
            raise wrong(name, "has the wrong shape", tuple(value.shape), shape or "[B + 1]")
        if value.device != qkv.device:
            raise wrong(name, "is on another device than qkv", value.device, qkv.device)
    if activation not in ("none", "elu"):
        raise wrong("activation", "is unknown", activation, "none or elu")
    if scale not in (*_POWERS, "sqrt_d", "one"):
        raise wrong("scale", "is unknown", scale, "length, sequence, key_prefix, sqrt_d or one")
    if scale == "key_prefix" and not causal:
        raise wrong("scale", "key_prefix needs a causal mask", "causal=False", "causal=True")
    if (m is not None) != (scale in _POWERS):
        expected = "a tensor [H]" if scale in _POWERS else "None"
        raise wrong("m", f"does not go with scale {scale!r}", "None" if m is None else "a tensor", expected)


def _check_at(queries: Tensor, keys: Tensor, wanted: Tensor) -> None:
    def wrong(argument: str, problem: str, found: object, expected: object) -> UsageError:
        return UsageError(problem, where=f"cosine_attention_at({argument})", found=found, expected=expected)

    for name, value in (("queries", queries), ("wanted", wanted)):
        if value.device != keys.device:
            raise wrong(name, "is on another device than keys", value.device, keys.device)
    if wanted.dim() != 1 or wanted.dtype != torch.int64:
        raise wrong("wanted", "is no list of rows", (tuple(wanted.shape), wanted.dtype), "int64 [R]")
    if keys.dim() != 4 or keys.shape[1] != 2:
        raise wrong("keys", "has the wrong shape", tuple(keys.shape), "[T, 2, H, d]")
    expected = (wanted.shape[0], *keys.shape[2:])
    if tuple(queries.shape) != expected:
        raise wrong("queries", "has the wrong shape", tuple(queries.shape), expected)
    if queries.dtype != keys.dtype:
        raise wrong("queries", "has another dtype than keys", queries.dtype, keys.dtype)


def _fake_at(
    q: Tensor,
    kv: Tensor,
    wanted: Tensor,
    cu_seqlens: Tensor,
    m: Tensor | None,
    activation: str,
    scale: str,
) -> Tensor:
    return q.new_empty(q.shape)


def _fake_at_backward(
    grad: Tensor,
    q: Tensor,
    kv: Tensor,
    wanted: Tensor,
    cu_seqlens: Tensor,
    m: Tensor | None,
    activation: str,
    scale: str,
) -> tuple[Tensor, Tensor, Tensor]:
    dm = q.new_empty((0 if m is None else q.shape[-2],), dtype=torch.float32)
    return q.new_empty(q.shape), q.new_empty(kv.shape), dm


def _setup_context_at(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, activation, scale = inputs
    ctx.save_for_backward(*tensors)
    ctx.settings = (activation, scale)


def _backward_at(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    dq, dkv, dm = torch.ops.recengine.cosine_attention_at_backward(grad, *ctx.saved_tensors, *ctx.settings)
    return dq, dkv, None, None, dm if ctx.needs_input_grad[4] else None, None, None


def _fake_forward(
    qkv: Tensor,
    mask: Tensor | None,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
    m: Tensor | None,
    causal: bool,
    activation: str,
    scale: str,
    save_state: bool,
) -> tuple[Tensor, Tensor]:
    heads, d = qkv.shape[-2:]
    out = qkv.new_empty((*qkv.shape[:-3], heads, d))
    if not save_state or causal:
        return out, qkv.new_empty((0,), dtype=torch.float32)
    sequences = qkv.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    padded = (d + 15) // 16 * 16
    return out, qkv.new_empty((sequences, heads, padded, padded), dtype=torch.float32)


def _fake_backward(
    grad: Tensor,
    qkv: Tensor,
    mask: Tensor | None,
    lengths: Tensor | None,
    cu_seqlens: Tensor | None,
    m: Tensor | None,
    state: Tensor,
    causal: bool,
    activation: str,
    scale: str,
) -> tuple[Tensor, Tensor]:
    dm = qkv.new_empty((0 if m is None else qkv.shape[-2],), dtype=torch.float32)
    return qkv.new_empty(qkv.shape), dm


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    qkv, mask, lengths, cu_seqlens, m, causal, activation, scale, save_state = inputs
    ctx.save_for_backward(qkv, mask, lengths, cu_seqlens, m, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.settings = (causal, activation, scale)
    ctx.has_state = save_state or causal or not qkv.is_cuda


def _backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 9
    if not ctx.has_state:
        raise UsageError("cosine_attention was called without save_state, so it has no gradient")
    dqkv, dm = torch.ops.recengine.cosine_attention_backward(grad, *ctx.saved_tensors, *ctx.settings)
    return dqkv, None, None, None, dm if ctx.needs_input_grad[4] else None, None, None, None, None


if native().cpu:
    torch.library.register_fake("recengine::cosine_attention", _fake_forward)
    torch.library.register_fake("recengine::cosine_attention_backward", _fake_backward)
    torch.library.register_autograd("recengine::cosine_attention", _backward, setup_context=_setup_context)
    torch.library.register_fake("recengine::cosine_attention_at", _fake_at)
    torch.library.register_fake("recengine::cosine_attention_at_backward", _fake_at_backward)
    torch.library.register_autograd(
        "recengine::cosine_attention_at", _backward_at, setup_context=_setup_context_at
    )
    differentiable_once("cosine_attention", "cosine_attention_backward")
    differentiable_once("cosine_attention_at", "cosine_attention_at_backward")
