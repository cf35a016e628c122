"""The last layer: regularised logistic regression on features h = [phi(x); 1], fitted by Newton.

L(theta) = (1/n) sum_i log(1 + exp(-s_i theta . h_i)) + (lambda/2) ||R theta||^2, s = 2y - 1, where R leaves
the bias out unless asked. The ellipsoid of near-optimal models is built from exactly this loss at exactly
its minimum; a model that minimises another loss would make it off-centre.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recengine.errors import DataError, UsageError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LogisticProblem:
    """Rows H [n, m] (the last column is the bias's 1), signs s [n] in {-1, +1}, penalty [m]."""

    H: Array
    signs: Array
    penalty: Array

    @property
    def n(self) -> int:
        return len(self.signs)

    @property
    def size(self) -> int:
        return int(self.H.shape[1])

    def loss(self, theta: Array) -> float:
        margins = self.signs * (self.H @ theta)
        return float(np.logaddexp(0.0, -margins).mean() + 0.5 * (self.penalty * theta) @ theta)

    def gradient(self, theta: Array) -> Array:
        margins = self.signs * (self.H @ theta)
        weight = -self.signs * _sigmoid(-margins)
        return np.asarray(self.H.T @ weight / len(self.signs) + self.penalty * theta)

    def hessian(self, theta: Array) -> Array:
        p = _sigmoid(self.H @ theta)
        curved = (self.H * (p * (1 - p))[:, None]).T @ self.H / len(self.signs)
        return np.asarray(curved + np.diag(self.penalty))


class Problem(Protocol):
    """A smooth convex loss of a flat parameter vector."""

    @property
    def n(self) -> int: ...

    @property
    def size(self) -> int: ...

    def loss(self, theta: Array) -> float: ...

    def gradient(self, theta: Array) -> Array: ...

    def hessian(self, theta: Array) -> Array: ...


@dataclass(frozen=True)
class RowlessProblem:
    """Stands in where the training rows are not at hand: n rows, ``size`` parameters, no loss."""

    n: int
    size: int

    def loss(self, theta: Array) -> float:
        raise self._missing()

    def gradient(self, theta: Array) -> Array:
        raise self._missing()

    def hessian(self, theta: Array) -> Array:
        raise self._missing()

    def _missing(self) -> UsageError:
        return UsageError("the true loss needs the training rows", fix="give the training table too")


def checked_features(features: ArrayLike, labels: ArrayLike, l2: float) -> tuple[Array, NDArray[Any]]:
    """Features [n, d] and labels [n], or DataError: shapes, missing values, one class, singular by design."""
    X = np.asarray(features, dtype=np.float64)
    y = np.asarray(labels).ravel()
    if X.ndim != 2 or X.shape[0] != y.shape[0] or X.shape[0] == 0:
        raise DataError("features must be [n, d] with one label a row", found=f"{X.shape} and {y.shape}")
    bad = ~np.isfinite(X)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise DataError(
            f"{int(bad.sum())} feature values are missing or infinite",
            where=f"row {row}, column {column}",
            found=X[row, column],
            expected="finite numbers",
            fix="impute or drop them before fitting",
        )
    if np.unique(y).size < 2:
        raise DataError("only one class occurs: there is nothing to separate", where="labels", found=y[0])
    if l2 < 0:
        raise DataError("the penalty must not be negative", where="l2", found=l2)
    constant = np.ptp(X, axis=0) == 0
    if l2 == 0 and constant.any():
        raise DataError(
            "a constant column beside the bias makes the Hessian singular",
            where=f"column {int(np.argmax(constant))}",
            fix="drop the column, or set l2 > 0",
        )
    return X, y


def logistic_problem(
    features: ArrayLike, labels: ArrayLike, *, l2: float = 1e-3, penalise_bias: bool = False
) -> LogisticProblem:
    """Check and assemble. Raises DataError for one class, non-finite or constant columns without penalty."""
    X, y = checked_features(features, labels, l2)
    classes = np.unique(y)
    if not np.isin(classes, (0, 1)).all():
        raise DataError("labels must be 0 and 1", where="labels", found=classes[:5].tolist())
    penalty = np.full(X.shape[1] + 1, float(l2))
    if not penalise_bias:
        penalty[-1] = 0.0
    return LogisticProblem(np.c_[X, np.ones(len(X))], 2.0 * y - 1.0, penalty)


@dataclass(frozen=True)
class FittedLayer:
    """theta [m] (weights, then bias) minimises ``problem``; loss and Hessian there."""

    problem: Problem
    theta: Array
    loss: float
    hessian: Array


def fit_layer(problem: Problem, *, start: Array | None = None, iterations: int = 100) -> FittedLayer:
    """Damped Newton to the minimum. Raises DataError when there is none (separable data without penalty)."""
    theta = np.zeros(problem.size) if start is None else start.copy()
    value = problem.loss(theta)
    for _ in range(iterations):
        if value < 1e-10:  # separated, and flat from here on
            break
        gradient, hessian = problem.gradient(theta), problem.hessian(theta)
        try:
            step = np.linalg.solve(hessian, gradient)
        except np.linalg.LinAlgError as singular:
            if value < np.log(2) / problem.n:  # then every row is on its side: nothing holds theta back
                raise _no_minimum(0.0) from singular
            raise DataError(
                "the Hessian of the loss is singular",
                fix="drop columns that are combinations of others, or set l2 > 0",
            ) from singular
        decrement = float(gradient @ step)
        if decrement < 1e-12:  # full steps from here: the loss no longer resolves the gain
            theta = theta - step
            if decrement < 1e-26:
                break
            continue
        size = 1.0
        while (moved := problem.loss(theta - size * step)) > value - 1e-4 * size * decrement and size > 1e-12:
            size /= 2
        theta, value = theta - size * step, moved
    value = problem.loss(theta)
    hessian = problem.hessian(theta)
    least = float(np.linalg.eigvalsh(hessian)[0])
    if not least > 1e-12 or not np.isfinite(theta).all():
        raise _no_minimum(least)
    if problem.loss(2 * theta) < value * (1 - 1e-9):  # further out on the same ray is better still
        raise _no_minimum(least)
    return FittedLayer(problem, theta, value, hessian)


def _no_minimum(curvature: float) -> DataError:
    return DataError(
        "the loss has no minimum: the classes can be separated perfectly, or columns repeat each other",
        found=f"smallest curvature {curvature:.2g}",
        fix="set l2 > 0",
    )


def _sigmoid(z: Array) -> Array:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * z)))
