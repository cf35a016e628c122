"""Token mixing: the h-th parts of all tokens become one row, fused with residual and RMSNorm.

x is [B, T, D] with D = H·δ; mixing is parameter-free and needs H only to divide D, not to equal T:

    s[b, h, t·δ + j] = x[b, t, h·δ + j]  (+ residual[b, h, t·δ + j])          s: [B, H, T·δ]
    normed[b, h, :]  = weight ⊙ s[b, h, :] / sqrt(mean(s[b, h, :]²) + ε)

Mixing [B, H, T·δ] with T heads gives [B, T, H·δ] back: *revert* is mixing with the roles exchanged, and
one kernel does both. Backward with u = s / rms and G = ∂L/∂normed: ∂weight = Σ G ⊙ u and
∂s = (weight ⊙ G - u·mean(u ⊙ weight ⊙ G)) / rms + ∂L/∂mixed; ∂residual = ∂s, ∂x = revert(∂s).

Post-norm blocks (RankMixer: norm(mix(x) + x)) want :func:`mix_norm`; pre-norm blocks (TokenMixer-Large:
s + F(norm(s))) want :func:`mix_prenorm`, which keeps s too. ``revert_norm(f, weight, tokens, residual=x)``
is norm(x + revert(f)).

Sources: RankMixer (arXiv 2507.15551); TokenMixer-Large (arXiv 2602.06563), sections on Mix and Revert.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..errors import UsageError
from ._library import differentiable_once, has_kernel, native

__all__ = ["mix_norm", "mix_prenorm", "revert_norm", "revert_prenorm", "token_mix", "token_revert"]


def token_mix(x: Tensor, heads: int) -> Tensor:
    """[B, T, D] to [B, H, T·D/H]: row h holds the h-th parts of all tokens. Any strides, any dtype."""
    _check("token_mix", x, None, None, heads)
    if not _kernel_for(x):
        return _mix(x, heads)
    return _apply(x, None, None, heads, 0.0, True)[1]


def token_revert(mixed: Tensor, tokens: int) -> Tensor:
    """The inverse of :func:`token_mix`: [B, H, T·δ] to [B, T, H·δ]."""
    _check("token_revert", mixed, None, None, tokens)
    return token_mix(mixed, tokens)


def mix_norm(
    x: Tensor, weight: Tensor, heads: int, *, residual: Tensor | None = None, eps: float = 1e-6
) -> Tensor:
    """RMSNorm(mix(x) + residual), [B, H, T·D/H], in one pass over memory.

    Parameters
    ----------
    x: [B, T, D] float32 or bfloat16 (float16 on CUDA), any strides; sums are float32.
    weight: [T·D/H], the norm's scale, float32 or dtype of ``x``.
    heads: H, a divisor of D.
    residual: [B, H, T·D/H] or None. ``x`` itself (H = T) is recognised: its two gradients come as one.
    eps: added to the mean square; 0 or more.

    Raises
    ------
    UsageError: shapes, dtypes, devices or an ``eps`` that do not fit, naming the argument.
    """
    return _forward("mix_norm", x, weight, heads, residual, eps, False)[0]


def mix_prenorm(
    x: Tensor, weight: Tensor, heads: int, *, residual: Tensor | None = None, eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """As :func:`mix_norm`, but returns (normed, mixed + residual): a pre-norm block needs both."""
    normed, mixed, _ = _forward("mix_prenorm", x, weight, heads, residual, eps, True)
    return normed, mixed


def revert_norm(
    mixed: Tensor, weight: Tensor, tokens: int, *, residual: Tensor | None = None, eps: float = 1e-6
) -> Tensor:
    """RMSNorm(revert(mixed) + residual), [B, T, H·δ]; ``weight`` [H·δ]. See :func:`mix_norm`."""
    return _forward("revert_norm", mixed, weight, tokens, residual, eps, False)[0]


def revert_prenorm(
    mixed: Tensor, weight: Tensor, tokens: int, *, residual: Tensor | None = None, eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """As :func:`revert_norm`, but returns (normed, reverted + residual)."""
    normed, reverted, _ = _forward("revert_prenorm", mixed, weight, tokens, residual, eps, True)
    return normed, reverted


def mix_prenorm_reference(
    x: Tensor, weight: Tensor, heads: int, *, residual: Tensor | None = None, eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """(normed, mixed + residual) in plain torch, for any floating dtype and device."""
    wide = torch.promote_types(x.dtype, torch.float32)
    s = _mix(x, heads).to(wide)
    if residual is not None:
        s = s + residual.to(wide)
    normed = s * torch.rsqrt(s.square().mean(-1, keepdim=True) + eps) * weight.to(wide)
    return normed.to(x.dtype), s.to(x.dtype)


def _mix(x: Tensor, heads: int) -> Tensor:
    samples, tokens, features = x.shape
    part = features // heads
    return x.reshape(samples, tokens, heads, part).transpose(1, 2).reshape(samples, heads, tokens * part)


def _forward(
    name: str, x: Tensor, weight: Tensor, heads: int, residual: Tensor | None, eps: float, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    _check(name, x, weight, residual, heads, eps)
    if _kernel_for(x):
        return _apply(x, residual, weight, heads, eps, keep)
    return (*mix_prenorm_reference(x, weight, heads, residual=residual, eps=eps), x)


def _apply(
    x: Tensor, residual: Tensor | None, weight: Tensor | None, heads: int, eps: float, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    own = residual is x
    if own:
        residual = None
    out: tuple[Tensor, Tensor, Tensor] = torch.ops.recengine.token_mixing(
        x, residual, weight, heads, eps, keep, own
    )
    return out


def _kernel_for(x: Tensor) -> bool:
    low = (torch.float16,) if x.device.type == "cuda" else ()
    # Without tokens the gradient's width cannot be told from the result.
    return has_kernel(x) and x.dtype in (torch.float32, torch.bfloat16, *low) and x.shape[1] > 0


def _check(
    name: str, x: Tensor, weight: Tensor | None, residual: Tensor | None, heads: int, eps: float = 0.0
) -> None:
    def wrong(argument: str, problem: str, found: object, expected: object) -> UsageError:
        return UsageError(problem, where=f"{name}({argument})", found=found, expected=expected)

    if x.dim() != 3 or not x.is_floating_point():
        found = f"{tuple(x.shape)} {x.dtype}"
        raise wrong("x", "is not a batch of tokens", found, "[B, T, D], floating point")
    samples, tokens, features = x.shape
    if heads < 1 or features % heads:
        raise wrong("heads", "does not divide the features", heads, f"a divisor of {features}")
    if not 0 <= eps < math.inf:
        raise wrong("eps", "cannot be added to a mean square", eps, "at least 0 and finite")
    width = tokens * (features // heads)
    if weight is not None and (tuple(weight.shape) != (width,) or not weight.is_floating_point()):
        raise wrong("weight", "has the wrong shape", f"{tuple(weight.shape)} {weight.dtype}", f"[{width}]")
    if residual is not None and (tuple(residual.shape) != (samples, heads, width)):
        raise wrong(
            "residual", "has the wrong shape", tuple(residual.shape), f"[{samples}, {heads}, {width}]"
        )
    if residual is not None and residual.dtype != x.dtype:
        raise wrong("residual", "has another dtype than x", residual.dtype, x.dtype)
    for argument, value in (("weight", weight), ("residual", residual)):
        if value is not None and value.device != x.device:
            raise wrong(argument, "is on another device than x", value.device, x.device)


def _fake_forward(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    heads: int,
    eps: float,
    keep_mixed: bool,
    own_residual: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    shape = (x.shape[0], heads, x.shape[1] * (x.shape[2] // heads))
    normed = x.new_empty(shape if weight is not None else (0,))
    mixed = x.new_empty(shape if keep_mixed else (0,))
    rstd = x.new_empty(shape[:2] if weight is not None else (0,), dtype=torch.float32)
    return normed, mixed, rstd


def _fake_backward(
    grad_normed: Tensor | None,
    grad_mixed: Tensor | None,
    source: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    rstd: Tensor,
    tokens: int,
    heads: int,
    source_is_mixed: bool,
    own_residual: bool,
    residual_grad: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    part = source.shape[2] // max(tokens if source_is_mixed else heads, 1)
    samples, width = source.shape[0], tokens * part
    dx = source.new_empty((samples, tokens, heads * part))
    dr = source.new_empty((samples, heads, width) if residual_grad else (0,))
    return dx, dr, source.new_empty((0 if weight is None else width,), dtype=torch.float32)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, residual, weight, heads, _, keep_mixed, own_residual = inputs
    normed, mixed, rstd = output
    empty = ([] if keep_mixed else [mixed]) + ([] if weight is not None else [normed])
    ctx.mark_non_differentiable(rstd, *empty)
    ctx.set_materialize_grads(False)
    # s is kept where the caller keeps it anyway; else, and where storing it has rounded it, it is made
    # again from what the caller holds.
    rounded = x.dtype != torch.float32 and (residual is not None or own_residual)
    from_mixed = keep_mixed and not rounded
    ctx.save_for_backward(mixed if from_mixed else x, None if from_mixed else residual, weight, rstd)
    ctx.settings = (x.shape[1], heads, from_mixed, own_residual)
    ctx.has_residual = residual is not None


def _backward(
    ctx: Any, grad_normed: Tensor | None, grad_mixed: Tensor | None, _: Tensor | None
) -> tuple[Tensor | None, ...]:
    if grad_normed is None and grad_mixed is None:
        return (None,) * 7
    source, residual, weight, rstd = ctx.saved_tensors
    wanted = ctx.has_residual and ctx.needs_input_grad[1]
    dx, dr, dw = torch.ops.recengine.token_mixing_backward(
        grad_normed, grad_mixed, source, residual, weight, rstd, *ctx.settings, wanted
    )
    return dx, dr if wanted else None, None if weight is None else dw.to(weight.dtype), None, None, None, None


if native().cpu:
    torch.library.register_fake("recengine::token_mixing", _fake_forward)
    torch.library.register_fake("recengine::token_mixing_backward", _fake_backward)
    torch.library.register_autograd("recengine::token_mixing", _backward, setup_context=_setup_context)
    differentiable_once("token_mixing", "token_mixing_backward")
