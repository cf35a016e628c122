"""First weights."""

from __future__ import annotations

from torch import nn


def truncated_normal(module: nn.Module, std: float) -> None:
    """Linear and embedding weights from N(0, std^2) cut at two standard deviations, biases 0.

    Takes one module: ``network.apply(partial(truncated_normal, std=0.02))``; draws from torch's generator.
    """
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
