"""Exact attention over packed sequences beside torch's on a grid of the longest one.

Lengths are drawn as those of Amazon Beauty are spread (half of the users with six events or fewer), or are
all the same, which is the case that suits a grid best. Every candidate starts from packed rows and ends with
packed rows, and where it goes back, with the gradient of the packed projection: what a model needs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from common import OURS, Case, main
from torch import Tensor
from torch.nn import functional

from recengine.ops import softmax_attention

Candidates = dict[str, Callable[[], object]]


def lengths_of(B: int, longest: int, even: bool) -> Tensor:
    """Lengths [B] of at most ``longest``."""
    if even:
        return torch.full((B,), longest)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.empty(B).exponential_(1 / 6.0, generator=generator).long() + 3
    drawn[0] = longest
    return drawn.clamp(max=longest)


def grid(qkv: Tensor, offsets: Tensor, causal: bool) -> Tensor:
    """Rows into [B, longest], torch's attention there, and back."""
    lengths = offsets.diff()
    sequences, longest = len(lengths), int(lengths.max())
    real = torch.arange(longest) < lengths[:, None]
    cells = real.flatten().nonzero().flatten()
    padded = qkv.new_zeros(sequences * longest, *qkv.shape[1:]).index_copy(0, cells, qkv)
    q, k, v = padded.view(sequences, longest, *qkv.shape[1:]).permute(2, 0, 3, 1, 4)
    mask = None if causal or bool(real.all()) else real[:, None, None, :]
    mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    return mixed.transpose(1, 2).flatten(0, 1).index_select(0, cells)


def even_grid(qkv: Tensor, offsets: Tensor, causal: bool) -> Tensor:
    """The same where all sequences are as long: views alone, as an informed user writes it."""
    sequences = len(offsets) - 1
    q, k, v = qkv.view(sequences, -1, *qkv.shape[1:]).permute(2, 0, 3, 1, 4)
    return functional.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).flatten(0, 1)


def candidates(
    B: int, H: int, S: int, d: int, even: bool, causal: bool, dtype: torch.dtype, backward: bool
) -> Candidates:
    lengths = lengths_of(B, S, even)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    generator = torch.Generator().manual_seed(0)
    rows = int(offsets[-1])
    qkv = torch.randn(rows, 3, H, d, generator=generator).to(dtype).requires_grad_(backward)
    grad = torch.randn(rows, H, d, generator=generator).to(dtype)
    form = even_grid if even else grid
    forms: dict[str, Callable[[], Tensor]] = {
        OURS: lambda: softmax_attention(qkv, cu_seqlens=offsets, causal=causal),
        "sdpa": lambda: form(qkv, offsets, causal),
    }
    if even:
        compiled = torch.compile(form, dynamic=False)
        forms["compile"] = lambda: compiled(qkv, offsets, causal)

    def timed(call: Callable[[], Tensor]) -> Callable[[], object]:
        return (lambda: torch.autograd.grad(call(), (qkv,), grad)) if backward else call

    return {name: timed(call) for name, call in forms.items()}


def cases(quick: bool) -> list[Case]:
    shapes = [
        (128, 2, 50, 32, False),
        (1024, 2, 50, 32, False),
        (128, 2, 50, 32, True),
        (128, 2, 200, 64, True),
    ]
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        for B, H, S, d, even in shapes[:1] if quick else shapes:
            for causal in (False, True):
                for backward in (False, True):
                    pairs = float((lengths_of(B, S, even).double() ** 2).sum()) / (2 if causal else 1)
                    rows = int(lengths_of(B, S, even).sum())
                    size = rows * H * d * (4 if dtype == torch.float32 else 2)
                    kind = "bf16" if dtype == torch.bfloat16 else "even" if even else "ragged"
                    claim = f"native.packed-attention-{kind}"

                    def build(
                        shape: tuple[int, int, int, int, bool] = (B, H, S, d, even),
                        causal: bool = causal,
                        dtype: torch.dtype = dtype,
                        backward: bool = backward,
                    ) -> Candidates:
                        return candidates(*shape, causal, dtype, backward)

                    found.append(
                        Case(
                            f"attention {'fp32' if dtype == torch.float32 else 'bf16'}"
                            f" {'causal' if causal else 'both ways'} {'f+b' if backward else 'fwd'}"
                            f" B{B} H{H} {'S' if even else 'up to S'}{S} d{d}",
                            build,
                            flop=(14.0 if backward else 4.0) * pairs * H * d,
                            traffic=float(size * (11 if backward else 4)),
                            claim=claim,
                        )
                    )
    return found


if __name__ == "__main__":
    main("Exact attention over packed sequences", cases)
