"""Maximum-a-posteriori fits under the sparse axis-aligned subspace prior, one a global shrinkage tau.

Kernel: s k(r), r^2 = sum_j (x_j - x'_j)^2 / l_j^2, Matern 5/2; noise n; constant mean m. Per member, with its
own tau drawn from HalfCauchy(0.1), the value maximised is

    log N(y | m, s K + n I) + sum_j log HalfCauchy(tau / l_j^2 | 1) + log Normal(m | 0, 1)
        + log Gamma(n | 0.9, 10)

over log l_j, log s, log n and m, from l_j = 1. The prior and the start are those of botorch's ensemble; the
gradient is written out, which is several times as quick for the few points of a search.

Source: Eriksson and Jankowiak, UAI 2021 (the prior); the ensemble over tau as botorch has it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky
from scipy.optimize import minimize

Array = NDArray[np.float64]
LENGTHSCALE = (1e-2, 1e4)
OUTPUTSCALE = (1e-2, 1e4)
NOISE = (1e-4, 1.0)
MEAN = (-10.0, 10.0)
_SHRINKAGE = 0.1  # scale of tau's half-Cauchy
_MOST_STEPS = 100
_ROOT5 = 5.0**0.5


@dataclass(frozen=True)
class Member:
    """Hyperparameters of one fit: lengthscale [d], the others scalars; value: what was maximised."""

    tau: float
    lengthscale: Array
    outputscale: float
    noise: float
    mean: float
    value: float


def fit_members(X: Array, y: Array, n: int, generator: np.random.Generator) -> list[Member]:
    """n fits to X [m, d] in the unit cube and standardised y [m]."""
    first, second = np.triu_indices(len(X), 1)
    squares = np.square(X[first] - X[second])
    made = []
    for _ in range(n):
        tau = abs(_SHRINKAGE * float(generator.standard_cauchy()))
        made.append(_fit(squares, y, max(tau, 1e-6)))
    return made


def negative_log_posterior(theta: Array, squares: Array, y: Array, tau: float) -> tuple[float, Array]:
    """Minus the value above (without constants) and its gradient; theta: log l [d], log s, log n, m.

    squares [m (m - 1) / 2, d]: squared differences of the pairs of points above the diagonal.
    """
    d, m = squares.shape[1], len(y)
    inverse = np.exp(-2 * theta[:d])
    scale, noise, mean = np.exp(theta[d]), np.exp(theta[d + 1]), theta[d + 2]
    r = np.sqrt(squares @ inverse)
    decay = np.exp(-_ROOT5 * r)
    pairs = scale * (1 + _ROOT5 * r + (5 / 3) * r * r) * decay
    upper = np.triu_indices(m, 1)
    kernel = np.zeros((m, m))
    kernel[upper] = pairs
    kernel += kernel.T
    kernel[np.diag_indices(m)] = scale + noise + 1e-8
    try:
        factor = cholesky(kernel, lower=True, check_finite=False)
    except np.linalg.LinAlgError:
        return 1e10, np.zeros_like(theta)
    inverted = cho_solve((factor, True), np.eye(m), check_finite=False)
    rest = y - mean
    weights = inverted @ rest
    value = 0.5 * rest @ weights + np.log(np.diag(factor)).sum()
    # d value / d kernel, as one number a pair and a diagonal
    slope = inverted - np.outer(weights, weights)
    by_pair = slope[upper]
    gradient = np.empty_like(theta)
    fall = by_pair * scale * (-5 / 6) * (1 + _ROOT5 * r) * decay
    gradient[:d] = (fall @ squares) * (-2 * inverse)
    gradient[d] = by_pair @ pairs + 0.5 * scale * np.trace(slope)
    gradient[d + 1] = 0.5 * noise * np.trace(slope)
    gradient[d + 2] = -weights.sum()
    shrunk = tau * inverse
    value += np.log1p(shrunk**2).sum() + 0.5 * mean**2 + 0.1 * theta[d + 1] + 10 * noise
    gradient[:d] -= 4 * shrunk**2 / (1 + shrunk**2)
    gradient[d + 1] += 0.1 + 10 * noise
    gradient[d + 2] += mean
    return float(value), gradient


def _fit(squares: Array, y: Array, tau: float) -> Member:
    d = squares.shape[1]
    start = np.concatenate([np.zeros(d), np.log([10.0, 1e-2]), [0.0]])
    ranges = [LENGTHSCALE] * d + [OUTPUTSCALE, NOISE]
    found = minimize(
        negative_log_posterior,
        start,
        args=(squares, y, tau),
        jac=True,
        bounds=[*((np.log(low), np.log(high)) for low, high in ranges), MEAN],
        method="L-BFGS-B",
        options={"maxiter": _MOST_STEPS},
    )
    best = found.x
    scale, noise = np.exp(best[d : d + 2])
    return Member(tau, np.exp(best[:d]), float(scale), float(noise), float(best[d + 2]), -float(found.fun))
