"""TokenMixer-Large in plain torch, on the weights of the engine's model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Experts = Callable[[Any, Tensor, Tensor, Tensor], Tensor]  # bank, x, chosen, gates


class Twin(torch.nn.Module):
    """Vectors of features [B, F, d] to logits [B]. experts: how the chosen ones are computed (``masked``,
    ``by_groups`` or ``by_loop``, or with the same arguments)."""

    def __init__(self, model: Any, experts: Experts | None = None) -> None:
        super().__init__()
        self.model, self.experts = model, experts or masked

    def forward(self, vectors: Tensor) -> Tensor:
        model = self.model
        x = model.tokens(vectors)
        kept = {0: x}
        for at, block in enumerate(model.blocks, start=1):
            x = self._block(block, x)
            if at in model.joints:
                x = x + kept[at - model.config.skip]
                x = 0.5 * x if model.config.skip_join == "mean" else x
            kept[at] = x
        made: Tensor = model.tower(rms(x, model.norm).mean(1)).squeeze(1)
        return made

    def _block(self, block: Any, x: Tensor) -> Tensor:
        mixed = mix(x, block.heads)
        mixed = mixed + self._fed(block.mixed, rms(mixed, block.mixed_norm))
        reverted = mix(mixed, block.tokens)
        return x + self._fed(block.reverted, rms(reverted, block.reverted_norm))

    def _fed(self, part: Any, x: Tensor) -> Tensor:
        if not hasattr(part, "router"):
            return swiglu(x, part.bank)
        logits = torch.einsum("btd,tde->bte", x, part.router)
        top, chosen = logits.topk(part.k)
        gates = part.alpha * top.softmax(-1)
        return self.experts(part.bank, x, chosen, gates) + swiglu(x, part.always)


def mix(x: Tensor, heads: int) -> Tensor:
    """View, transpose, copy."""
    b, t, d = x.shape
    return x.view(b, t, heads, d // heads).transpose(1, 2).reshape(b, heads, -1)


def rms(x: Tensor, scale: Tensor) -> Tensor:
    """RMSNorm."""
    return functional.rms_norm(x, (x.shape[-1],), scale, 1e-6)


def swiglu(x: Tensor, bank: Any) -> Tensor:
    """[B, T, D]: three batched products over the tokens."""
    y = x.transpose(0, 1)
    hidden = functional.silu(torch.bmm(y, bank.gate)) * torch.bmm(y, bank.up)
    return torch.bmm(hidden, bank.down).transpose(0, 1)


def masked(bank: Any, x: Tensor, chosen: Tensor, gates: Tensor) -> Tensor:
    """Every expert on every token, weighed: experts side by side make one batched product."""
    tokens, experts, width, inner = bank.gate.shape
    share = x.new_zeros(*x.shape[:2], experts).scatter(2, chosen, gates)
    y = x.transpose(0, 1)
    side = (tokens, width, experts * inner)
    hidden = functional.silu(torch.bmm(y, bank.gate.transpose(1, 2).reshape(side)))
    hidden = hidden * torch.bmm(y, bank.up.transpose(1, 2).reshape(side))
    hidden = hidden * share.transpose(0, 1).repeat_interleave(inner, 2)
    return torch.bmm(hidden, bank.down.reshape(tokens, -1, width)).transpose(0, 1)


def by_groups(bank: Any, x: Tensor, chosen: Tensor, gates: Tensor) -> Tensor:
    """Sorted by (token, expert), torch._grouped_mm, added back."""
    tokens, experts, width, _ = bank.gate.shape
    gate, up, down = (w.flatten(0, 1) for w in (bank.gate, bank.up, bank.down))
    place = torch.arange(tokens)[None, :, None] * experts + chosen
    order = place.flatten().argsort(stable=True)
    ends = torch.bincount(place.flatten(), minlength=gate.shape[0]).cumsum(0).to(torch.int32)
    token = order // chosen.shape[2]
    rows = x.reshape(-1, width)[token]
    hidden = functional.silu(torch._grouped_mm(rows, gate, offs=ends)) * torch._grouped_mm(
        rows, up, offs=ends
    )
    out = torch._grouped_mm(hidden, down, offs=ends) * gates.flatten()[order, None]
    return torch.zeros_like(x).reshape(-1, width).index_add(0, token, out).view_as(x)


def by_loop(bank: Any, x: Tensor, chosen: Tensor, gates: Tensor) -> Tensor:
    """Sorted by (token, expert), three products for each of them, added back."""
    tokens, experts, width, _ = bank.gate.shape
    banks = zip(*(w.flatten(0, 1).unbind(0) for w in (bank.gate, bank.up, bank.down)), strict=True)
    place = (torch.arange(tokens)[None, :, None] * experts + chosen).flatten()
    order = place.argsort(stable=True)
    counts = torch.bincount(place, minlength=tokens * experts).tolist()
    token = order // chosen.shape[2]
    parts = x.reshape(-1, width).index_select(0, token).split(counts)
    made = [
        (functional.silu(rows @ gate) * (rows @ up)) @ down
        for rows, (gate, up, down) in zip(parts, banks, strict=True)
    ]
    out = torch.cat(made) * gates.flatten().index_select(0, order)[:, None]
    return torch.zeros_like(x).reshape(-1, width).index_add(0, token, out).view_as(x)


def quiet_compile(module: torch.nn.Module) -> Any:
    """torch.compile for one shape."""
    return torch.compile(module, dynamic=False)
