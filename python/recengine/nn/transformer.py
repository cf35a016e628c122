"""Pre-norm Transformer blocks on packed rows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, Protocol

from torch import Tensor, nn
from torch.nn import functional

from recengine.nn.attention import BidirectionalSelfAttention, CausalSelfAttention
from recengine.nn.dropout import Dropout
from recengine.nn.linear import Linear
from recengine.nn.ragged import Layout


class Gelu(nn.Module):
    """x Phi(x), Phi the standard normal distribution function.

    On a CPU, of the transposed rows: torch hands contiguous ones to oneDNN, which compiles a kernel for every
    number of rows that it meets and keeps a thousand of them, and packed batches differ in that number from
    step to step (100 MB after fifty steps).
    approximate: 'none', or 'tanh' for 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))).
    """

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = approximate

    def forward(self, rows: Tensor) -> Tensor:
        """[T, d] -> [T, d]."""
        if rows.device.type != "cpu" or rows.ndim != 2:
            return functional.gelu(rows, approximate=self.approximate)
        return functional.gelu(rows.t(), approximate=self.approximate).t()


Activation = Literal["relu", "gelu", "gelu_tanh", "silu"]
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": Gelu,
    "gelu_tanh": partial(Gelu, "tanh"),
    "silu": nn.SiLU,
}


class Attention(Protocol):
    """What a block mixes the rows of a sequence with; also a ``torch.nn.Module``."""

    def __call__(self, rows: Tensor, place: Layout) -> Tensor:
        """rows [T, d] -> [T, d]."""
        ...

    def at(self, rows: Tensor, place: Layout, wanted: Tensor) -> Tensor:
        """The output [R, d] at some rows only; wanted int64 [R], ascending."""
        ...


class FeedForward(nn.Sequential):
    """W2 dropout(act(W1 x)), inner width ``inner``."""

    def __init__(self, dim: int, inner: int, dropout: float, activation: Activation) -> None:
        super().__init__(Linear(dim, inner), ACTIVATIONS[activation](), Dropout(dropout), Linear(inner, dim))


class Block(nn.Module):
    """x + dropout(attention(norm(x))), then x + dropout(feed-forward(norm(x))), then ``closing`` (identity).

    Pre-norm keeps the residual path free of normalisation (Xiong et al., 2020), so no warm-up is needed.
    """

    def __init__(
        self,
        attention: Any,
        dim: int,
        inner: int,
        dropout: float,
        activation: Activation,
        *,
        norm: Callable[[int], nn.Module] = nn.LayerNorm,
        closing: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.attention_norm = norm(dim)
        self.attention: Any = attention
        self.feed_forward_norm = norm(dim)
        self.feed_forward = FeedForward(dim, inner, dropout, activation)
        self.dropout = Dropout(dropout)
        self.closing = nn.Identity() if closing is None else closing

    def forward(self, rows: Tensor, place: Layout) -> Tensor:
        """rows [T, d] -> [T, d]."""
        return self._close(rows, self.attention(self.attention_norm(rows), place))

    def at(self, rows: Tensor, place: Layout, wanted: Tensor) -> Tensor:
        """The output [R, d] at some rows; nothing but their keys and values is computed for the others.
        wanted: int64 [R], ascending."""
        mixed = self.attention.at(self.attention_norm(rows), place, wanted)
        return self._close(rows.index_select(0, wanted), mixed)

    def step(self, rows: Tensor, state: Tensor, count: Tensor) -> Tensor:
        """The output [B, d] for one more event a sequence, which ``state`` takes in."""
        return self._close(rows, self.attention.step(self.attention_norm(rows), state, count))

    def read(self, rows: Tensor, place: Layout) -> tuple[Tensor, Tensor]:
        """The output [T, d] of whole sequences, and the attention's state behind each of them."""
        mixed, state = self.attention.read(self.attention_norm(rows), place)
        return self._close(rows, mixed), state

    def _close(self, rows: Tensor, mixed: Tensor) -> Tensor:
        rows = self.dropout.add(rows, mixed)
        out: Tensor = self.closing(self.dropout.add(rows, self.feed_forward(self.feed_forward_norm(rows))))
        return out


class CausalBlock(Block):
    """A block with softmax attention to the past."""

    def __init__(self, dim: int, heads: int, inner: int, dropout: float, activation: Activation) -> None:
        super().__init__(CausalSelfAttention(dim, heads), dim, inner, dropout, activation)


class BidirectionalBlock(Block):
    """A block with softmax attention to the whole sequence."""

    def __init__(self, dim: int, heads: int, inner: int, dropout: float, activation: Activation) -> None:
        super().__init__(BidirectionalSelfAttention(dim, heads), dim, inner, dropout, activation)
