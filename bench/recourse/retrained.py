"""The models that a recourse has to survive: retrained on other data, or perturbed within a loss bound."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from nets import Net, losses, train
from numpy.typing import NDArray

from recengine_plugins.ellice.logistic import fit_layer, logistic_problem

Array = NDArray[np.float64]
EXCESS = 0.02
"""Loss in excess of the base model's that AWP and dropout models may have."""


@dataclass(frozen=True)
class Draws:
    """What the retraining sees: weights and labels [M, n] of M models, and the random start of each."""

    weight: Array
    label: NDArray[np.int64]
    seeds: list[int]


def draws(kind: str, y: NDArray[np.int64], count: int, generator: np.random.Generator) -> Draws:
    """bootstrap; subsample: 80 % of the rows; noise: 5 % of the labels flipped; time: ``count`` windows of
    60 % of the rows in their order; seeds: the same data, another start."""
    n = len(y)
    weight, label = np.ones((count, n)), np.tile(y, (count, 1))
    for i in range(count):
        if kind == "bootstrap":
            weight[i] = np.bincount(generator.integers(n, size=n), minlength=n)
        elif kind == "subsample":
            weight[i, generator.permutation(n)[: n - int(0.8 * n)]] = 0.0
        elif kind == "noise":
            flipped = generator.permutation(n)[: max(1, int(0.05 * n))]
            label[i, flipped] = 1 - label[i, flipped]
        elif kind == "time":
            start = round(0.4 * n * i / max(count - 1, 1))
            weight[i] = 0.0
            weight[i, start : start + int(0.6 * n)] = 1.0
    return Draws(weight, label, [int(seed) for seed in generator.integers(2**31, size=count)])


def refit_linear(X: Array, d: Draws, start: Array, l2: float) -> Net:
    thetas = []
    for weight, label in zip(d.weight, d.label, strict=True):
        rows = np.repeat(np.arange(len(X)), weight.astype(np.int64))
        if np.unique(label[rows]).size < 2:
            continue
        problem = logistic_problem(X[rows], label[rows], l2=l2, penalise_bias=True)
        thetas.append(fit_layer(problem, start=start).theta)
    return Net.linear(np.stack(thetas))


def refit_nets(X: Array, d: Draws, *, hidden: int, l2: float, steps: int) -> Net:
    as_tensor = torch.from_numpy
    return _double(
        train(
            as_tensor(X).float(), as_tensor(2.0 * d.label - 1).float(), as_tensor(d.weight).float(), d.seeds,
            hidden=hidden, l2=l2, steps=steps,
        )
    )  # fmt: skip


def adversarial(
    base: Net, X: Array, y: NDArray[np.int64], count: int, generator: np.random.Generator, l2: float
) -> Net:
    """AWP: each model pushes the logit of one training row to the other side by descent with momentum
    until its loss exceeds the bound; the last admissible weights are kept."""
    rows, sign = torch.from_numpy(X), torch.from_numpy(2.0 * y - 1)[None]
    chosen = torch.from_numpy(generator.integers(len(X), size=count))
    bound = float(losses(base, rows, sign, torch.ones_like(sign), l2)[0]) + EXCESS
    now = Net.stack([base] * count)
    parts = [p.clone().requires_grad_(True) for p in (now.W1, now.b1, now.w2, now.b2) if p is not None]
    kept = [p.detach().clone() for p in parts]
    made = (lambda p: Net(*p)) if base.W1 is not None else (lambda p: Net(None, None, *p))
    speed = [torch.zeros_like(p) for p in parts]
    alive = torch.ones(count, dtype=torch.bool)
    for _ in range(120):
        own = made(parts).own(rows[chosen]) * sign[0, chosen]
        grads = torch.autograd.grad(own.sum(), parts)
        with torch.no_grad():
            for p, v, g in zip(parts, speed, grads, strict=True):
                v.mul_(0.9).add_(g, alpha=0.01)
                p.sub_(v)
            fine = losses(made(parts), rows, sign, torch.ones_like(sign), l2) <= bound
            alive &= fine
            for k, p in zip(kept, parts, strict=True):
                k[alive] = p.detach()[alive]
        if not alive.any():
            break
    return made(kept)


def noisy(
    base: Net, X: Array, y: NDArray[np.int64], count: int, generator: np.random.Generator, l2: float
) -> Net:
    """Gaussian dropout: every weight times 1 + s z, s the largest of a grid for which half the draws stay
    within the loss bound; ``count`` of those that do."""
    rows, sign = torch.from_numpy(X), torch.from_numpy(2.0 * y - 1)[None]
    bound = float(losses(base, rows, sign, torch.ones_like(sign), l2)[0]) + EXCESS
    parts = [p for p in (base.W1, base.b1, base.w2, base.b2) if p is not None]
    made = (lambda p: Net(*p)) if base.W1 is not None else (lambda p: Net(None, None, *p))
    found = base
    for s in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4):
        drawn = [
            p * (1 + s * torch.from_numpy(generator.normal(size=(2 * count, *p.shape[1:])))) for p in parts
        ]
        fine = losses(made(drawn), rows, sign, torch.ones_like(sign), l2) <= bound
        if int(fine.sum()) < count and s > 0.005:
            break
        found = made([p[fine][:count] for p in drawn]) if bool(fine.any()) else base
    return found


def _double(net: Net) -> Net:
    return Net(*(part.double() for part in (net.W1, net.b1, net.w2, net.b2)))
