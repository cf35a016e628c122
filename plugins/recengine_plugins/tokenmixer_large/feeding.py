"""The feed-forward part of a half block: a bank a row of tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from recengine.errors import ConfigError
from recengine.ops.moe import Experts, PackedWeights, Routing, grouped_swiglu, route
from recengine_plugins.tokenmixer_large.config import TokenMixerLargeConfig


def feed_forward(rows: int, width: int, config: TokenMixerLargeConfig) -> nn.Module:
    """For tokens [B, rows, width], as the settings say."""
    if config.experts > 1:
        return SparseSwiGLU(rows, width, config)
    return DENSE[config.ffn](rows, width, config)


class Bank(nn.Module):
    """Weights of SwiGLUs: gate and up [*rows, width, inner], down [*rows, inner, width], no bias.

    Xavier's uniform spread, the down projection times ``gain``.
    """

    def __init__(self, rows: tuple[int, ...], width: int, inner: int, gain: float) -> None:
        super().__init__()
        spread = (6 / (width + inner)) ** 0.5
        self.gate = nn.Parameter(torch.empty(*rows, width, inner).uniform_(-spread, spread))
        self.up = nn.Parameter(torch.empty(*rows, width, inner).uniform_(-spread, spread))
        self.down = nn.Parameter(torch.empty(*rows, inner, width).uniform_(-spread * gain, spread * gain))
        self.packed = PackedWeights()

    def experts(self) -> Experts:
        """As the operator takes them."""
        return Experts(self.gate, self.up, self.down)

    def train(self, mode: bool = True) -> Self:
        """What is packed ends with the mode: a fused optimiser changes weights, not their version."""
        if mode != self.training:
            self.packed = PackedWeights()
        return super().train(mode)

    def layout(self) -> PackedWeights | None:
        """The packed form, which a traced program cannot keep."""
        return None if torch.compiler.is_compiling() else self.packed


class DenseSwiGLU(nn.Module):
    """y_t = W_down_t (swish(W_gate_t x_t) * W_up_t x_t)."""

    def __init__(self, rows: int, width: int, config: TokenMixerLargeConfig) -> None:
        super().__init__()
        self.bank = Bank((rows,), width, config.expansion * width, config.down_gain)

    def forward(self, x: Tensor) -> Tensor:
        return grouped_swiglu(x, self.bank.experts(), packed=self.bank.layout())


class SharedSwiGLU(DenseSwiGLU):
    """y_t = W_down (swish(W_gate x_t) * W_up x_t): one bank for all tokens, which are rows of it."""

    def __init__(self, rows: int, width: int, config: TokenMixerLargeConfig) -> None:
        super().__init__(1, width, config)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.reshape(-1, 1, x.shape[2])).view_as(x)


class SparseSwiGLU(nn.Module):
    """y_t = alpha sum over the chosen of g_i Expert_ti(x_t) + Shared_t(x_t): the dense SwiGLU cut into E
    experts of inner width n D / E, k of them at work; g is the softmax over the chosen logits W_r,t x_t, or
    W_r x_t with one router for all tokens (``router = "shared"``; every token still chooses for itself).
    The shared one is among the E and the k, or comes on top of them (``shared_extra``)."""

    def __init__(self, rows: int, width: int, config: TokenMixerLargeConfig) -> None:
        super().__init__()
        inner, rest = divmod(config.expansion * width, config.experts)
        if rest:
            raise ConfigError(
                "the experts do not divide the inner width",
                where="model.experts",
                found=f"{config.experts} experts, {config.expansion} x {width} wide inside",
                expected="a divisor",
                fix="choose other heads (mixed tokens are T x hidden_dim / heads wide), or fewer experts",
            )
        routed = config.routed
        self.k, self.alpha = config.chosen, config.alpha
        self.bank = Bank((rows, routed), width, inner, config.down_gain)
        self.always = Bank((rows,), width, inner, config.down_gain) if config.shared_expert else None
        spread = (6 / (width + routed)) ** 0.5
        routers = 1 if config.router == "shared" else rows
        self.router = nn.Parameter(torch.empty(routers, width, routed).uniform_(-spread, spread))

    def choose(self, x: Tensor) -> Routing:
        """The experts of every row and token, and their gates."""
        return route(x, self.router.expand(x.shape[1], -1, -1), self.k)

    def forward(self, x: Tensor) -> Tensor:
        routing = self.choose(x)
        return grouped_swiglu(
            x,
            self.bank.experts(),
            routing,
            shared=None if self.always is None else self.always.experts(),
            alpha=self.alpha,
            packed=self.bank.layout(),
            shared_packed=None if self.always is None else self.always.layout(),
        )

    def load(self, x: Tensor) -> Tensor:
        """int64 [rows, routed]: rows of the batch that each expert gets."""
        return self.choose(x).load


class TokenFFN(nn.Module):
    """y_t = W2_t gelu(W1_t x_t): two matrices a token, with 3 / 2 of the inner width so that the weights are
    as many as a SwiGLU's."""

    def __init__(self, rows: int, width: int, config: TokenMixerLargeConfig) -> None:
        super().__init__()
        inner = 3 * config.expansion * width // 2
        spread = (6 / (width + inner)) ** 0.5
        gain = spread * config.down_gain
        self.up = nn.Parameter(torch.empty(rows, width, inner).uniform_(-spread, spread))
        self.down = nn.Parameter(torch.empty(rows, inner, width).uniform_(-gain, gain))

    def forward(self, x: Tensor) -> Tensor:
        hidden = functional.gelu(torch.bmm(x.transpose(0, 1), self.up))
        return torch.bmm(hidden, self.down).transpose(0, 1)


DENSE: dict[str, Callable[[int, int, TokenMixerLargeConfig], nn.Module]] = {
    "swiglu": DenseSwiGLU,
    "shared_swiglu": SharedSwiGLU,
    "ffn": TokenFFN,
}
