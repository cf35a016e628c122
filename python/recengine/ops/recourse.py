"""Projections behind recourse: nearest points of a quadric and of a second-order cone, many people at once.

float64 throughout; a person's result has the same bits whatever the batch and the number of threads. Kernels
run on the CPU (csrc/recourse); elsewhere, and where the native library is not loaded, the references below
run. Nothing here has a gradient.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from recengine.ops._library import has_cpu_kernel, native

SOLVED, INFEASIBLE, UNDECIDED = 0, 1, 2
_EDGE = 1e-13
_HALVINGS = 100


def quadric_nearest(z0: Tensor, mu: Tensor, m: Tensor, m0: Tensor, slope: Tensor, level: Tensor) -> Tensor:
    """For each row the z [n, k] nearest to z0 [n, k] with q(z) = 0 and slope.z + level > 0; NaN if none.

    q(z) = sum_i mu_i z_i^2 + 2 m.z + m0, mu [k] ascending with at most one positive entry; m [n, k],
    m0, level [n], or one row of the three for everybody; slope [k]. Along the path
    z_i(nu) = (z0_i + 2 nu m_i)/(1 - 2 nu mu_i), nu >= 0, the root of q is sought before and beyond the pole
    1/(2 max mu) and the nearer of the two taken.
    """
    if not has_cpu_kernel(z0):
        return quadric_nearest_reference(z0, mu, m, m0, slope, level)
    z: Tensor = torch.ops.recengine.quadric_nearest(
        z0.contiguous(), mu, m.contiguous(), m0.contiguous(), slope, level.contiguous()
    )
    return z


def quadric_nearest_reference(
    z0: Tensor, mu: Tensor, m: Tensor, m0: Tensor, slope: Tensor, level: Tensor
) -> Tensor:
    """The same by bisection."""
    top = float(mu[-1])
    pole = 1 / (2 * top) if top > 0 else 1.0
    best, distance = torch.full_like(z0, math.nan), z0.new_full((len(z0),), math.inf)

    def at(nu: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z = (z0 + 2 * nu[:, None] * m) / (1 - 2 * nu[:, None] * mu)
        return z, ((z * mu + 2 * m) * z).sum(1) + m0, z @ slope + level

    def before(t: Tensor) -> Tensor:
        return pole * t if top > 0 else t / (1 - t)

    def beyond(t: Tensor) -> Tensor:
        return pole / t

    for nu_of in (before, beyond) if top > 0 else (before,):
        low, high = z0.new_full((len(z0),), _EDGE), z0.new_full((len(z0),), 1 - _EDGE)
        sign = torch.sign(at(nu_of(low))[1])
        bracketed = sign != torch.sign(at(nu_of(high))[1])
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            same = torch.sign(at(nu_of(middle))[1]) == sign
            low, high = torch.where(same, middle, low), torch.where(same, high, middle)
        z, _, side = at(nu_of((low + high) / 2))
        away = (z - z0).square().sum(1)
        better = bracketed & (side > 0) & (away < distance)
        best[better], distance[better] = z[better], away[better]
    return best


class Cone(NamedTuple):
    """What all share: theta.[x; 1] - radius sqrt([x; 1]' P [x; 1]) >= tau, cost sum_j w_j (x_j - p_j)^2.

    theta: [d + 1]; P: [d + 1, d + 1], positive definite; weights: [d] > 0.
    """

    theta: Tensor
    P: Tensor
    radius: float
    weights: Tensor
    tau: float = 0.0


class ConeNearest(NamedTuple):
    """x [n, d]; bound [n] <= the optimal cost; status [n]: SOLVED, INFEASIBLE (proved) or UNDECIDED.
    Rows that are not solved hold NaN."""

    x: Tensor
    bound: Tensor
    status: Tensor


def cone_nearest(
    cone: Cone, points: Tensor, start: Tensor, low: Tensor, high: Tensor, *, iterations: int = 80
) -> ConeNearest:
    """Nearest points of a second-order cone within bounds, with a certificate.

    min sum_j w_j (x_j - points_j)^2  s.t.  theta.h - radius sqrt(h' P h) >= tau, low <= x <= high,
    with h = [x; 1].

    points, low, high: [n, d] (bounds may be infinite). start: [n, d], the answer without bounds on the
    coordinates (inside or outside of them), NaN where it is not known.

    Newton on the optimality conditions in the free coordinates and the multiplier, matrices factored in
    float under residuals in double; coordinates that leave their bounds are held there, held ones with a
    multiplier of the wrong sign are let go. Whoever has not settled by then is done again in double, at last
    with the multiplier bracketed around a projected Newton method. ``bound`` is the dual value of the worst
    model at x, so that cost - bound certifies x; a person is INFEASIBLE when one model of
    {theta + radius P^1/2 u, |u| <= 1} rejects every point within the bounds.

    Raises RuntimeError when sizes or kinds do not fit, a weight is not positive or low > high.
    """
    if not has_cpu_kernel(points):
        return cone_nearest_reference(cone, points, start, low, high, iterations=iterations)
    x, bound, status = torch.ops.recengine.cone_nearest(
        points.contiguous(), start.contiguous(), cone.theta, cone.P.contiguous(), cone.radius, cone.weights,
        low.contiguous(), high.contiguous(), cone.tau, iterations,
    )  # fmt: skip
    return ConeNearest(x, bound, status)


def cone_nearest_reference(
    cone: Cone, points: Tensor, start: Tensor, low: Tensor, high: Tensor, *, iterations: int = 80
) -> ConeNearest:
    """The same person by person, without the second attempt that the kernel makes."""
    x, bound = torch.full_like(points, math.nan), points.new_full((len(points),), math.nan)
    status = torch.full((len(points),), UNDECIDED, device=points.device)
    for i in range(len(points)):
        person = _Person(cone, points[i], low[i], high[i])
        status[i] = person.solve(start[i], iterations)
        if status[i] == SOLVED:
            x[i], bound[i] = person.x, person.bound()
    return ConeNearest(x, bound, status)


class _Person:
    def __init__(self, cone: Cone, x0: Tensor, low: Tensor, high: Tensor) -> None:
        self.theta, self.P, self.radius, self.weights, self.tau = cone
        self.x0, self.low, self.high = x0, low, high
        self.multiplier = 0.0
        self._move_to(torch.clamp(x0, low, high))

    def _move_to(self, x: Tensor) -> None:
        self.x = x
        h = torch.cat([x, x.new_ones(1)])
        self.Ph = self.P @ h
        self.spread = float((h @ self.Ph).sqrt())
        self.model = self.theta - self.radius / self.spread * self.Ph
        self.worst = float(self.theta @ h) - self.radius * self.spread

    def solve(self, start: Tensor, iterations: int) -> int:
        if self.worst >= self.tau:
            return SOLVED
        if self._rejected_everywhere():
            return INFEASIBLE
        if not bool(start.isfinite().all()):
            return UNDECIDED
        self._move_to(start)
        movable = self.low < self.high
        slope = self.model[:-1]
        pull = 2 * self.weights * (start - self.x0)
        self.multiplier = max(float((pull * slope)[movable].sum() / slope[movable].square().sum()), 0.0)
        held = ~movable | (start < self.low) | (start > self.high)
        self._move_to(torch.clamp(start, self.low, self.high))
        for _ in range(iterations):
            free = ~held
            if not bool(free.any()):
                return UNDECIDED
            moved, step = self._newton(free)
            inside = torch.clamp(moved, self.low, self.high)
            outside = free & (inside != moved)
            held = held | outside
            self._move_to(inside)
            if self._rejected_everywhere():
                return INFEASIBLE
            if bool(outside.any()) or step > 1e-3:
                continue
            gradient = 2 * self.weights * (self.x - self.x0) - self.multiplier * self.model[:-1]
            wrong = torch.where(self.x <= self.low, gradient < -1e-9, gradient > 1e-9) & held & movable
            held = held & ~wrong
            if step < 1e-11 and not bool(wrong.any()):
                return self._move_inside(~held)
        return UNDECIDED

    def _newton(self, free: Tensor) -> tuple[Tensor, float]:
        q = self.Ph[:-1][free] / self.spread
        curve = self.multiplier * self.radius / self.spread
        A = curve * (self.P[:-1, :-1][free][:, free] - torch.outer(q, q)) + torch.diag(2 * self.weights[free])
        slope = self.model[:-1][free]
        pull = 2 * self.weights[free] * (self.x - self.x0)[free]
        u, v = torch.linalg.solve(A, torch.stack([slope, -pull], 1)).unbind(1)
        after = max(float((self.tau - self.worst - slope @ v) / (slope @ u)), 0.0)
        delta = torch.zeros_like(self.x)
        delta[free] = after * u + v
        step = float(delta.abs().max() / (1 + self.x.abs().max()))
        step = max(step, 1e-2 * abs(after - self.multiplier) / (1 + after))
        self.multiplier = after
        return self.x + delta, step

    def _rejected_everywhere(self) -> bool:
        slope = self.model[:-1]
        best = torch.where(slope == 0, 0.0, slope * torch.where(slope > 0, self.high, self.low))
        return float(best.sum() + self.model[-1]) < self.tau - 1e-12 * float(best.abs().sum())

    def _move_inside(self, free: Tensor) -> int:
        slack = 1e-14 * (abs(self.tau) + self.radius * self.spread)
        for attempt in range(30):
            if self.worst >= self.tau + slack:
                return SOLVED
            slope = torch.where(free, self.model[:-1], 0.0)
            size = (self.tau - self.worst + slack * (1 + 2.0**attempt)) / float(slope.square().sum())
            self._move_to(torch.clamp(self.x + size * slope, self.low, self.high))
        return UNDECIDED

    def bound(self) -> float:
        slope, lam = self.model[:-1], self.multiplier
        best = torch.clamp(self.x0 + lam * slope / (2 * self.weights), self.low, self.high)
        value = (self.weights * (best - self.x0).square() - lam * slope * best).sum()
        return max(float(value) - lam * (float(self.model[-1]) - self.tau), 0.0)


def _quadric_fake(z0: Tensor, mu: Tensor, m: Tensor, m0: Tensor, slope: Tensor, level: Tensor) -> Tensor:
    return torch.empty_like(z0)


def _cone_fake(points: Tensor, *given: object) -> tuple[Tensor, Tensor, Tensor]:
    n = len(points)
    return torch.empty_like(points), points.new_empty(n), points.new_empty(n, dtype=torch.int64)


if native().cpu:
    torch.library.register_fake("recengine::quadric_nearest", _quadric_fake)
    torch.library.register_fake("recengine::cone_nearest", _cone_fake)
