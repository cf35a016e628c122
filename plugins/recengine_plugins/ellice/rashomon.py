"""The set of near-optimal models, as an ellipsoid and as it truly is.

E(eps) = {theta : (theta - t)' H (theta - t) <= 2 eps} around the minimum t with Hessian H;
worst logit of a point over E: g(h) = t.h - sqrt(2 eps h' H^-1 h), attained at
t - sqrt(2 eps) H^-1 h / sqrt(h' H^-1 h). g is also the lower confidence bound of a Bayesian linear model
(2 eps = beta/n), so ``quadratic_form`` serves LinUCB exploration as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.linalg import cho_factor, cho_solve, solve_triangular

from recengine.errors import DataError, UsageError
from recengine_plugins.ellice.cone import Cone
from recengine_plugins.ellice.kernel import quadratic_form, upper_confidence_bound
from recengine_plugins.ellice.logistic import FittedLayer

Array = NDArray[np.float64]
__all__ = [
    "Ellipsoid",
    "TrueWorst",
    "eps_from_level",
    "eps_from_loss",
    "quadratic_form",
    "true_worst",
    "upper_confidence_bound",
]


@dataclass(frozen=True)
class Ellipsoid(Cone):
    """theta [m] (bias last), the inverse P of H [m, m], eps, and H."""

    H: Array

    @classmethod
    def of(cls, layer: FittedLayer, eps: float) -> Ellipsoid:
        return cls.around(layer.theta, layer.hessian, eps)

    @classmethod
    def around(cls, theta: Array, H: Array, eps: float) -> Ellipsoid:
        if not eps >= 0 or not np.isfinite(eps):
            raise UsageError("eps must be a number that is not negative", where="eps", found=eps)
        try:
            P = cho_solve(cho_factor(H, lower=True), np.eye(len(theta)))
        except np.linalg.LinAlgError as singular:
            raise DataError("the Hessian is not positive definite", where="H", fix="set l2 > 0") from singular
        return cls(theta, (P + P.T) / 2, float(eps), H)

    @property
    def root(self) -> Array:
        return np.asarray(solve_triangular(self.factor, np.eye(len(self.theta)), lower=True))

    @property
    def factor(self) -> Array:
        """L with L L' = H."""
        return np.asarray(np.linalg.cholesky(self.H))

    def largest_eps(self) -> float:
        """eps*: robust recourse exists for somebody (without a box) exactly when eps < eps*.

        eps* = t'Ht/2 when (H t)_bias > 0, else w' (P_xx)^-1 w / 2. 2 n eps* is a Wald statistic.
        """
        Ht = self.H @ self.theta
        if Ht[-1] > 0:
            return 0.5 * float(self.theta @ Ht)
        w = self.theta[:-1]
        return 0.5 * float(w @ np.linalg.solve(self.P[:-1, :-1], w))

    def sample(self, n: int, generator: np.random.Generator) -> Array:
        """n models drawn uniformly from the ellipsoid: [n, m]."""
        m = len(self.theta)
        direction = generator.normal(size=(n, m))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        radius = np.sqrt(2 * self.eps) * generator.random((n, 1)) ** (1 / m)
        L = np.linalg.cholesky(self.H)
        return np.asarray(self.theta + solve_triangular(L, (radius * direction).T, lower=True, trans=1).T)


def eps_from_loss(layer: FittedLayer, percent: float) -> float:
    """eps as ``percent`` of the training loss. Not a safe default: it may exceed eps*."""
    if not percent > 0:
        raise UsageError("the percentage must be positive", where="percent", found=percent)
    return layer.loss * percent / 100


def eps_from_level(layer: FittedLayer, level: float = 0.95, *, joint: bool = True) -> float:
    """eps = chi2_{df, level}/(2 n): the likelihood-ratio region of the model (joint, df = m) or of one
    person's logit (df = 1)."""
    if not 0 < level < 1:
        raise UsageError("the level must lie strictly between 0 and 1", where="level", found=level)
    df = len(layer.theta) if joint else 1
    return float(stats.chi2.ppf(level, df)) / (2 * layer.problem.n)


@dataclass(frozen=True)
class TrueWorst:
    """value: a logit that a near-optimal model reaches; bound: no near-optimal model goes below it."""

    value: float
    bound: float
    theta: Array


def true_worst(layer: FittedLayer, eps: float, h: Array, *, tolerance: float = 1e-9) -> TrueWorst:
    """min theta.h over the true set {L(theta) <= L* + eps}, by its one-dimensional dual.

    For t > 0 the minimiser of theta.h + (L(theta) - L* - eps)/t is one Newton problem, and its value bounds
    the minimum from below; at the right t the constraint is tight and the bound exact. The search in log t
    takes the excess loss to grow like a power of t (t^2 for a quadratic loss), inside a bracket.
    """
    problem = layer.problem
    spread = float(np.sqrt(max(h @ np.linalg.solve(layer.hessian, h), 1e-300)))
    at = float(np.log(np.sqrt(2 * eps) / spread))  # exact for a quadratic loss
    low, high = -np.inf, np.inf
    before: tuple[float, float] | None = None
    aim = eps * (1 - 1e-9)  # just inside, so that the model found belongs to the set
    theta, best = layer.theta, TrueWorst(np.inf, -np.inf, layer.theta)
    for _ in range(120):
        t = float(np.exp(at))
        found = _tilted(layer, h, t, theta, layer.loss + 4 * eps + 1.0)
        if found is None:  # far outside the set: neither a model of it nor a bound
            high = at
            at = at - 1.0 if np.isinf(low) else (low + high) / 2
            continue
        theta = found
        excess = problem.loss(theta) - layer.loss
        value = float(theta @ h)
        best = TrueWorst(best.value, max(best.bound, value + (excess - eps) / t), best.theta)
        if excess <= eps and value < best.value:
            best = TrueWorst(value, best.bound, theta)
        if best.value < np.inf and best.value - best.bound <= tolerance * max(1.0, abs(best.value)):
            break
        low, high = (at, high) if excess <= eps else (low, at)
        if high - low < 1e-14:
            break
        grown = float(np.log(max(excess, 1e-300)))
        power = 2.0 if before is None or at == before[0] else (grown - before[1]) / (at - before[0])
        before = at, grown
        guess = at + (float(np.log(aim)) - grown) / (power if 0.2 < power < 5 else 2.0)
        middle = (low + high) / 2
        at = guess if low < guess < high else middle if np.isfinite(middle) else guess
    return best


def _tilted(layer: FittedLayer, h: Array, t: float, start: Array, most: float) -> Array | None:
    """argmin over theta of L(theta) + t theta.h by damped Newton; None when the loss passes ``most``."""
    problem, theta = layer.problem, start

    def value(at: Array) -> float:
        return problem.loss(at) + t * float(at @ h)

    now = value(theta)
    for _ in range(60):
        gradient = problem.gradient(theta) + t * h
        step = np.linalg.solve(problem.hessian(theta), gradient)
        decrement = float(gradient @ step)
        size = 1.0
        if decrement > 1e-12:
            while (moved := value(theta - size * step)) > now - 1e-4 * size * decrement and size > 1e-10:
                size /= 2
            now = moved
        theta = theta - size * step
        if decrement < 1e-20:
            return theta
        if problem.loss(theta) > most:
            return None
    return theta if decrement < 1e-14 else None
