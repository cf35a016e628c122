"""Linear models and nets with one hidden layer as arrays: logits, interval bounds, retraining in one batch.

A ``Net`` is a stack of M models: W1 [M, h, d], b1 [M, h], w2 [M, h], b2 [M]; linear: W1 None, w2 [M, d].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Net:
    W1: Tensor | None
    b1: Tensor | None
    w2: Tensor
    b2: Tensor

    @classmethod
    def linear(cls, theta: Array) -> Net:
        """theta [M, d + 1] or [d + 1], bias last."""
        t = torch.as_tensor(np.atleast_2d(theta))
        return cls(None, None, t[:, :-1], t[:, -1])

    def __getitem__(self, index: object) -> Net:
        hidden = self.W1 is not None
        return Net(
            self.W1[index] if hidden else None,
            self.b1[index] if hidden else None,
            self.w2[index],
            self.b2[index],
        )

    def __len__(self) -> int:
        return len(self.w2)

    @staticmethod
    def stack(parts: list[Net]) -> Net:
        hidden = parts[0].W1 is not None
        return Net(
            torch.cat([part.W1 for part in parts]) if hidden else None,
            torch.cat([part.b1 for part in parts]) if hidden else None,
            torch.cat([part.w2 for part in parts]),
            torch.cat([part.b2 for part in parts]),
        )

    def phi(self, X: Tensor) -> Tensor:
        """Activations [M, N, h] of rows X [N, d]."""
        if self.W1 is None:
            return X.expand(len(self), *X.shape)
        M, h, d = self.W1.shape
        z = (X @ self.W1.reshape(M * h, d).T).reshape(len(X), M, h).transpose(0, 1)
        return torch.relu(z + self.b1[:, None])

    def logits(self, X: Tensor) -> Tensor:
        """[M, N]: every model on every row."""
        return torch.einsum("mnh,mh->mn", self.phi(X), self.w2) + self.b2[:, None]

    def own(self, x: Tensor) -> Tensor:
        """Model i on x[i]; x [M, ..., d] -> [M, ...]."""
        one = x.reshape(len(self), -1, x.shape[-1])
        if self.W1 is not None:
            one = torch.relu(torch.einsum("mhd,mkd->mkh", self.W1, one) + self.b1[:, None])
        out = torch.einsum("mkh,mh->mk", one, self.w2) + self.b2[:, None]
        return out.reshape(x.shape[:-1])

    def own_lower(self, x: Tensor, delta: float) -> Tensor:
        """Least logit of model i on x[i] [M, d] when every weight and bias moves by at most delta "
        "(intervals)."""
        one = x.unsqueeze(1)
        if self.W1 is None:
            return self.own(x) - delta * (x.abs().sum(-1) + 1)
        z = torch.einsum("mhd,mkd->mkh", self.W1, one)[:, 0] + self.b1
        wide = delta * (x.abs().sum(-1, keepdim=True) + 1)
        least, most = torch.relu(z - wide), torch.relu(z + wide)
        w = self.w2 - delta
        return torch.where(w >= 0, w * least, w * most).sum(-1) + self.b2 - delta


def losses(net: Net, X: Tensor, sign: Tensor, weight: Tensor, l2: float) -> Tensor:
    """[M]: weighted mean log-loss and (l2/2)|all parameters|^2; sign, weight [M, n] or [1, n]."""
    fit = torch.nn.functional.softplus(-sign * net.logits(X))
    value = (fit * weight).sum(1) / weight.sum(1)
    size = net.w2.square().sum(1) + net.b2.square()
    if net.W1 is not None:
        size = size + net.W1.square().sum((1, 2)) + net.b1.square().sum(1)
    return value + 0.5 * l2 * size


def train(
    X: Tensor, sign: Tensor, weight: Tensor, seeds: list[int], *, hidden: int, l2: float, steps: int
) -> Net:
    """M nets at once, one for each row of sign and weight [M, n], by Adam on the whole batch (rate 0.02, at
    last 0.002); the random start of model i is that of seeds[i]."""
    M, d = len(seeds), X.shape[1]
    W1, w2 = torch.empty(M, hidden, d, dtype=X.dtype), torch.empty(M, hidden, dtype=X.dtype)
    for i, seed in enumerate(seeds):
        generator = torch.Generator().manual_seed(seed)
        W1[i] = torch.randn(hidden, d, generator=generator) * (2 / d) ** 0.5
        w2[i] = torch.randn(hidden, generator=generator) * (1 / hidden) ** 0.5
    parts = [W1, torch.zeros(M, hidden, dtype=X.dtype), w2, torch.zeros(M, dtype=X.dtype)]
    for part in parts:
        part.requires_grad_(True)
    optimiser = torch.optim.Adam(parts, lr=0.02)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 0.02 if step < 0.7 * steps else 0.002
        optimiser.zero_grad()
        losses(Net(*parts), X, sign, weight, l2).sum().backward()
        optimiser.step()
    return Net(*(part.detach() for part in parts))
