"""Token mixing with residual and RMSNorm (H = T, as in RankMixer) beside eager and compiled torch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from common import OURS, Case, main
from torch import Tensor
from torch.nn import functional

from recengine.ops import mix_norm

Candidates = dict[str, Callable[[], object]]


def plain(x: Tensor, weight: Tensor) -> Tensor:
    B, T, D = x.shape
    mixed = x.view(B, T, T, D // T).transpose(1, 2).reshape(B, T, D)
    return functional.rms_norm(mixed + x, (D,), weight, 1e-6)


def candidates(B: int, T: int, D: int, dtype: torch.dtype, backward: bool) -> Candidates:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(B, T, D, generator=generator).to(dtype).requires_grad_(backward)
    weight = torch.randn(D, generator=generator).to(dtype).requires_grad_(backward)
    grad = torch.randn(B, T, D, generator=generator).to(dtype)
    forms: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        OURS: lambda x, weight: mix_norm(x, weight, T, residual=x),
        "eager": plain,
        "compile": torch.compile(plain, dynamic=False),
    }

    def timed(form: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], object]:
        if backward:
            return lambda: torch.autograd.grad(form(x, weight), (x, weight), grad)
        return lambda: form(x, weight)

    return {name: timed(form) for name, form in forms.items()}


def cases(quick: bool) -> list[Case]:
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        for B, T, D in [(1024, 16, 256), (512, 8, 1024)]:
            B = B // 4 if quick else B
            for backward in (False, True):
                kind = "bf16" if dtype == torch.bfloat16 else "fp32"
                claim = "native.token-mixing-bf16" if kind == "bf16" else None
                if kind == "fp32" and backward:
                    claim = "native.token-mixing-forward-backward"
                size = B * T * D * (2 if kind == "bf16" else 4)

                def build(
                    shape: tuple[int, int, int] = (B, T, D),
                    dtype: torch.dtype = dtype,
                    backward: bool = backward,
                ) -> Candidates:
                    return candidates(*shape, dtype, backward)

                found.append(
                    Case(
                        f"token mixing {kind} {'f+b' if backward else 'fwd'} B{B} T{T} D{D}",
                        build,
                        traffic=float(size * (5 if backward else 2)),
                        claim=claim,
                    )
                )
    return found


if __name__ == "__main__":
    main("Token mixing with residual and RMSNorm", cases)
