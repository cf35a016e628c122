"""Item recourse: what must change about an item for it to enter the top K of an audience.

A scorer with a linear last layer, s_u(x) = theta.phi(u, x), with phi(u, x) = B_u x + c_u affine in the item's
features. The item is among the first K of user u under a model when at most K - 1 others beat it there. The
K - 1 strongest competitors of the fitted model are let pass; the item has to beat every other one under every
near-optimal model, theta.D - sqrt(2 eps D' H^-1 D) >= margin with D = phi(u, x') - phi(u, x_j): the cone
of recourse on feature differences (a bias cancels). Competitors are taken as they are: "if the others do not
act".

H is the Hessian of the loss that the scorer minimises: pairwise logistic (``fit_pairwise``), or squared
(``fit_squared``), where the ellipsoid is the set of near-optimal models exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recengine.errors import DataError, UsageError
from recengine.recourse import Constraints
from recengine_plugins.ellice.cone import RootedCone, through
from recengine_plugins.ellice.config import ElliCEConfig
from recengine_plugins.ellice.discrete import solve_any
from recengine_plugins.ellice.logistic import FittedLayer, LogisticProblem, fit_layer
from recengine_plugins.ellice.problem import Convex
from recengine_plugins.ellice.region import EllipsoidRelaxation, costs_of, rows_of

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SquaredProblem:
    """(1/2n) ||X theta - y||^2 + (lambda/2) ||theta||^2: rows X [n, p], targets y [n]."""

    X: Array
    y: Array
    l2: float

    @property
    def n(self) -> int:
        return len(self.y)

    @property
    def size(self) -> int:
        return int(self.X.shape[1])

    def loss(self, theta: Array) -> float:
        return float(0.5 * np.square(self.X @ theta - self.y).mean() + 0.5 * self.l2 * theta @ theta)

    def gradient(self, theta: Array) -> Array:
        return np.asarray(self.X.T @ (self.X @ theta - self.y) / self.n + self.l2 * theta)

    def hessian(self, theta: Array) -> Array:
        return np.asarray(self.X.T @ self.X / self.n + self.l2 * np.eye(self.size))


def fit_squared(features: ArrayLike, targets: ArrayLike, *, l2: float = 1e-3) -> FittedLayer:
    """Ridge regression of targets [n] on pair features phi(u, i) [n, p]."""
    X, y = np.asarray(features, np.float64), np.asarray(targets, np.float64).ravel()
    _check(X, len(y), l2)
    return fit_layer(SquaredProblem(X, y, float(l2)))


def fit_pairwise(preferred: ArrayLike, other: ArrayLike, *, l2: float = 1e-3) -> FittedLayer:
    """Pairwise logistic (BPR): phi(u, i) [n, p] preferred to phi(u, j) [n, p]."""
    D = np.asarray(preferred, np.float64) - np.asarray(other, np.float64)
    _check(D, len(D), l2)
    return fit_layer(LogisticProblem(D, np.ones(len(D)), np.full(D.shape[1], float(l2))))


def _check(X: Array, n: int, l2: float) -> None:
    if X.ndim != 2 or len(X) != n or n == 0:
        raise DataError("expected one row of pair features each", found=str(X.shape))
    if not np.isfinite(X).all():
        row, column = np.argwhere(~np.isfinite(X))[0]
        raise DataError("a feature is missing or infinite", where=f"pair {row}, column {column}")
    if l2 < 0:
        raise DataError("the penalty must not be negative", where="l2", found=l2)


@dataclass(frozen=True)
class Audience:
    """Users as affine maps of item features: phi(u, x) = B[u] x + c[u]; B [U, p, d], c [U, p]."""

    B: Array
    c: Array

    @classmethod
    def bilinear(cls, users: Array, d: int) -> Audience:
        """phi(u, x) = [x, u (x) x] for user features [U, q]: a taste for each item feature, p = d (1 + q)."""
        U = len(users)
        B = np.concatenate([np.eye(d)[None].repeat(U, 0), np.einsum("uq,de->uqde", users, np.eye(d)).reshape(
            U, -1, d)], axis=1)  # fmt: skip
        return cls(B, np.zeros((U, B.shape[1])))

    def pairs(self, items: Array) -> Array:
        """phi of every user with every item [n, d]: [U, n, p]."""
        return np.asarray(np.einsum("upd,nd->unp", self.B, items) + self.c[:, None])


@dataclass(frozen=True)
class ItemAnswer:
    """point [d], or None; its cost and relative gap; reached [U]: users whose top K it enters under every
    near-optimal model (certificate recomputed); rank_before, rank_after [U] by the fitted model, from 1."""

    point: Array | None
    cost: float
    gap: float
    reached: NDArray[np.bool_]
    rank_before: NDArray[np.int64]
    rank_after: NDArray[np.int64]
    share: float
    rounds: int


def item_recourse(
    scorer: FittedLayer,
    audience: Audience,
    items: Array,
    item: int,
    constraints: Constraints | None = None,
    *,
    k: int = 10,
    share: float = 1.0,
    eps: float,
    config: ElliCEConfig | None = None,
) -> ItemAnswer:
    """The cheapest change of ``items[item]`` that takes it into the top ``k`` of a ``share`` of the users.

    items [n, d]: features of all items. With share < 1 the users who are nearest to it already are served
    first, and swaps against the next ones are tried: a good answer, not a proof over all subsets. Raises
    UsageError for a k, share or item out of range.
    """
    n, d = items.shape
    if not 0 <= item < n or not 1 <= k < n or not 0 < share <= 1:
        raise UsageError("item, k or share is out of range", found=f"item {item}, k {k}, share {share}")
    limits = constraints or Constraints.free([f"x{j}" for j in range(d)])
    asked = _Asked(scorer, audience, items, item, limits,
                   k, eps, config or ElliCEConfig())  # fmt: skip
    wanted = int(np.ceil(share * len(audience.B) - 1e-9))
    order = np.argsort(-asked.lead(items[item]), kind="stable")
    best = asked.solve(order[:wanted])
    for swap in range(min(3, len(order) - wanted)):
        users = np.r_[np.delete(order[:wanted], wanted - 1 - swap % wanted), order[wanted + swap]]
        other = asked.solve(users)
        if other[0] is not None and (best[0] is None or other[1] < best[1] * (1 - 1e-9)):
            best = other
    point, cost, gap, rounds = best
    before = asked.ranks(items[item])
    if point is None:
        return ItemAnswer(None, np.inf, np.nan, np.zeros(len(before), bool), before, before, 0.0, rounds)
    reached = asked.reached(point)
    return ItemAnswer(point, cost, gap, reached, before, asked.ranks(point), float(reached.mean()), rounds)


class _Asked:
    """One question: the item, the users' strongest competitors, and the cones found to matter."""

    def __init__(
        self,
        scorer: FittedLayer,
        audience: Audience,
        items: Array,
        item: int,
        limits: Constraints,
        k: int,
        eps: float,
        config: ElliCEConfig,
    ) -> None:
        self.scorer, self.audience, self.items, self.item = scorer, audience, items, item
        self.limits, self.k, self.eps, self.config = limits, k, eps, config
        self.factor = np.linalg.cholesky(scorer.hessian)
        others = np.delete(np.arange(len(items)), item)
        self.features = audience.pairs(items[others])  # [U, n - 1, p]
        scores = self.features @ scorer.theta
        order = np.argsort(-scores, axis=1, kind="stable")
        self.spared = order[:, : k - 1]  # they may stay ahead
        self.kth = order[:, k - 1]
        self.rivals = np.sort(order[:, k - 1 :], axis=1)

    def lead(self, x: Array) -> Array:
        """Fitted score of the item minus that of the K-th competitor, [U]."""
        own = (self.audience.B @ x + self.audience.c) @ self.scorer.theta
        users = np.arange(len(own))
        return np.asarray(own - self.features[users, self.kth] @ self.scorer.theta)

    def ranks(self, x: Array) -> NDArray[np.int64]:
        own = (self.audience.B @ x + self.audience.c) @ self.scorer.theta
        return np.asarray(1 + ((self.features @ self.scorer.theta) > own[:, None]).sum(axis=1), np.int64)

    def worst(self, x: Array) -> Array:
        """Worst lead over each rival over the ellipsoid: [U, rivals]."""
        own = self.audience.B @ x + self.audience.c
        users = np.arange(len(own))[:, None]
        D = own[:, None] - self.features[users, self.rivals]
        flat = D.reshape(-1, D.shape[-1])
        spread = np.square(np.linalg.solve(self.factor, flat.T)).sum(axis=0)
        return np.asarray((flat @ self.scorer.theta - np.sqrt(2 * self.eps * spread)).reshape(D.shape[:2]))

    def reached(self, x: Array) -> NDArray[np.bool_]:
        return np.asarray((self.worst(x) >= 0.5 * self.config.margin).all(axis=1))

    def cone(self, user: int, rival: int) -> RootedCone:
        T = np.c_[self.audience.B[user], self.audience.c[user] - self.features[user, rival]]
        return through(self.scorer.theta, self.factor, self.eps, T)

    def solve(self, users: NDArray[np.int64]) -> tuple[Array | None, float, float, int]:
        """Point, cost, gap, rounds: rivals become cones only when the answer does not beat them."""
        x0 = self.items[self.item][None]
        low, high = self.limits.bounds(x0)
        pairs = {(int(u), int(self.kth[u])) for u in users}
        for rounds in range(1, 40):
            cones = tuple(self.cone(u, rival) for u, rival in sorted(pairs))
            square, absolute = costs_of(self.limits, self.config.cost == "l1")
            A, b, E = rows_of(self.limits)
            problem = Convex(cones, np.full(len(cones), self.config.margin), square, absolute, A, b, E)
            relax = EllipsoidRelaxation(problem, x0, self.items.mean(axis=0), 1.0 / self.limits.cost)
            found = solve_any(relax, x0, self.limits, low, high, most_nodes=self.config.nodes)
            if not found.feasible[0]:
                return None, np.inf, np.nan, rounds
            x = found.points[0]
            worst = self.worst(x)[users]
            short = worst < 0.5 * self.config.margin
            fresh = {(int(u), int(self.rivals[u, int(np.argmin(row))])) for u, row, bad in
                     zip(users, worst, short.any(axis=1), strict=True) if bad} - pairs  # fmt: skip
            if not fresh:
                gap = float((found.cost[0] - found.bound[0]) / max(found.cost[0], 1e-12))
                return (
                    (None, np.inf, np.nan, rounds) if short.any() else (x, float(found.cost[0]), gap, rounds)
                )
            pairs |= fresh
        return None, np.inf, np.nan, rounds
