"""Per-token SwiGLU and sparse per-token mixture of experts beside torch, forward and backward."""

from __future__ import annotations

from collections.abc import Callable

import torch
from common import OURS, Case, main
from torch import Tensor
from torch.nn import functional

from recengine.ops import Experts, PackedWeights, grouped_swiglu, route

Candidates = dict[str, Callable[[], object]]


def weights(*shape: int, dtype: torch.dtype, generator: torch.Generator) -> Experts:
    *bank, width, hidden = shape
    gate, up = ((torch.randn(shape, generator=generator) / width**0.5).to(dtype) for _ in range(2))
    down = (torch.randn(*bank, hidden, width, generator=generator) / hidden**0.5).to(dtype)
    return Experts(gate, up, down)


def timed(layer: Callable[..., Tensor], inputs: tuple[Tensor, ...], backward: bool) -> Callable[[], object]:
    if not backward:
        return lambda: layer(*inputs)
    leaves = tuple(t.clone().requires_grad_() for t in inputs)
    upstream = torch.ones_like(inputs[0])
    return lambda: torch.autograd.grad(layer(*leaves), leaves, upstream)


def dense(
    rows: int, positions: int, width: int, hidden: int, dtype: torch.dtype, backward: bool
) -> Candidates:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, positions, width, generator=generator).to(dtype)
    experts = weights(positions, width, hidden, dtype=dtype, generator=generator)
    packed = PackedWeights()

    def ours(x: Tensor, *experts: Tensor) -> Tensor:
        return grouped_swiglu(x, Experts(*experts))

    def inference(x: Tensor, *experts: Tensor) -> Tensor:
        return grouped_swiglu(x, Experts(*experts), packed=packed)

    def batched(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
        y = x.transpose(0, 1)
        hidden = functional.silu(torch.bmm(y, gate)) * torch.bmm(y, up)
        return torch.bmm(hidden, down).transpose(0, 1)

    def joined(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
        """One product for gate and up, as a model would store them."""
        both = torch.bmm(x.transpose(0, 1), torch.cat([gate, up], 2))
        a, b = both.chunk(2, 2)
        return torch.bmm(functional.silu(a) * b, down).transpose(0, 1)

    layers: dict[str, Callable[..., Tensor]] = {
        OURS: ours if backward else inference,
        "eager bmm": batched,
        "eager joined bmm": joined,
        "compile bmm": torch.compile(batched, dynamic=False),
    }
    return {name: timed(layer, (x, *experts), backward) for name, layer in layers.items()}


def sparse(
    rows: int, positions: int, width: int, experts: int, k: int, dtype: torch.dtype, backward: bool
) -> Candidates:
    """TokenMixer-Large's 1:2 stage: hidden 2 D cut into `experts` experts, k of them active, one always."""
    generator = torch.Generator().manual_seed(0)
    hidden = 2 * width // experts
    x = torch.randn(rows, positions, width, generator=generator).to(dtype)
    router = torch.randn(positions, width, experts - 1, generator=generator) / width**0.5
    own = weights(positions, experts - 1, width, hidden, dtype=dtype, generator=generator)
    spare = weights(positions, width, hidden, dtype=dtype, generator=generator)
    alpha, routed = experts / k, k - 1
    caches = (PackedWeights(), PackedWeights())

    def ours(x: Tensor, router: Tensor, *bank: Tensor) -> Tensor:
        shared = Experts(*bank[3:])
        kept = {} if backward else {"packed": caches[0], "shared_packed": caches[1]}
        return grouped_swiglu(
            x, Experts(*bank[:3]), route(x, router, routed), shared=shared, alpha=alpha, **kept
        )

    def choose(x: Tensor, router: Tensor) -> tuple[Tensor, Tensor]:
        logits, ids = torch.einsum("btd,tde->bte", x.float(), router).topk(routed, -1)
        return ids, alpha * logits.softmax(-1)

    def always(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
        y = x.transpose(0, 1)
        return torch.bmm(functional.silu(torch.bmm(y, gate)) * torch.bmm(y, up), down).transpose(0, 1)

    def masked(x: Tensor, router: Tensor, *bank: Tensor) -> Tensor:
        """Every expert on every token, weighted: no gather at all, twice the products at 1:2."""
        gate, up, down = bank[:3]
        ids, gates = choose(x, router)
        share = torch.zeros(*x.shape[:2], experts - 1).scatter(2, ids, gates).to(x.dtype)
        y = x.transpose(0, 1)
        flat = (positions, width, -1)
        wide = functional.silu(torch.bmm(y, gate.transpose(1, 2).reshape(flat)))
        wide = wide * torch.bmm(y, up.transpose(1, 2).reshape(flat))
        wide = wide * share.transpose(0, 1).repeat_interleave(hidden, 2)
        return torch.bmm(wide, down.reshape(positions, -1, width)).transpose(0, 1) + always(x, *bank[3:])

    def grouped(x: Tensor, router: Tensor, *bank: Tensor) -> Tensor:
        """Sorted by (position, expert), torch._grouped_mm, added back."""
        gate, up, down = (w.flatten(0, 1) for w in bank[:3])
        ids, gates = choose(x, router)
        place = torch.arange(positions)[None, :, None] * (experts - 1) + ids
        order = place.flatten().argsort(stable=True)
        offsets = torch.bincount(place.flatten(), minlength=gate.shape[0]).cumsum(0).to(torch.int32)
        token = order // routed
        rows_of = x.reshape(-1, width)[token]
        inner = functional.silu(torch._grouped_mm(rows_of, gate, offs=offsets))
        outer = torch._grouped_mm(inner * torch._grouped_mm(rows_of, up, offs=offsets), down, offs=offsets)
        outer = outer * gates.flatten()[order, None].to(x.dtype)
        y = torch.zeros_like(x).reshape(-1, width).index_add(0, token, outer)
        return y.reshape(x.shape) + always(x, *bank[3:])

    def looped(x: Tensor, router: Tensor, *bank: Tensor) -> Tensor:
        """Sorted by (position, expert), three products for each of them, added back."""
        banks = zip(*(w.flatten(0, 1).unbind(0) for w in bank[:3]), strict=True)
        ids, gates = choose(x, router)
        place = (torch.arange(positions)[None, :, None] * (experts - 1) + ids).flatten()
        order = place.argsort(stable=True)
        counts = torch.bincount(place, minlength=positions * (experts - 1)).tolist()
        token = order // routed
        parts = x.reshape(-1, width).index_select(0, token).split(counts)
        made = [
            (functional.silu(rows_of @ gate) * (rows_of @ up)) @ down
            for rows_of, (gate, up, down) in zip(parts, banks, strict=True)
        ]
        outer = torch.cat(made) * gates.flatten().index_select(0, order)[:, None].to(x.dtype)
        y = torch.zeros_like(x).reshape(-1, width).index_add(0, token, outer)
        return y.reshape(x.shape) + always(x, *bank[3:])

    layers: dict[str, Callable[..., Tensor]] = {
        OURS: ours,
        "eager loop": looped,
        "eager masked": masked,
        "eager grouped_mm": grouped,
        "compile masked": torch.compile(masked, dynamic=False),
    }
    return {name: timed(layer, (x, router, *own, *spare), backward) for name, layer in layers.items()}


def cases(quick: bool) -> list[Case]:
    found = []
    rows = 64 if quick else 512
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        tail = "" if dtype == torch.float32 else "_bf16"
        for backward in (False, True):
            kind, short = ("fwd+bwd", "fwd_bwd") if backward else ("fwd", "fwd")
            found.append(
                Case(
                    f"per-token SwiGLU {kind} B{rows} T16 D256 n2 {name}",
                    lambda dtype=dtype, backward=backward: dense(rows, 16, 256, 512, dtype, backward),
                    flop=(3 if backward else 1) * 6.0 * rows * 16 * 256 * 512,
                    claim=f"native.swiglu_{short}{tail}",
                )
            )
    rows2 = 128 if quick else 1024
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        tail = "" if dtype == torch.float32 else "_bf16"
        for experts, k in ((4, 2), (8, 4)):
            for backward in (False, True):
                kind, short = ("fwd+bwd", "fwd_bwd") if backward else ("fwd", "fwd")
                active = 6.0 * rows2 * 16 * 128 * (2 * 128 // experts) * k
                found.append(
                    Case(
                        f"sparse MoE {kind} B{rows2} T16 D128 E{experts} k{k} {name}",
                        lambda experts=experts, k=k, dtype=dtype, backward=backward: sparse(
                            rows2, 16, 128, experts, k, dtype, backward
                        ),
                        flop=(3 if backward else 1) * active,
                        claim=f"native.moe_e{experts}k{k}_{short}{tail}",
                    )
                )
    return found


if __name__ == "__main__":
    main("Mixture of experts", cases)
