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

from recengine.contracts.recourse import Classifier, Representation
from recengine.errors import UsageError
from recengine.recourse.representations import Layers
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
        heads = [contrasts @ np.atleast_2d(one.weights) for one in models]
        self._inner = _side_by_side([one.representation for one in models], heads)

    def scores(self, points: Array) -> Array:
        """Contrasts [K, N, J] of points [N, d]."""
        return np.asarray(self._inner(points))

    def worst(self, points: Array) -> Array:
        """The least lower bound [N] over the contrasts."""
        scores = self.scores(points)
        return np.asarray((scores.mean(axis=0) - self.deviations * scores.std(axis=0, ddof=1)).min(axis=1))

    def cones(self, at: Array, tau: float) -> tuple[RootedCone, ...]:
        """One cone a contrast, asked to be at least 0; from tangents at ``at`` [d] unless they are affine."""
        slope, level = self._inner.around(at)
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
    """Classifiers one by one: contrasts [K, N, J], and tangents [K, J, d], [K, J]. heads: [J, h + 1] each."""

    def __init__(self, parts: Sequence[Representation], heads: Sequence[Array]) -> None:
        self.parts, self.heads = parts, heads

    def __call__(self, points: Array) -> Array:
        both = zip(self.parts, self.heads, strict=True)
        return np.stack([part(points) @ head[:, :-1].T + head[:, -1] for part, head in both])

    def around(self, x: Array) -> tuple[Array, Array]:
        pieces = [part.around(x) for part in self.parts]
        both = list(zip(pieces, self.heads, strict=True))
        slopes = np.stack([head[:, :-1] @ piece.B for piece, head in both])
        return slopes, np.stack([head[:, :-1] @ piece.c + head[:, -1] for piece, head in both])


class _Stacked:
    """The same for nets of one shape, as batched matrices."""

    def __init__(self, nets: Sequence[Layers], heads: Sequence[Array]) -> None:
        depth = range(len(nets[0].layers))
        self.W = [np.stack([net.layers[i].W for net in nets]) for i in depth]
        self.b = [np.stack([net.layers[i].b for net in nets]) for i in depth]
        self.W.append(np.stack([head[:, :-1] for head in heads]))
        self.b.append(np.stack([head[:, -1] for head in heads]))
        self.slopes = [*(layer.slopes for layer in nets[0].layers), None]

    def __call__(self, points: Array) -> Array:
        x = np.broadcast_to(points, (len(self.W[0]), *points.shape))
        for W, b, slopes in zip(self.W, self.b, self.slopes, strict=True):
            x = x @ W.transpose(0, 2, 1) + b[:, None]
            if slopes is not None:
                x = np.where(x > 0, slopes[1] * x, slopes[0] * x)
        return x

    def around(self, x: Array) -> tuple[Array, Array]:
        K, d = len(self.W[0]), len(x)
        B, c = np.broadcast_to(np.eye(d), (K, d, d)), np.zeros((K, d))
        for W, b, slopes in zip(self.W, self.b, self.slopes, strict=True):
            B, c = W @ B, np.einsum("khi,ki->kh", W, c) + b
            if slopes is not None:
                slope = np.where(B @ x + c > 0, slopes[1], slopes[0])
                B, c = slope[..., None] * B, slope * c
        return B, c


def _side_by_side(parts: Sequence[Representation], heads: Sequence[Array]) -> _Each | _Stacked:
    nets = [part for part in parts if isinstance(part, Layers)]
    shapes = {tuple((layer.W.shape, layer.slopes, layer.smooth) for layer in net.layers) for net in nets}
    kinked = all(layer.smooth is None for net in nets for layer in net.layers)
    alike = len(nets) == len(parts) and len(shapes) == 1 and kinked
    return _Stacked(nets, heads) if alike else _Each(parts, heads)
