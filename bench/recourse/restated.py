"""Wachter, DiCE, ROAR, T-Rex, nearest Delta-robust row (RNCE) and PROPLACE, re-stated from their papers.

Everything is batched: person i has x0[i], a box and a model of its own (``Net`` of N models). Each function
returns points [N, d], NaN where it found none. Gradient methods keep the nearest point (L1) met on the way
that satisfies the method's own test, which is kinder to them than stopping at the first or the last.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from nets import Net
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, linprog, milp
from torch import Tensor

softplus = torch.nn.functional.softplus


@dataclass(frozen=True)
class Crowd:
    """N people: x0, low, high [N, d]; model i is person i's."""

    x0: Tensor
    low: Tensor
    high: Tensor
    model: Net


def _descend(
    crowd: Crowd,
    start: Tensor,
    loss: Callable[[Tensor], Tensor],
    accepted: Callable[[Tensor], Tensor],
    steps: int,
    rate: float,
    best: Tensor,
    least: Tensor,
) -> None:
    """Adam on x within the box; the nearest accepted points so far are kept in best, least."""
    x = start.clone().requires_grad_(True)
    optimiser = torch.optim.Adam([x], lr=rate)
    for _ in range(steps):
        optimiser.zero_grad()
        loss(x).sum().backward()
        optimiser.step()
        with torch.no_grad():
            x.copy_(torch.minimum(torch.maximum(x, crowd.low), crowd.high))
            far = (x - crowd.x0).abs().sum(-1)
            better = accepted(x) & (far < least)
            best[better], least[better] = x.detach()[better], far[better]


def wachter(crowd: Crowd, probability: float, steps: int = 250) -> Tensor:
    """Wachter, Mittelstadt, Russell (2017): min log-loss of the wanted class + lambda |x - x0|_1, with lambda
    lowered until the model's probability is reached."""
    goal = float(np.log(probability / (1 - probability)))
    best, least = torch.full_like(crowd.x0, np.nan), crowd.x0.new_full((len(crowd.x0),), np.inf)
    for lam in (0.5, 0.1, 0.02, 0.002):
        _descend(
            crowd, crowd.x0,
            lambda x, lam=lam: softplus(-4 * (crowd.model.own(x) - goal)) / 4
            + lam * (x - crowd.x0).abs().sum(-1),
            lambda x: crowd.model.own(x) > goal, steps, 0.05, best, least,
        )  # fmt: skip
    return best


def dice(crowd: Crowd, margin: float, steps: int = 500, count: int = 4) -> Tensor:
    """Mothilal, Sharma, Tan (2020): ``count`` points a person, hinge loss + 0.5 mean distance - det of the
    similarity kernel; the nearest that reaches the margin is returned."""
    N, d = crowd.x0.shape
    generator = torch.Generator().manual_seed(0)
    spread = crowd.x0[:, None] + 0.3 * torch.randn(N, count, d, generator=generator, dtype=crowd.x0.dtype)
    low, high = crowd.low[:, None], crowd.high[:, None]
    x = torch.minimum(torch.maximum(spread, low), high).requires_grad_(True)
    optimiser = torch.optim.Adam([x], lr=0.05)
    best, least = torch.full_like(crowd.x0, np.nan), crowd.x0.new_full((N,), np.inf)
    for _ in range(steps):
        optimiser.zero_grad()
        score = crowd.model.own(x)
        far = (x - crowd.x0[:, None]).abs().sum(-1)
        apart = (x[:, :, None] - x[:, None]).abs().mean(-1)
        kernel = 1 / (1 + apart) + 1e-4 * torch.eye(count, dtype=x.dtype)
        loss = torch.relu(1 + margin - score).mean(1) + 0.5 * far.mean(1) / d - torch.linalg.det(kernel)
        loss.sum().backward()
        optimiser.step()
        with torch.no_grad():
            x.copy_(torch.minimum(torch.maximum(x, low), high))
            away = (x - crowd.x0[:, None]).abs().sum(-1)
            away[crowd.model.own(x) <= margin] = np.inf
            now, which = away.min(1)
            better = now < least
            best[better], least[better] = x.detach()[torch.arange(N), which][better], now[better]
    return best


def roar(crowd: Crowd, delta: float, steps: int = 300) -> Tensor:
    """Upadhyay, Joshi, Lakkaraju (2021): min over x of the worst log-loss over weights within delta (each) of
    a linear model + lambda |x - x0|_1. A net is replaced by its tangent at the person's Wachter point (the
    paper fits a local linear surrogate)."""
    w, b = _tangent(crowd)

    def worst(x: Tensor) -> Tensor:
        return (w * x).sum(-1) + b - delta * (x.abs().sum(-1) + 1)

    best, least = torch.full_like(crowd.x0, np.nan), crowd.x0.new_full((len(crowd.x0),), np.inf)
    for lam in (0.1, 0.02, 0.002):
        _descend(
            crowd, crowd.x0,
            lambda x, lam=lam: softplus(-4 * worst(x)) / 4 + lam * (x - crowd.x0).abs().sum(-1),
            lambda x: worst(x) > 0, steps, 0.05, best, least,
        )  # fmt: skip
    return best


def _tangent(crowd: Crowd) -> tuple[Tensor, Tensor]:
    if crowd.model.W1 is None:
        return crowd.model.w2, crowd.model.b2
    at = wachter(crowd, 0.5)
    at = torch.where(at.isfinite(), at, crowd.x0).requires_grad_(True)
    score = crowd.model.own(at)
    slope = torch.autograd.grad(score.sum(), at)[0]
    return slope, (score - (slope * at).sum(-1)).detach()


def stability(model: Net, x: Tensor, noise: Tensor) -> Tensor:
    """Hamman et al. (2023): mean_k [f(x_k) - |f(x) - f(x_k)|] over x_k = x + noise_k, f the probability."""
    near = torch.sigmoid(model.own(x[:, None] + noise))
    here = torch.sigmoid(model.own(x))[:, None]
    return (near - (here - near).abs()).mean(1)


def trex(crowd: Crowd, tau: float, steps: int = 150, samples: int = 40) -> Tensor:
    """T-Rex:I: from the Wachter point, gradient ascent on the stability until it reaches tau."""
    generator = torch.Generator().manual_seed(0)
    noise = 0.1 * torch.randn(samples, crowd.x0.shape[1], generator=generator, dtype=crowd.x0.dtype)
    start = wachter(crowd, 0.5)
    start = torch.where(start.isfinite(), start, crowd.x0)
    best, least = torch.full_like(crowd.x0, np.nan), crowd.x0.new_full((len(crowd.x0),), np.inf)
    _descend(
        crowd, start,
        lambda x: -torch.log(stability(crowd.model, x, noise).clamp_min(1e-6)),
        lambda x: stability(crowd.model, x, noise) >= tau, steps, 0.05, best, least,
    )  # fmt: skip
    return best


def trex_rows(model: Net, rows: Tensor, samples: int = 200) -> Tensor:
    """Stability of training rows [n] under one model, for T-Rex:NN (STCE)."""
    generator = torch.Generator().manual_seed(0)
    noise = 0.1 * torch.randn(samples, rows.shape[1], generator=generator, dtype=rows.dtype)
    here = torch.sigmoid(model.logits(rows))[0]
    total = torch.zeros(len(rows), dtype=rows.dtype)
    for one in noise:
        near = torch.sigmoid(model.logits(rows + one))[0]
        total += near - (here - near).abs()
    return total / samples


def lower_rows(model: Net, rows: Tensor, delta: float) -> Tensor:
    """Least logit of each row when every weight moves by at most delta."""
    return Net.stack([model] * len(rows)).own_lower(rows, delta)


def nearest(rows: Tensor, x0: Tensor) -> Tensor:
    """The nearest of ``rows`` (L2) for each person; NaN where there are none."""
    if len(rows) == 0:
        return torch.full_like(x0, np.nan)
    return rows[torch.cdist(x0, rows).argmin(1)]


def proplace(
    model: Net, x0: np.ndarray, robust: np.ndarray, delta: float, seconds: float = 1.0
) -> np.ndarray | None:
    """Jiang et al. (2023): the point nearest to x0 (L1) in the hull of x0 and its 10 nearest Delta-robust
    rows whose interval lower bound is not negative; a linear program, for a net mixed-integer (HiGHS)."""
    if len(robust) == 0:
        return None
    near = robust[np.argsort(np.linalg.norm(robust - x0, axis=1))[:10]]
    V = np.r_[x0[None], near].T  # [d, k]
    d, k = V.shape
    hidden = model.W1 is not None
    h = model.W1.shape[1] if hidden else 0
    # variables: share [k], move [d] >= |x - x0|, size [d] >= |x|, a [h], on [h]
    n = k + 2 * d + 2 * h
    cost = np.zeros(n)
    cost[k : k + d] = 1.0
    rows, lower, upper = [], [], []

    def add(entries: list[tuple[slice | np.ndarray | int, np.ndarray]], low: float, high: float) -> None:
        row = np.zeros(n)
        for at, values in entries:
            row[at] = values
        rows.append(row)
        lower.append(low)
        upper.append(high)

    share = slice(0, k)
    for j in range(d):
        for side in (1.0, -1.0):
            add([(share, side * V[j]), (k + j, -1.0)], -np.inf, side * x0[j])
            add([(share, side * V[j]), (k + d + j, -1.0)], -np.inf, 0.0)
    add([(share, np.ones(k))], 1.0, 1.0)
    size = slice(k + d, k + 2 * d)
    w2, b2 = model.w2[0].numpy(), float(model.b2[0])
    low_bound, high_bound, whole = np.zeros(n), np.r_[np.ones(k), np.full(n - k, np.inf)], np.zeros(n)
    if not hidden:
        add([(share, w2 @ V), (size, -delta * np.ones(d))], delta - b2, np.inf)
    else:
        W1, b1 = model.W1[0].numpy(), model.b1[0].numpy()
        reach = np.abs(V).max(axis=1)
        big = np.abs(W1) @ reach + np.abs(b1) + delta * (reach.sum() + 1) + 1
        push = w2 - delta
        for j in range(h):
            a, on = k + 2 * d + j, k + 2 * d + h + j
            if push[j] >= 0:  # a <= relu(z - wide): needs a switch
                add([(share, -(W1[j] @ V)), (size, delta * np.ones(d)), (a, 1.0), (on, big[j])], -np.inf,
                    big[j] + b1[j] - delta)  # fmt: skip
                add([(a, 1.0), (on, -big[j])], -np.inf, 0.0)
                whole[on], high_bound[on] = 1, 1.0
            else:  # a >= relu(z + wide)
                add([(share, -(W1[j] @ V)), (size, -delta * np.ones(d)), (a, 1.0)], b1[j] + delta, np.inf)
        add([(slice(k + 2 * d, k + 2 * d + h), push)], delta - b2, np.inf)
    matrix = sparse.csr_matrix(np.stack(rows))
    if hidden:
        found = milp(
            cost, constraints=LinearConstraint(matrix, lower, upper), integrality=whole,
            bounds=Bounds(low_bound, high_bound), options={"time_limit": seconds},
        )  # fmt: skip
    else:
        lower_, upper_ = np.array(lower), np.array(upper)
        less, more, same = (
            np.isfinite(upper_) & (lower_ != upper_),
            np.isfinite(lower_) & (lower_ != upper_),
            lower_ == upper_,
        )
        found = linprog(
            cost, A_ub=sparse.vstack([matrix[less], -matrix[more]]), b_ub=np.r_[upper_[less], -lower_[more]],
            A_eq=matrix[same], b_eq=lower_[same], bounds=np.c_[low_bound, high_bound], method="highs",
        )  # fmt: skip
    return None if found.x is None else V @ found.x[:k]
