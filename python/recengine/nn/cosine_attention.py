"""Multi-head cosine linear attention over packed sequences, and one event at a time."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from recengine.errors import UsageError
from recengine.nn.linear import Linear, linear
from recengine.nn.ragged import Layout
from recengine.nn.threads import all_threads
from recengine.ops.attention import EPS, Activation, Scale, cosine_attention, cosine_attention_at

POWERS = ("length", "sequence", "key_prefix")


class CosineAttention(nn.Module):
    """O_i = c q_i . (sum_j k_j v_j^T), q and k of length 1 (after ``activation``), heads concatenated, then
    an output projection unless ``project_out`` is off. Scales c: recengine.ops.attention.

    ``m``: one learned number a head, 0.5 at first, for the scales n^-sigma(m); weight decay leaves it alone.
    Causal, it can also take one event at a time: ``step`` carries sum_j k_j v_j^T, d_h x d_h a head, which
    ``read`` makes of whole sequences.
    Sources: Mongaras et al., "Cottention" (2024); Cotten4Rec (arXiv 2602.06935); Liu et al., "LinRec" (2023).

    dim must be a multiple of heads (ValueError otherwise).
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        causal: bool = False,
        activation: Activation = "none",
        scale: Scale = "length",
        project_out: bool = True,
    ) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim {dim} is not a multiple of heads {heads}")
        self.heads, self.causal, self.activation, self.scale = heads, causal, activation, scale
        self.project_in = Linear(dim, 3 * dim)
        self.m = nn.Parameter(torch.full((heads,), 0.5)) if scale in POWERS else None
        self.project_out = Linear(dim, dim) if project_out else nn.Identity()
        if self.m is not None:
            self.m.decays = False  # type: ignore[attr-defined]

    def begin_even(self, length: float) -> None:
        """First biases of queries and keys: one vector in common, ``length`` in every component, so that all
        similarities are positive and attention begins as an average, as softmax attention does; without it it
        begins as a sum with random signs. Call it after the weights are drawn."""
        dim = self.project_in.in_features
        with torch.no_grad():
            self.project_in.bias[: 2 * dim] = length

    def forward(self, rows: Tensor, place: Layout) -> Tensor:
        """rows [T, d] -> [T, d]."""
        out: Tensor = self.project_out(self._mix(self.project_in(rows), place))
        return out

    def at(self, rows: Tensor, place: Layout, wanted: Tensor) -> Tensor:
        """The output [R, d] at some rows only; wanted int64 [R], ascending. Other rows ask nothing."""
        dim = rows.shape[1]
        weight, bias = self.project_in.weight, self.project_in.bias
        queries = linear(rows.index_select(0, wanted), weight[:dim], bias[:dim])
        keys = linear(rows, weight[dim:], bias[dim:])

        def attend(queries: Tensor, keys: Tensor, *m: Tensor) -> Tensor:
            return cosine_attention_at(
                queries,
                keys,
                wanted,
                cu_seqlens=place.offsets,
                m=m[0] if m else None,
                causal=self.causal,
                activation=self.activation,
                scale=self.scale,
            )

        size = dim // self.heads
        asking, asked = queries.view(-1, self.heads, size), keys.view(-1, 2, self.heads, size)
        mixed = all_threads(attend, asking, asked, *([] if self.m is None else [self.m]))
        out: Tensor = self.project_out(mixed.flatten(1))
        return out

    def empty_state(self, count: int) -> Tensor:
        """float [count, H, d_h, d_h], the sum of nobody's events."""
        if not self.causal or self.scale == "sequence":
            raise UsageError(
                "this attention cannot take one event at a time",
                found="bidirectional" if not self.causal else "scale 'sequence'",
                expected="causal, with a scale that later events do not change",
                fix="fit the model with direction = 'causal' and scale = 'length'",
            )
        size = self.project_in.in_features // self.heads
        return self.project_in.weight.new_zeros(count, self.heads, size, size)

    def step(self, rows: Tensor, state: Tensor, count: Tensor) -> Tensor:
        """The output [B, d] for one more event a sequence: rows [B, d], ``state`` [B, H, d_h, d_h] takes the
        event in, ``count`` int64 [B] counts it."""
        projected = self.project_in(rows).view(rows.shape[0], 3, self.heads, -1)
        query, key = self._directions(projected[:, :2]).unbind(1)
        value, scale = projected[:, 2], self._scale_at(count)
        if self.scale == "key_prefix":
            value = value * scale
        state.addcmul_(key[..., :, None], value[..., None, :])
        mixed = (query[..., None, :] @ state)[..., 0, :]
        if self.scale != "key_prefix":
            mixed = mixed * scale
        out: Tensor = self.project_out(mixed.flatten(1))
        return out

    def read(self, rows: Tensor, place: Layout) -> tuple[Tensor, Tensor]:
        """The output [T, d] of whole sequences, rows [T, d], and the state [B, H, d_h, d_h] behind each."""
        projected = self.project_in(rows)
        _, key, value = projected.view(rows.shape[0], 3, self.heads, -1).unbind(1)
        if self.scale == "key_prefix":
            value = value * self._scale_at(place.position + 1)
        grids = []
        for given in (self._directions(key), value):
            grid = given.new_zeros(place.sequences * place.length, *given.shape[1:])
            grid[place.cell] = given
            grids.append(grid.view(place.sequences, place.length, *given.shape[1:]).transpose(1, 2))
        state = grids[0].transpose(-1, -2) @ grids[1]
        out: Tensor = self.project_out(self._mix(projected, place))
        return out, state

    def _directions(self, values: Tensor) -> Tensor:
        """Queries or keys [..., d_h], activated and of length 1."""
        active = functional.elu(values) if self.activation == "elu" else values
        return functional.normalize(active, dim=-1, eps=EPS)

    def _scale_at(self, count: Tensor) -> Tensor:
        """c for the count-th event, [B, H, 1] or a number."""
        if self.m is None:
            size = self.project_in.in_features // self.heads
            return self.project_in.weight.new_tensor(size**-0.5 if self.scale == "sqrt_d" else 1.0)
        log = count.to(self.m.dtype).log()
        return torch.exp(-torch.sigmoid(self.m) * log[:, None])[..., None]

    def _mix(self, projected: Tensor, place: Layout) -> Tensor:
        def attend(qkv: Tensor, *m: Tensor) -> Tensor:
            return cosine_attention(
                qkv,
                cu_seqlens=place.offsets,
                m=m[0] if m else None,
                causal=self.causal,
                activation=self.activation,
                scale=self.scale,
            )

        qkv = projected.view(projected.shape[0], 3, self.heads, -1)
        return all_threads(attend, qkv, *([] if self.m is None else [self.m])).flatten(1)
