"""The recourse method: from a fitted last layer, people and constraints to certified answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recengine.contracts.recourse import RecourseAnswer
from recengine.errors import DataError, UsageError
from recengine.recourse import Constraints
from recengine_plugins.ellice import conic
from recengine_plugins.ellice.box import solve_box
from recengine_plugins.ellice.branch import solve_discrete
from recengine_plugins.ellice.config import ElliCEConfig
from recengine_plugins.ellice.logistic import FittedLayer, fit_layer, logistic_problem
from recengine_plugins.ellice.rashomon import Ellipsoid, eps_from_level, eps_from_loss
from recengine_plugins.ellice.sparse import solve_sparse
from recengine_plugins.ellice.trueset import solve_true_set

Array = NDArray[np.float64]

GUARANTEES = {
    "ellipsoid": "every model of the ellipsoid of excess loss eps accepts (certificate)",
    "exact": "every model whose loss is within eps of the minimum accepts (certificate)",
    "sampled": "every drawn model accepts (no certificate)",
}


@dataclass(frozen=True)
class Radius:
    """eps, the eps* beyond which nobody has robust recourse, and where eps came from."""

    eps: float
    largest: float
    origin: str

    @property
    def share(self) -> float:
        return self.eps / self.largest if self.largest > 0 else float("inf")


class ElliCE:
    """Recourse that survives a retrained model (arXiv 2602.07674), for a linear last layer.

    Built from the features of the training rows (or the penultimate activations of a net) and labels: the
    last layer is refitted by Newton on exactly the loss whose Hessian is used.
    """

    def __init__(self, features: ArrayLike, labels: ArrayLike, config: ElliCEConfig | None = None) -> None:
        self.config = config or ElliCEConfig()
        self.layer: FittedLayer = fit_layer(logistic_problem(features, labels, l2=self.config.l2))
        self.features = np.asarray(features, dtype=np.float64)
        self.radius = self._radius()
        self.ellipsoid = Ellipsoid.of(self.layer, self.radius.eps)

    def _radius(self) -> Radius:
        config = self.config
        largest = Ellipsoid.of(self.layer, 0.0).largest_eps()
        if config.eps is not None:
            return Radius(config.eps, largest, "given")
        if config.percent_of_loss is not None:
            eps = eps_from_loss(self.layer, config.percent_of_loss)
            return Radius(eps, largest, f"{config.percent_of_loss:g} % of the training loss")
        eps = eps_from_level(self.layer, config.level, joint=config.joint)
        origin = f"chi-square level {config.level:g}, {'joint' if config.joint else 'one person'}"
        if eps > config.cap * largest:
            return Radius(config.cap * largest, largest, f"{origin}, capped at {config.cap:g} of eps*")
        return Radius(eps, largest, origin)

    def solve(self, people: ArrayLike, constraints: Constraints | None = None) -> RecourseAnswer:
        """Cheapest accepted points for ``people`` [N, d].

        Points are NaN for who has no recourse under the constraints; ``details['status']`` says why.
        Raises UsageError when eps >= eps* and nothing bounds the features: then nobody has robust recourse.
        """
        x0 = self._check(people)
        limits = constraints or Constraints.free([f"x{j}" for j in range(x0.shape[1])])
        if self.radius.eps >= self.radius.largest:
            raise UsageError(
                "nobody can have recourse that survives all these models",
                where="eps",
                found=f"eps = {self.radius.eps:.4g} ({self.radius.origin})",
                expected=f"less than eps* = {self.radius.largest:.4g}",
                fix=f"ask for at most about {0.9 * self.radius.largest:.3g}",
            )
        tau = self.config.margin
        already = self.ellipsoid.worst_logit(_with_bias(x0)) >= tau
        points, certified, extras = self._dispatch(x0, limits, tau)
        feasible = np.isfinite(points).all(axis=1)
        cost = np.full(len(x0), np.nan)
        cost[feasible] = self._cost(points[feasible], x0[feasible], limits)
        status = np.where(
            already, "already accepted", np.where(feasible, "found", "none under these constraints")
        )
        worst = np.full(len(x0), np.nan)
        worst[feasible] = self.ellipsoid.worst_logit(_with_bias(points[feasible]))
        details: dict[str, Any] = {
            "status": status,
            "worst_logit": worst,
            "changed": np.where(feasible, (points != x0).sum(axis=1), 0),
            "eps": self.radius.eps,
            "largest_eps": self.radius.largest,
            "eps_share": self.radius.share,
            "eps_origin": self.radius.origin,
            **extras,
        }
        return RecourseAnswer(points, cost, certified & feasible, GUARANTEES[self.config.guarantee], details)

    def _dispatch(
        self, x0: Array, limits: Constraints, tau: float
    ) -> tuple[Array, NDArray[np.bool_], dict[str, Any]]:
        low, high = limits.bounds(x0)
        if self.config.guarantee == "exact":
            return self._exact(x0, limits, low, high, tau)
        if self.config.guarantee == "sampled":
            return self._sampled(x0, limits, low, high, tau)
        if self.config.cost == "changes":
            self._only_boxes(limits, "cost = 'changes'")
            found = solve_sparse(self.ellipsoid, x0, limits.cost, low, high, tau=tau)
            return found.points, found.feasible, {"proved_least": found.proved_least}
        if limits.groups or limits.allowed:
            if limits.links or len(limits.A) or self.config.cost == "l1":
                raise UsageError(
                    "categories and allowed values do not go together with linked features, linear limits or "
                    "absolute cost so far",
                    fix="use the squared cost without linear limits, or drop the categories",
                )
            tree = solve_discrete(self.ellipsoid, x0, limits, tau=tau)
            return tree.points, tree.feasible, {"bound": tree.bound, "search_complete": tree.complete}
        if limits.is_box and self.config.cost == "l2":
            box = solve_box(self.ellipsoid, x0, limits.cost, low, high, tau=tau)
            return box.points, box.feasible, {"gap": box.gap, "bound": box.bound}
        points = np.full_like(x0, np.nan)
        for i in range(len(x0)):
            answer = conic.solve(
                self.ellipsoid, x0[i], limits.cost, low[i], high[i], tau=tau + 1e-9,
                cost="l1" if self.config.cost == "l1" else "l2", A=limits.A, b=limits.b, links=limits.links,
            )  # fmt: skip
            if answer is not None:
                points[i] = answer
        ok = np.isfinite(points).all(axis=1)
        ok[ok] = self.ellipsoid.worst_logit(_with_bias(points[ok])) >= 0.0
        return points, ok, {}

    def _exact(
        self, x0: Array, limits: Constraints, low: Array, high: Array, tau: float
    ) -> tuple[Array, NDArray[np.bool_], dict[str, Any]]:
        self._only_boxes(limits, "guarantee = 'exact'")
        points, worst = np.full_like(x0, np.nan), np.full(len(x0), np.nan)
        for i in range(len(x0)):
            answer = solve_true_set(self.layer, self.radius.eps, x0[i], limits.cost, low[i], high[i], tau=tau)
            if answer is not None:
                points[i], worst[i] = answer.x, answer.worst
        return points, worst >= tau, {"true_worst_logit": worst}

    def _sampled(
        self, x0: Array, limits: Constraints, low: Array, high: Array, tau: float
    ) -> tuple[Array, NDArray[np.bool_], dict[str, Any]]:
        self._only_boxes(limits, "guarantee = 'sampled'")
        drawn = self.ellipsoid.sample(self.config.samples, np.random.default_rng(0))
        points = np.full_like(x0, np.nan)
        for i in range(len(x0)):
            answer = conic.solve(self.ellipsoid, x0[i], limits.cost, low[i], high[i], tau=tau, cuts=drawn)
            if answer is not None:
                points[i] = answer
        return points, np.zeros(len(x0), bool), {}

    def _only_boxes(self, limits: Constraints, what: str) -> None:
        if not limits.is_box:
            raise UsageError(
                f"{what} works with bounds, directions and immutables only, so far",
                fix="drop categories, allowed values, links and linear limits, or take ellipsoid with l2",
            )

    def _cost(self, points: Array, x0: Array, limits: Constraints) -> Array:
        if self.config.cost == "l1":
            return np.asarray(np.abs(points - x0) @ limits.cost)
        return np.asarray(np.square(points - x0) @ limits.cost)

    def _check(self, people: ArrayLike) -> Array:
        x0 = np.atleast_2d(np.asarray(people, dtype=np.float64))
        if x0.shape[1] != self.features.shape[1]:
            raise DataError(
                "people have other features than the model",
                found=f"{x0.shape[1]} columns",
                expected=f"{self.features.shape[1]} columns",
            )
        bad = ~np.isfinite(x0)
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise DataError("a feature is missing or infinite", where=f"person {row}, column {column}")
        return x0

    def nearest_supported(self, people: ArrayLike, constraints: Constraints | None = None) -> Array:
        """The nearest training row that the ellipsoid accepts within the constraints; NaN where none."""
        x0 = self._check(people)
        limits = constraints or Constraints.free([f"x{j}" for j in range(x0.shape[1])])
        rows = self.features[self.ellipsoid.worst_logit(_with_bias(self.features)) >= self.config.margin]
        low, high = limits.bounds(x0)
        answer = np.full_like(x0, np.nan)
        for i in range(len(x0)):
            allowed = ((rows >= low[i]) & (rows <= high[i])).all(axis=1)
            if len(limits.A):
                allowed &= (rows @ limits.A.T <= limits.b).all(axis=1)
            if allowed.any():
                away = np.square(rows[allowed] - x0[i]) @ limits.cost
                answer[i] = rows[allowed][np.argmin(away)]
        return answer


def _with_bias(x: Array) -> Array:
    return np.c_[x, np.ones(len(x))]
