"""Cosine linear attention beside torch: matrix products eager and compiled, and SDPA (softmax)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from common import OURS, Case, main
from torch import Tensor
from torch.nn import functional

from recengine.ops import cosine_attention

Candidates = dict[str, Callable[[], object]]


def plain(qkv: Tensor, mask: Tensor, m: Tensor) -> Tensor:
    """The same function as an informed user of torch writes it: k^T v first, scale on the result."""
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    keep = mask[:, None, :, None].to(qkv.dtype)
    n = mask.sum(1).clamp(min=1).to(qkv.dtype)
    scale = n[:, None, None, None] ** -torch.sigmoid(m)[None, :, None, None].to(qkv.dtype)
    q, k = functional.normalize(q * keep, dim=-1), functional.normalize(k * keep, dim=-1)
    return (q @ (k.transpose(-1, -2) @ (v * keep)) * scale).transpose(1, 2)


def causal_plain(qkv: Tensor, mask: Tensor, m: Tensor) -> Tensor:
    """Causal, by the masked S x S matrix: what torch offers without a scan of its own."""
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    keep = mask[:, None, :, None].to(qkv.dtype)
    n = mask.cumsum(1).clamp(min=1).to(qkv.dtype)
    scale = n[:, None, :, None] ** -torch.sigmoid(m)[None, :, None, None].to(qkv.dtype)
    q, k = functional.normalize(q * keep, dim=-1), functional.normalize(k * keep, dim=-1)
    return ((q @ k.transpose(-1, -2)).tril() @ (v * keep) * scale).transpose(1, 2)


def softmax(qkv: Tensor, mask: Tensor, m: Tensor) -> Tensor:
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :]).transpose(1, 2)


def candidates(
    B: int, H: int, S: int, d: int, dtype: torch.dtype, backward: bool, causal: bool, padded: bool
) -> Candidates:
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(B, S, 3, H, d, generator=generator).to(dtype).requires_grad_(backward)
    m = torch.full((H,), 0.5).requires_grad_(backward)
    start = torch.randint(0, S // 2, (B, 1), generator=generator) if padded else torch.zeros(B, 1)
    mask = torch.arange(S)[None] >= start
    grad = torch.randn(B, S, H, d, generator=generator).to(dtype)
    function = causal_plain if causal else plain
    forms: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
        OURS: lambda qkv, mask, m: cosine_attention(qkv, mask=mask, m=m, causal=causal),
        "eager": function,
        "compile": torch.compile(function, dynamic=False),
    }
    if not causal and S <= 200:
        forms["sdpa (softmax)"] = softmax

    def timed(form: Callable[[Tensor, Tensor, Tensor], Tensor], name: str) -> Callable[[], object]:
        if not backward:
            return lambda: form(qkv, mask, m)
        inputs = (qkv,) if name.startswith("sdpa") else (qkv, m)
        return lambda: torch.autograd.grad(form(qkv, mask, m), inputs, grad)

    return {name: timed(form, name) for name, form in forms.items()}


def cases(quick: bool) -> list[Case]:
    shapes = [(128, 2, 50, 32), (128, 2, 200, 64), (128, 2, 1000, 64)]
    if quick:
        shapes = [(128, 2, 50, 32), (32, 2, 200, 64)]
    rows = [(torch.float32, False, False), (torch.float32, False, True), (torch.bfloat16, False, False)]
    rows += [(torch.float32, True, False)]
    found = []
    for dtype, causal, padded in rows:
        for B, H, S, d in shapes:
            for backward in (False, True):
                kind = "bf16" if dtype == torch.bfloat16 else "fp32"
                traits = (" causal" if causal else "") + (" padded" if padded else "")
                size = B * S * H * d * (2 if kind == "bf16" else 4)
                claim = None
                if kind == "fp32" and not causal and not padded:
                    claim = f"native.attention-{'forward-backward' if backward else 'forward'}"
                if kind == "bf16":
                    claim = "native.attention-bf16"

                def build(
                    shape: tuple[int, int, int, int] = (B, H, S, d),
                    dtype: torch.dtype = dtype,
                    backward: bool = backward,
                    causal: bool = causal,
                    padded: bool = padded,
                ) -> Candidates:
                    return candidates(*shape, dtype, backward, causal, padded)

                found.append(
                    Case(
                        f"attention {kind}{traits} {'f+b' if backward else 'fwd'} B{B} H{H} S{S} d{d}",
                        build,
                        flop=(12.0 if backward else 4.0) * B * H * S * d * d,
                        traffic=float(size * (11 if backward else 4)),
                        claim=claim,
                    )
                )
    return found


if __name__ == "__main__":
    main("Cosine linear attention", cases)
