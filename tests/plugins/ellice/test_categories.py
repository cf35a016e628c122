"""Categories and whole numbers: the sharper region, prices, first answers, all against brute force."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from recengine.recourse import Constraints, compile_constraints, linear_classifier
from recengine_plugins.ellice.config import ElliCEConfig
from recengine_plugins.ellice.method import ElliCE
from recengine_plugins.ellice.pricing import narrowed
from recengine_plugins.ellice.region import EllipsoidRelaxation
from recengine_plugins.ellice.sharpen import lift, sharpened

pytest.importorskip("clarabel")
SIZES = (3, 4, 2)
NAMES = ["age", "debt", *(f"g{k}_{level}" for k, size in enumerate(SIZES) for level in range(size))]


def limits_of(**more: object) -> Constraints:
    groups = {
        f"g{k}": {"features": [f"g{k}_{level}" for level in range(size)]} for k, size in enumerate(SIZES)
    }
    features = {
        "age": {"integer": True, "range": [-3, 3]},
        "debt": {"integer": True, "range": [-3, 3], "cost": 0.7},
    }
    return compile_constraints({"features": features | more, "groups": groups}, NAMES)


def question(seed: int, eps_share: float = 0.2) -> tuple[ElliCE, np.ndarray]:
    generator = np.random.default_rng(seed)
    n = 500
    numbers = generator.integers(-3, 4, size=(n, 2)).astype(float)
    levels = [
        np.eye(size)[generator.choice(size, n, p=generator.dirichlet(np.ones(size) * 2))] for size in SIZES
    ]
    X = np.concatenate([numbers, *levels], axis=1)
    logit = X @ generator.normal(size=X.shape[1])
    y = (generator.random(n) < 1 / (1 + np.exp(-logit + logit.mean() + 0.5))).astype(int)
    method = ElliCE.of(linear_classifier(NAMES), X, y, ElliCEConfig(eps=1e-3))
    eps = eps_share * method.radius.largest
    method = ElliCE.of(linear_classifier(NAMES), X, y, ElliCEConfig(eps=eps))
    return method, X[method.margin(X, eps) < 0][:6]


def everything() -> np.ndarray:
    numbers = np.array(list(product(range(-3, 4), repeat=2)), dtype=float)
    levels = np.array([np.concatenate(one) for one in product(*(np.eye(size) for size in SIZES))])
    return np.concatenate(
        [np.repeat(numbers, len(levels), axis=0), np.tile(levels, (len(numbers), 1))], axis=1
    )


@pytest.mark.parametrize("seed", range(6))
def test_the_answer_is_the_best_of_all_points(seed: int) -> None:
    method, people = question(seed)
    limits = limits_of()
    points = everything()
    robust = points[method.margin(points, method.radius.eps) >= 0.5 * method.config.margin]
    answer = method.solve(people, limits)
    for person, cost, status in zip(people, answer.costs, answer.details["status"], strict=True):
        best = method.cost(robust, np.broadcast_to(person, robust.shape), limits).min(initial=np.inf)
        assert cost == pytest.approx(best, rel=1e-7) if np.isfinite(best) else status.startswith("none")
    found = np.isfinite(answer.costs)
    assert (answer.details["gap"][found] <= 1e-7).all()
    assert answer.certified[found].all()


def test_a_search_cut_short_bounds_what_it_left() -> None:
    method, people = question(1, 0.45)
    limits = limits_of()
    short = ElliCE.of(
        linear_classifier(NAMES), method.features, method.labels,
        ElliCEConfig(eps=method.radius.eps, nodes=1),
    )  # fmt: skip
    best, cut = method.solve(people, limits).costs, short.solve(people, limits)
    both = np.isfinite(best) & np.isfinite(cut.costs)
    assert both.any()
    assert (cut.costs[both] >= best[both] * (1 - 1e-9)).all()
    assert (cut.details["bound"][both] <= best[both] * (1 + 1e-9)).all()


def test_the_sharper_region_is_the_same_at_whole_levels_and_smaller_between() -> None:
    method, people = question(0)
    limits = limits_of()
    cone = method.relaxation(people, limits).problem.cones[0]
    sharp = lift(cone, limits.groups, np.ones((len(NAMES), len(NAMES))))
    whole = np.c_[everything(), np.ones(len(everything()))]
    np.testing.assert_allclose(sharp.worst_logit(whole), cone.worst_logit(whole), rtol=1e-9, atol=1e-9)
    generator = np.random.default_rng(0)
    mixed = np.concatenate(
        [generator.normal(size=(400, 2)), *(generator.dirichlet(np.ones(size), 400) for size in SIZES)],
        axis=1,
    )
    h = np.c_[mixed, np.ones(len(mixed))]
    lost = cone.worst_logit(h) - sharp.worst_logit(h)
    assert lost.min() >= -1e-9
    assert lost.mean() > 0.01
    assert np.linalg.eigvalsh(sharp.P)[0] >= -1e-9


def test_relaxed_costs_rise_and_stay_below_the_answers() -> None:
    method, people = question(2)
    limits = limits_of()
    low, high = limits.bounds(people)
    relax = method.relaxation(people, limits)
    assert isinstance(relax, EllipsoidRelaxation)
    rows = np.arange(len(people))
    loose, sharp = relax(rows, low, high), sharpened(relax, limits, low, high, rows)(rows, low, high)
    answer = method.solve(people, limits)
    both = loose.feasible & sharp.feasible & np.isfinite(answer.costs)
    assert (sharp.bound[both] >= loose.bound[both] - 1e-9).all()
    assert sharp.bound[both].sum() > 1.02 * loose.bound[both].sum()
    assert (sharp.bound[both] <= answer.costs[both] * (1 + 1e-9)).all()


@pytest.mark.parametrize("seed", range(4))
def test_prices_never_rule_out_the_best(seed: int) -> None:
    method, people = question(seed)
    limits = limits_of()
    low, high = limits.bounds(people)
    relax = method.relaxation(people, limits)
    assert isinstance(relax, EllipsoidRelaxation)
    found = sharpened(relax, limits, low, high, np.arange(len(people)))(np.arange(len(people)), low, high)
    answer = method.solve(people, limits)
    assert found.prices is not None
    known = np.where(np.isfinite(answer.costs), answer.costs * (1 + 1e-6), np.inf)
    after = narrowed(relax.problem, limits, found.prices, people, low, high, known)
    some = np.isfinite(answer.costs) & np.isfinite(found.prices.level)
    assert some.any()
    assert (answer.points >= after.low)[some].all()
    assert (answer.points <= after.high)[some].all()
    assert (after.bound[some] <= answer.costs[some] * (1 + 1e-9)).all()
    assert ((after.high < high) | (after.low > low))[some].any()


def test_the_ceiling_is_what_the_free_features_can_reach() -> None:
    generator = np.random.default_rng(0)
    method, people = question(0, 0.6)
    cone = method.relaxation(people, limits_of()).problem.cones[0]
    free = np.zeros(len(NAMES), bool)
    free[:2] = True
    h = np.c_[people, np.ones(len(people))]
    for eps in (cone.eps, 20 * cone.eps):
        wide = type(cone)(cone.theta, cone.P, eps, cone.root)
        top = wide.ceiling(h, free)
        tried = np.repeat(h, 4000, axis=0)
        tried[:, :2] = generator.normal(size=(len(tried), 2)) * 30 ** generator.random((len(tried), 1))
        reached = wide.worst_logit(tried).reshape(len(h), -1).max(axis=1)
        assert (top >= reached - 1e-9).all()
        if np.isfinite(top).all():
            assert (top - reached < 0.1 * (1 + np.abs(top))).all()
    assert np.isfinite(top).all()


@pytest.mark.parametrize("guarantee", ["exact", "sampled"])
def test_other_guarantees_find_the_best_of_all_points_too(guarantee: str) -> None:
    method, people = question(3, 0.3)
    limits, points, eps = limits_of(), everything(), method.radius.eps
    config = ElliCEConfig(eps=eps, guarantee=guarantee, samples=300)
    other = ElliCE.of(linear_classifier(NAMES), method.features, method.labels, config)
    answer = other.solve(people[:3], limits)
    assert (answer.details["bound"] <= answer.costs * (1 + 1e-9)).all()
    for person, cost, gap in zip(people, answer.costs, answer.details["gap"], strict=False):
        away = other.cost(points, np.broadcast_to(person, points.shape), limits)
        for k in np.argsort(away):
            if other.worst(points[k : k + 1])[0] >= 0.5 * config.margin:
                break
        assert away[k] <= cost * (1 + 1e-9)
        assert away[k] >= cost * (1 - gap) * (1 - 1e-6)


def test_a_node_that_no_solver_can_do_is_not_called_impossible(monkeypatch: pytest.MonkeyPatch) -> None:
    from recengine_plugins.ellice import conic

    def stops(*_: object) -> None:
        raise conic.ConicStoppedError("the conic solver did not reach an answer")

    method, people = question(1, 0.45)
    limits = limits_of()
    best = method.solve(people, limits)
    monkeypatch.setattr(conic, "solve_problem", stops)
    answer = method.solve(people, limits)
    lost = np.isnan(answer.costs) & np.isfinite(best.costs)
    assert (answer.details["status"][lost] == "none found before the search ended").all()
    found = np.isfinite(answer.costs)
    assert (answer.details["bound"][found] <= best.costs[found] * (1 + 1e-9)).all()
