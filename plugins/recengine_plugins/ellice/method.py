"""The recourse method: from a classifier, people and constraints to certified answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recengine.contracts.recourse import Classifier, Piece, RecourseAnswer
from recengine.errors import DataError, UsageError
from recengine.recourse import Constraints
from recengine.recourse.representations import Affine
from recengine_plugins.ellice.allowed import Found, in_one_level, kept
from recengine_plugins.ellice.cone import Cone, RootedCone, unlikely_region
from recengine_plugins.ellice.config import ElliCEConfig
from recengine_plugins.ellice.discrete import solve_any
from recengine_plugins.ellice.logistic import FittedLayer, RowlessProblem, fit_layer, logistic_problem
from recengine_plugins.ellice.net import walk
from recengine_plugins.ellice.radius import Radius, radius_for
from recengine_plugins.ellice.rashomon import Ellipsoid, true_worst
from recengine_plugins.ellice.refits import Refits
from recengine_plugins.ellice.region import (
    EllipsoidRelaxation,
    Head,
    Relaxation,
    SampledRelaxation,
    TrueSetRelaxation,
    problem_over,
)
from recengine_plugins.ellice.sharpen import sharpened
from recengine_plugins.ellice.softmax import softmax_problem
from recengine_plugins.ellice.sparse import MOST_SETS, count_changed, solve_sparse, things

Array = NDArray[np.float64]

GUARANTEES = {
    "ellipsoid": "every model of the ellipsoid of excess loss eps accepts (certificate)",
    "exact": "every model whose loss is within eps of the minimum accepts (certificate)",
    "sampled": "every drawn model accepts (no certificate)",
}


class ElliCE:
    """Recourse that survives a retrained model (arXiv 2602.07674), for a linear last layer.

    Built from the features of the training rows (or the penultimate activations of a net) and 0/1 labels;
    ``of`` takes any classifier with a linear last layer. Either way the last layer is refitted by Newton on
    exactly the loss whose Hessian is used.
    """

    def __init__(self, features: ArrayLike, labels: ArrayLike, config: ElliCEConfig | None = None) -> None:
        rows = np.asarray(features, dtype=np.float64)
        d = rows.shape[1] if rows.ndim == 2 else 0
        names = tuple(f"x{j}" for j in range(d))
        self._build(Classifier(Affine.identity(d), (0, 1), names), rows, labels, config, None)

    @classmethod
    def of(
        cls,
        classifier: Classifier,
        rows: ArrayLike,
        labels: ArrayLike,
        config: ElliCEConfig | None = None,
        *,
        target: int | None = None,
        refits: Sequence[Classifier] = (),
    ) -> ElliCE:
        """Recourse for ``classifier``, its last layer refitted on rows [n, d] and labels [n].

        labels: indices of the classifier's classes. target: index of the class that people want; default the
        last one. refits: the same kind of classifier fitted again (``recengine.recourse.refitted``); their
        mean score less ``deviations`` standard deviations has to accept, too.
        """
        made = cls.__new__(cls)
        made._build(classifier, np.asarray(rows, dtype=np.float64), labels, config, target)
        if refits:
            made.refits = Refits(refits, made.head.contrasts, made.config.deviations)
        return made

    def _build(
        self,
        classifier: Classifier,
        rows: Array,
        labels: ArrayLike,
        config: ElliCEConfig | None,
        target: int | None,
    ) -> None:
        self.config = config or ElliCEConfig()
        self.classifier, self.features = classifier, rows
        l2 = self.config.l2
        if classifier.l2 is not None and "l2" not in self.config.model_fields_set:
            l2 = classifier.l2
        C = len(classifier.classes)
        self.target = self._target(target)
        if rows.ndim != 2 or not np.isfinite(rows).all():
            logistic_problem(rows, labels, l2=l2)  # names what is wrong
        phi = classifier.representation(rows)
        problem = logistic_problem(phi, labels, l2=l2) if C == 2 else softmax_problem(phi, labels, C, l2=l2)
        self.labels = np.asarray(labels).ravel().astype(np.int64)
        self.layer: FittedLayer = fit_layer(problem)
        self.centre = rows.mean(axis=0)
        self._settle()
        self.moved_by_refit = self._moved(phi)
        if self.config.plausible is not None:
            wanted = rows[self.labels == self.target]
            spread = np.where(rows.std(axis=0) > 0, rows.std(axis=0), 1.0)
            self.unlikely = unlikely_region(wanted, self.config.plausible, spread)

    def at(self, eps: float) -> ElliCE:
        """The same model under another eps."""
        made = copy(self)
        made.radius = Radius(eps, self.radius.largest, "given")
        made.head = replace(self.head, eps=eps)
        made.ellipsoid = Ellipsoid.of(self.layer, eps)
        return made

    def quick(self) -> ElliCE:
        """The same under the ellipsoid guarantee: for questions that need many answers."""
        made = copy(self)
        made.config = self.config.model_copy(update={"guarantee": "ellipsoid"})
        return made

    def alone(self) -> ElliCE:
        """The fitted model by itself: no other models, no refits."""
        made = self.quick().at(0.0)
        made.refits = None
        return made

    def servable(self, person: Array, constraints: Constraints, *, steps: int = 20) -> float:
        """The largest eps (to a thousandth) under which one person [d] still has recourse; 0 where none."""
        low, high = 0.0, min(self.radius.eps, self.radius.largest)
        for _ in range(steps):
            middle = (low + high) / 2
            found = self.at(middle).search(person[None], constraints).points
            low, high = (middle, high) if np.isfinite(found).all() else (low, middle)
            if high - low <= 1e-3 * high or high < 1e-12:
                break
        return low

    def state(self) -> dict[str, Array]:
        """What answers need in place of the training rows: the refitted layer, its Hessian, loss and size,
        and the middle of the rows."""
        return {
            "theta": self.layer.theta,
            "hessian": self.layer.hessian,
            "loss_and_rows": np.array([self.layer.loss, self.layer.problem.n]),
            "centre": self.centre,
        }

    @classmethod
    def restored(
        cls,
        classifier: Classifier,
        state: Mapping[str, Array],
        config: ElliCEConfig | None = None,
        *,
        target: int | None = None,
        refits: Sequence[Classifier] = (),
    ) -> ElliCE:
        """From ``state()``, without training rows: no exact guarantee, no plausibility, no nearest row."""
        made = cls.__new__(cls)
        made.config, made.classifier = config or ElliCEConfig(), classifier
        if made.config.guarantee == "exact" or made.config.plausible is not None:
            raise UsageError(
                "the exact guarantee and plausibility need the training rows",
                fix="give the training table too",
            )
        loss, n = state["loss_and_rows"]
        theta, hessian = state["theta"], state["hessian"]
        made.features = np.zeros((0, len(classifier.names)))
        made.labels = np.zeros(0, np.int64)
        made.centre = state["centre"]
        made.layer = FittedLayer(RowlessProblem(int(n), len(theta)), theta, float(loss), hessian)
        made.target = made._target(target)
        made._settle()
        made.moved_by_refit = None
        if refits:
            made.refits = Refits(refits, made.head.contrasts, made.config.deviations)
        return made

    def _target(self, target: int | None) -> int:
        C = len(self.classifier.classes)
        found = C - 1 if target is None else target
        if not 0 <= found < C:
            raise UsageError("there is no such class", where="target", found=target, expected=f"0 .. {C - 1}")
        return found

    def _settle(self) -> None:
        """Everything that follows from the fitted layer and the target."""
        C = len(self.classifier.classes)
        contrasts = (
            np.array([[1.0 if self.target == 1 else -1.0]])
            if C == 2
            else np.delete(np.eye(C)[self.target] - np.eye(C), self.target, axis=0)
        )
        factor = np.linalg.cholesky(self.layer.hessian)
        bare = Head(self.layer, factor, contrasts, 0.0)
        self.radius: Radius = radius_for(bare, self.config)
        self.head = replace(bare, eps=self.radius.eps)
        self.ellipsoid = Ellipsoid.of(self.layer, self.radius.eps)
        self.unlikely: RootedCone | None = None
        self.refits: Refits | None = None

    def _moved(self, phi: Array) -> float | None:
        """Largest change of a training row's score contrasts by the refit; None without a given layer."""
        given = self.classifier.weights
        if given is None:
            return None
        v = self.head.directions(phi)
        return float(np.abs(v @ (given.ravel() - self.layer.theta)).max())

    def solve(self, people: ArrayLike, constraints: Constraints | None = None) -> RecourseAnswer:
        """Cheapest accepted points for ``people`` [N, d].

        Points are NaN for who has no recourse under the constraints; ``details['status']`` says why.
        Raises UsageError when eps >= eps*: then nobody has robust recourse.
        """
        x0 = self._check(people)
        limits = constraints or Constraints.free(self.classifier.names)
        in_one_level(x0, limits)
        self._possible()
        found = self.search(x0, limits)
        return self.judge(self._unmoved(found.points, x0, limits), x0, limits, found.extras)

    def _unmoved(self, points: Array, x0: Array, limits: Constraints) -> Array:
        """The points, where a change of next to nothing is none at all."""
        with np.errstate(invalid="ignore"):
            near = (np.abs(points - x0) * limits.cost).max(axis=1, initial=0.0) <= 1e-4
        close = np.flatnonzero(near)
        if not close.size:
            return points
        close = close[self.cost(points[close], x0[close], limits) <= 1e-9]
        close = close[kept(x0[close], x0[close], limits)]
        if close.size:
            stay = close[self.worst(x0[close]) >= 0.5 * self.config.margin]
            points[stay] = x0[stay]
        return points

    @property
    def tau(self) -> float:
        """The score asked of every model: threshold and margin."""
        return self.config.threshold + self.config.margin

    @property
    def affine(self) -> bool:
        """Whether one convex problem is the whole of it."""
        return self.classifier.representation.affine and (self.refits is None or self.refits.affine)

    @property
    def guarantee(self) -> str:
        """What a certificate means, in words."""
        words = GUARANTEES[self.config.guarantee]
        if self.unlikely is not None and self.config.plausible is not None:
            words += (
                f"; no further from the accepted training rows than {100 * self.config.plausible:g} % of them"
            )
        if self.refits is None:
            return words
        z = self.refits.deviations
        return f"{words}; {self.refits.size} whole refits: mean score less {z:g} deviations accepts"

    def judge(
        self, points: Array, x0: Array, limits: Constraints, extras: Mapping[str, Any] | None = None
    ) -> RecourseAnswer:
        """Certify points [N, d] (NaN: none), wherever they come from, as answers for ``x0``."""
        feasible = np.isfinite(points).all(axis=1)
        worst, cost = np.full(len(x0), np.nan), np.full(len(x0), np.nan)
        certified = feasible.copy()
        some = slice(None) if feasible.all() else feasible  # a slice copies nothing
        worst[some] = self.worst(points[some])
        cost[some] = self.cost(points[some], x0[some], limits)
        certified[some] = (worst[some] >= 0.5 * self.config.margin) & kept(points[some], x0[some], limits)
        stayed = feasible & (points == x0).all(axis=1)
        searched = (extras or {}).get("search_complete", np.ones(len(x0), bool))
        none = np.where(searched, "none under these constraints", "none found before the search ended")
        status = np.where(stayed, "already accepted", np.where(feasible, "found", none))
        moved = count_changed(points if feasible.all() else np.nan_to_num(points), x0, things(limits))
        details: dict[str, Any] = {
            "status": status,
            "worst_logit": worst if self.config.guarantee == "ellipsoid" else self._ellipsoid_worst(points),
            "changed": np.where(feasible, moved, 0),
            "eps": self.radius.eps,
            "largest_eps": self.radius.largest,
            "eps_share": self.radius.share,
            "eps_origin": self.radius.origin,
            **(extras or {}),
        }
        if self.config.guarantee == "exact":
            details["true_worst_logit"] = worst
        if self.config.guarantee == "sampled":
            details["drawn_worst_logit"] = worst
        return RecourseAnswer(points, cost, certified, self.guarantee, details)

    def search(self, x0: Array, limits: Constraints) -> Found:
        """Points without the checks and the words of ``solve``."""
        if not self.affine:
            return walk(self, x0, limits)
        low, high = limits.bounds(x0)
        relax = self.relaxation(x0, limits)
        if self.config.cost == "changes":
            return self._fewest(relax, x0, limits, low, high)
        tree = solve_any(relax, x0, limits, low, high, most_nodes=self.config.nodes)
        gap = (tree.cost - tree.bound) / np.maximum(tree.cost, 1e-12)
        extras = {"bound": tree.bound, "gap": gap}
        cut = limits.discrete or not tree.complete.all()
        return Found(tree.points, extras | ({"search_complete": tree.complete} if cut else {}))

    def relaxation(
        self,
        x0: Array,
        limits: Constraints,
        piece: Piece | None = None,
        *,
        at: Array | None = None,
        extra: tuple[RootedCone, ...] = (),
    ) -> Relaxation:
        """The problem of the chosen guarantee on one affine piece (default: the only one). at: where the
        refits, if any, are linearised."""
        piece = self.classifier.representation.around(self.centre) if piece is None else piece
        config, head = self.config, self.head
        beside = (*extra, self.unlikely) if self.unlikely is not None else extra
        if self.refits is not None:
            beside = (*beside, *self.refits.cones(self.centre if at is None else at, self.tau))
        kind = "l1" if config.cost == "l1" else "l2"
        problem = problem_over(head, piece, limits, kind, self.tau, beside)
        centre, scale = self.centre, 1.0 / limits.cost
        if config.guarantee == "exact":
            return TrueSetRelaxation(problem, x0, centre, scale, head, head.maps(piece), self.tau)
        if config.guarantee == "sampled":
            return SampledRelaxation(
                problem, x0, centre, scale, head, head.maps(piece), self.tau, self.drawn()
            )
        return EllipsoidRelaxation(problem, x0, centre, scale)

    def drawn(self) -> Array:
        """Models drawn uniformly from the ellipsoid, the same ones each time: [k, p]."""
        return self.ellipsoid.sample(self.config.samples, np.random.default_rng(0))

    def _fewest(self, relax: Relaxation, x0: Array, limits: Constraints, low: Array, high: Array) -> Found:
        units = things(limits)
        cones: tuple[Cone, ...] = ()
        taus: tuple[
            float, ...
        ] = ()  # no set is ruled out by its ceiling unless the cones are what has to hold
        if isinstance(relax, EllipsoidRelaxation):  # once for all sets that are tried
            cones, taus = relax.problem.cones, tuple(relax.problem.tau)
            relax = sharpened(relax, limits, low, high, np.arange(len(x0)))

        def solve(rows: NDArray[np.int64], least: Array, most: Array) -> tuple[Array, Array]:
            points, costs = np.full_like(least, np.nan), np.full(len(rows), np.inf)
            here, free = np.c_[x0[rows], np.ones(len(rows))], (least < most).any(axis=0)
            tops = [cone.ceiling(here, free) - tau for cone, tau in zip(cones, taus, strict=True)]
            some = np.flatnonzero(np.all([top >= 0 for top in tops], axis=0) & np.ones(len(rows), bool))
            if some.size:
                who = rows[some]
                tree = solve_any(
                    relax, x0[who], limits, least[some], most[some], rows=who, most_nodes=self.config.nodes
                )
                points[some], costs[some] = tree.points, np.where(tree.feasible, tree.cost, np.inf)
            return points, costs

        gain, need = self._gains(x0, limits, low, high, units)
        most = MOST_SETS // 20 if limits.groups else MOST_SETS  # each set is a tree of its own
        few = solve_sparse(solve, x0, units, low, high, gain, need, most)
        return Found(few.points, {"proved_least": few.proved_least})

    def _gains(
        self, x0: Array, limits: Constraints, low: Array, high: Array, units: list[NDArray[np.int64]]
    ) -> tuple[Array, Array]:
        """What each thing alone can add to the centre model's worst contrast, and what is missing there."""
        piece = self.classifier.representation.around(self.centre)
        slopes = np.stack([T.T @ self.layer.theta for T in self.head.maps(piece)])
        scores = np.c_[x0, np.ones(len(x0))] @ slopes.T
        w = slopes[scores.argmin(axis=1), :-1]
        with np.errstate(invalid="ignore"):
            best = np.where(w == 0, 0.0, np.maximum(w * (high - x0), w * (low - x0)))
        gain = np.stack([best[:, unit].sum(axis=1) for unit in units], axis=1)
        for k, unit in enumerate(units):
            if any(np.array_equal(np.sort(group), unit) for group in limits.groups):
                open_to = np.where(high[:, unit] > 0, w[:, unit], -np.inf).max(axis=1)
                gain[:, k] = np.maximum(open_to - (w[:, unit] * x0[:, unit]).sum(axis=1), 0.0)
        return gain, self.tau - scores.min(axis=1)

    def cost(self, points: Array, x0: Array, limits: Constraints) -> Array:
        """Cost of each change: sum (c delta)^2 or sum c |delta|; categories always c |delta|."""
        away = np.abs(points - x0)
        flat = limits.indicator | (self.config.cost == "l1")
        if not flat.any():
            away *= away
            return np.asarray(away @ limits.cost**2)
        away *= limits.cost
        return np.asarray(np.where(flat, away, away**2).sum(axis=1))

    def worst(self, points: Array) -> Array:
        """Worst score of each point [N, d], above the threshold, under the chosen guarantee (certified), and
        under the refits, if any."""
        worst = self._worst_layer(points)
        return worst if self.refits is None else np.minimum(worst, self._over_refits(points))

    def _over_refits(self, points: Array) -> Array:
        assert self.refits is not None
        return self.refits.worst(points) - self.config.threshold

    def _worst_layer(self, points: Array) -> Array:
        v = self.head.directions(self.classifier.representation(points))
        if self.config.guarantee == "exact":
            found = [
                min(true_worst(self.layer, self.radius.eps, one).bound for one in directions)
                for directions in v
            ]
            return np.array(found, dtype=np.float64) - self.config.threshold
        if self.config.guarantee == "sampled":
            return np.asarray((v @ self.drawn().T).min(axis=(1, 2))) - self.config.threshold
        return self._over_ellipsoid(v, self.radius.eps)

    def margin(self, points: ArrayLike, eps: float) -> Array:
        """Worst score [N] above the threshold, over the ellipsoid of another ``eps`` (and the refits)."""
        x = np.atleast_2d(np.asarray(points, np.float64))
        worst = self._over_ellipsoid(self.head.directions(self.classifier.representation(x)), eps)
        return worst if self.refits is None else np.minimum(worst, self._over_refits(x))

    def score(self, points: ArrayLike) -> Array:
        """The fitted model's score [N] above the threshold."""
        x = np.atleast_2d(np.asarray(points, np.float64))
        return self._over_ellipsoid(self.head.directions(self.classifier.representation(x)), 0.0)

    def true_margin(self, point: Array, eps: float) -> float:
        """A certified bound of the worst contrast of one point over the true set of ``eps``."""
        v = self.head.directions(self.classifier.representation(point[None]))[0]
        return min(true_worst(self.layer, eps, one).bound for one in v) - self.config.threshold

    def _over_ellipsoid(self, v: Array, eps: float) -> Array:
        flat = v.reshape(-1, v.shape[-1])
        rooted = flat @ self.head.inverse.T
        spread = np.einsum("np,np->n", rooted, rooted)
        worst = flat @ self.layer.theta - np.sqrt(2 * eps * spread)
        return np.asarray(worst.reshape(v.shape[:2]).min(axis=1)) - self.config.threshold

    def _ellipsoid_worst(self, points: Array) -> Array:
        worst = np.full(len(points), np.nan)
        ok = np.isfinite(points).all(axis=1)
        if ok.any():
            worst[ok] = self.margin(points[ok], self.radius.eps)
        return worst

    def _possible(self) -> None:
        if self.radius.eps >= self.radius.largest:
            raise UsageError(
                "nobody can have recourse that survives all these models",
                where="eps",
                found=f"eps = {self.radius.eps:.4g} ({self.radius.origin})",
                expected=f"less than eps* = {self.radius.largest:.4g}",
                fix=f"ask for at most about {0.9 * self.radius.largest:.3g}",
            )

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
        """The nearest training row that is accepted within the constraints; NaN where there is none."""
        x0 = self._check(people)
        if not len(self.features):
            raise UsageError("the nearest row needs the training rows", fix="give the training table too")
        limits = constraints or Constraints.free(self.classifier.names)
        rows = self.features[self.margin(self.features, self.radius.eps) >= self.config.margin]
        if self.config.guarantee == "exact" and len(rows):
            rows = rows[self.worst(rows) >= self.config.margin]
        if self.unlikely is not None:
            rows = rows[self.unlikely.worst_logit(np.c_[rows, np.ones(len(rows))]) >= 0]
        answer = np.full_like(x0, np.nan)
        for i in range(len(x0)):
            allowed = kept(rows, np.broadcast_to(x0[i], rows.shape), limits)
            if allowed.any():
                away = self.cost(rows[allowed], np.broadcast_to(x0[i], rows[allowed].shape), limits)
                answer[i] = rows[allowed][np.argmin(away)]
        return answer
