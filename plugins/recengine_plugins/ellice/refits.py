"""Whole refits beside the given model: what a frozen representation cannot see.

The ellipsoid moves the last layer only. A net that is trained again moves all layers, so some whole refits
(other rows, other random starts) are asked too: with score s_k of refit k,

    mean_k s_k(x) - z sd_k s_k(x) >= threshold,    sd with K - 1,

the lower confidence bound over retraining. Where every refit is affine, s_k = a_k.[x; 1], that is one more
second-order cone: theta = mean a_k, R = z (a_k - mean)/sqrt(K - 1). For nets it is taken from tangents at the
point at hand and checked by the refits themselves.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import qr

from recengine.contracts.recourse import Classifier
from recengine.errors import UsageError
from recengine.recourse.representations import Affine, Layers
from recengine_plugins.ellice.cone import RootedCone

Array = NDArray[np.float64]


class Refits:
    """K refitted classifiers, the contrasts [J, C] of their scores that count, and z."""

    def __init__(self, models: Sequence[Classifier], contrasts: Array, deviations: float) -> None:
        if len(models) < 2:
            raise UsageError("a spread needs at least two refits", where="refits", found=len(models))
        for k, one in enumerate(models):
            if one.weights is None or np.atleast_2d(one.weights).shape[0] != contrasts.shape[1]:
                raise UsageError(
                    "a refit must be a fitted classifier of the same classes", where=f"refit {k}"
                )
        self.size, self.deviations = len(models), deviations
        self.affine = all(one.representation.affine for one in models)
        weights = [contrasts @ np.atleast_2d(one.weights) for one in models]
        self._weights = np.stack([w[:, :-1] for w in weights]), np.stack([w[:, -1] for w in weights])
        stacked = _stacked([one.representation for one in models])
        self._inner = _Each([one.representation for one in models]) if stacked is None else stacked

    def scores(self, points: Array) -> Array:
        """Contrasts [K, N, J] of points [N, d]."""
        w, b = self._weights
        return np.asarray(self._inner(points) @ w.transpose(0, 2, 1) + b[:, None])

    def worst(self, points: Array) -> Array:
        """The least lower bound [N] over the contrasts."""
        scores = self.scores(points)
        return np.asarray((scores.mean(axis=0) - self.deviations * scores.std(axis=0, ddof=1)).min(axis=1))

    def cones(self, at: Array, tau: float) -> tuple[RootedCone, ...]:
        """One cone a contrast, asked to be at least 0; tangents at ``at`` [d] where the refits are not affine."""
        B, c = self._inner.around(at)
        w, b = self._weights
        slope, level = w @ B, np.einsum("kjh,kh->kj", w, c) + b
        made = []
        for j in range(slope.shape[1]):
            a = np.c_[slope[:, j], level[:, j]]
            theta = a.mean(axis=0)
            R = self.deviations / np.sqrt(self.size - 1) * (a - theta)
            if len(R) > R.shape[1]:
                R = qr(R, mode="r")[0][: R.shape[1]]
            theta[-1] -= tau
            made.append(RootedCone(theta, R.T @ R, 0.5, R))  # 2 eps = 1
        return tuple(made)


class _Each:
    """Representations one by one: [K, N, h], and tangents B [K, h, d], c [K, h]."""

    def __init__(self, parts: Sequence[object]) -> None:
        self.parts = parts

    def __call__(self, points: Array) -> Array:
        return np.stack([part(points) for part in self.parts])

    def around(self, x: Array) -> tuple[Array, Array]:
        pieces = [part.around(x) for part in self.parts]
        return np.stack([piece.B for piece in pieces]), np.stack([piece.c for piece in pieces])


class _Stacked:
    """Nets of one shape as batched matrices."""

    def __init__(self, nets: Sequence[Layers]) -> None:
        self.W = [np.stack([net.layers[i].W for net in nets]) for i in range(len(nets[0].layers))]
        self.b = [np.stack([net.layers[i].b for net in nets]) for i in range(len(nets[0].layers))]
        self.slopes = [layer.slopes for layer in nets[0].layers]

    def __call__(self, points: Array) -> Array:
        x = np.broadcast_to(points, (len(self.W[0]), *points.shape))
        for W, b, slopes in zip(self.W, self.b, self.slopes, strict=True):
            x = x @ W.transpose(0, 2, 1) + b[:, None]
            if slopes is not None:
                x = np.where(x > 0, slopes[1] * x, slopes[0] * x)
        return x

    def around(self, x: Array) -> tuple[Array, Array]:
        B, c = np.broadcast_to(np.eye(len(x)), (len(self.W[0]), len(x), len(x))), np.zeros((len(self.W[0]), len(x)))
        for W, b, slopes in zip(self.W, self.b, self.slopes, strict=True):
            B, c = W @ B, np.einsum("khi,ki->kh", W, c) + b
            if slopes is not None:
                slope = np.where(B @ x + c > 0, slopes[1], slopes[0])
                B, c = slope[..., None] * B, slope * c
        return B, c


def _stacked(parts):
    if not all(isinstance(part, Layers) for part in parts):
        return None
    first = [(layer.W.shape, layer.slopes, layer.smooth) for layer in parts[0].layers]
    same = all([(l.W.shape, l.slopes, l.smooth) for l in part.layers] == first for part in parts)
    if not same or any(smooth is not None for *_, smooth in first):
        return None
    return _Stacked(parts)
