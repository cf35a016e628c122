"""Pre-norm Transformer blocks on packed rows."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from recengine.nn.attention import CausalSelfAttention
from recengine.nn.dropout import Dropout
from recengine.nn.ragged import Layout

Activation = Literal["relu", "gelu", "silu"]
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}


class FeedForward(nn.Sequential):
    """W2 dropout(act(W1 x)), inner width ``inner``."""

    def __init__(self, dim: int, inner: int, dropout: float, activation: Activation) -> None:
        super().__init__(
            nn.Linear(dim, inner), ACTIVATIONS[activation](), Dropout(dropout), nn.Linear(inner, dim)
        )


class CausalBlock(nn.Module):
    """x + dropout(attention(norm(x))), then x + dropout(feed-forward(norm(x))).

    Pre-norm keeps the residual path free of normalisation (Xiong et al., 2020), so no warm-up is needed.
    """

    def __init__(self, dim: int, heads: int, inner: int, dropout: float, activation: Activation) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = CausalSelfAttention(dim, heads)
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim, inner, dropout, activation)
        self.dropout = Dropout(dropout)

    def forward(self, rows: Tensor, place: Layout) -> Tensor:
        """rows [T, d] -> [T, d]."""
        rows = self.dropout.add(rows, self.attention(self.attention_norm(rows), place))
        return self.dropout.add(rows, self.feed_forward(self.feed_forward_norm(rows)))

    def last(self, rows: Tensor, place: Layout, ends: Tensor) -> Tensor:
        """The output [B, d] at the last position of each sequence; no other position is computed."""
        kept = self.dropout.add(rows[ends], self.attention.last(self.attention_norm(rows), place, ends))
        return self.dropout.add(kept, self.feed_forward(self.feed_forward_norm(kept)))
