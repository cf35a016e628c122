"""The last layer for several classes: regularised softmax regression on features h = [phi(x); 1].

L(theta) = (1/n) sum_i [log sum_c exp(theta_c.h_i) - theta_{y_i}.h_i] + (lambda/2) sum_c ||w_c||^2 + gauge.
Adding one vector to all theta_c changes no probability, so weights that carry no penalty have a direction
without curvature. The gauge 1/2 (sum_c theta_cj)^2 on those j takes it away: at the minimum it is 0, and the
set {L <= L* + eps} of score *differences* is the same as without it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recengine.errors import DataError
from recengine_plugins.ellice.logistic import checked_features

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SoftmaxProblem:
    """Rows H [n, m], labels [n] in 0..C-1, penalty [m], C classes. theta is flat: [C m], a class a block."""

    H: Array
    labels: NDArray[np.int64]
    penalty: Array
    classes: int

    @property
    def n(self) -> int:
        return len(self.labels)

    @property
    def size(self) -> int:
        return self.classes * self.H.shape[1]

    def _scores(self, theta: Array) -> Array:
        return np.asarray(self.H @ theta.reshape(self.classes, -1).T)

    def _gauge(self) -> Array:
        return (self.penalty == 0).astype(np.float64)

    def loss(self, theta: Array) -> float:
        scores = self._scores(theta)
        top = scores.max(axis=1)
        total = top + np.log(np.exp(scores - top[:, None]).sum(axis=1))
        W = theta.reshape(self.classes, -1)
        value = (total - scores[np.arange(self.n), self.labels]).mean()
        value += 0.5 * (self.penalty * W * W).sum() + 0.5 * (self._gauge() * W.sum(axis=0) ** 2).sum()
        return float(value)

    def gradient(self, theta: Array) -> Array:
        p = _softmax(self._scores(theta))
        p[np.arange(self.n), self.labels] -= 1.0
        W = theta.reshape(self.classes, -1)
        return np.asarray((p.T @ self.H / self.n + self.penalty * W + self._gauge() * W.sum(axis=0)).ravel())

    def hessian(self, theta: Array) -> Array:
        p = _softmax(self._scores(theta))
        C, m = self.classes, self.H.shape[1]
        made = np.empty((C, m, C, m))
        for k in range(C):
            for c in range(k + 1):
                weight = p[:, k] * ((k == c) - p[:, c])
                made[k, :, c] = made[c, :, k] = (self.H * weight[:, None]).T @ self.H / self.n
            made[k, np.arange(m), k, np.arange(m)] += self.penalty
        made[:, np.arange(m), :, np.arange(m)] += self._gauge()[:, None, None]
        return made.reshape(C * m, C * m)


def softmax_problem(
    features: ArrayLike, labels: ArrayLike, classes: int, *, l2: float = 1e-3, penalise_bias: bool = False
) -> SoftmaxProblem:
    """Check and assemble. Raises DataError as ``logistic_problem`` does, and for a class without rows."""
    X, y = checked_features(features, labels, l2)
    y = y.astype(np.int64)
    present = np.unique(y)
    if len(present) != classes or present[0] != 0 or present[-1] != classes - 1:
        raise DataError(
            "every class needs rows", where="labels", found=present.tolist(), expected=f"0 .. {classes - 1}"
        )
    penalty = np.full(X.shape[1] + 1, float(l2))
    if not penalise_bias:
        penalty[-1] = 0.0
    return SoftmaxProblem(np.c_[X, np.ones(len(X))], y, penalty, classes)


def _softmax(scores: Array) -> Array:
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(p / p.sum(axis=1, keepdims=True))
