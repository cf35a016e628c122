"""Several classes, the other class, thresholds, nets, what is plausible, whole numbers, what was saved."""

from __future__ import annotations

from itertools import count
from typing import Any

import numpy as np
import pytest

from recengine.errors import DataError, UsageError
from recengine.recourse import compile_constraints, fit_net, from_sklearn, linear_classifier
from recengine_plugins.ellice.config import ElliCEConfig
from recengine_plugins.ellice.conic import ConicStoppedError
from recengine_plugins.ellice.method import ElliCE
from recengine_plugins.ellice.softmax import softmax_problem

pytest.importorskip("clarabel")
NAMES = list("abcd")
RNG = np.random.default_rng(0)
X = RNG.normal(size=(500, 4))
SCORES = X @ RNG.normal(size=(4, 3)) + RNG.gumbel(size=(500, 3))
Y3 = SCORES.argmax(axis=1)
Y2 = (SCORES[:, 0] > SCORES[:, 1]).astype(int)
THREE = linear_classifier(NAMES, classes=("x", "y", "z"))
TWO = linear_classifier(NAMES)


def test_softmax_derivatives_are_those_of_its_loss() -> None:
    problem = softmax_problem(X, Y3, 3)
    theta = RNG.normal(size=problem.size)
    step = 1e-6
    for j in range(problem.size):
        e = np.eye(problem.size)[j] * step
        slope = (problem.loss(theta + e) - problem.loss(theta - e)) / (2 * step)
        assert problem.gradient(theta)[j] == pytest.approx(slope, abs=1e-6)
        curve = (problem.gradient(theta + e) - problem.gradient(theta - e)) / (2 * step)
        np.testing.assert_allclose(problem.hessian(theta)[j], curve, atol=1e-6)


@pytest.mark.parametrize("target", [0, 1, 2])
def test_every_drawn_model_prefers_the_wanted_class(target: int) -> None:
    method = ElliCE.of(THREE, X, Y3, ElliCEConfig(eps=0.005), target=target)
    people = X[target != Y3][:15]
    answer = method.solve(people)
    assert answer.certified.all()
    models = method.ellipsoid.sample(5000, np.random.default_rng(1)).reshape(-1, 3, 5)
    scores = np.einsum("kcm,nm->nkc", models, np.c_[answer.points, np.ones(len(people))])
    assert (scores.argmax(axis=2) == target).all()
    assert (answer.details["gap"] < 1e-6).all()


def test_eps_star_of_several_classes_divides_possible_from_impossible() -> None:
    star = ElliCE.of(THREE, X, Y3).radius.largest
    wild = compile_constraints({}, NAMES)
    below = ElliCE.of(THREE, X, Y3, ElliCEConfig(eps=0.97 * star))
    assert below.solve(X[Y3 != 2][:1], wild).certified.all()
    with pytest.raises(UsageError, match="nobody can have recourse"):
        ElliCE.of(THREE, X, Y3, ElliCEConfig(eps=1.03 * star)).solve(X[:1])


def test_two_classes_as_softmax_agree_with_the_logistic_form() -> None:
    """softmax with penalty l2 on both rows is logistic regression with penalty l2/2 on their difference."""
    from recengine_plugins.ellice.logistic import fit_layer, logistic_problem

    soft = fit_layer(softmax_problem(X, Y2, 2, l2=2e-3))
    logistic = fit_layer(logistic_problem(X, Y2, l2=1e-3))
    W = soft.theta.reshape(2, -1)
    np.testing.assert_allclose(W[1] - W[0], logistic.theta, atol=1e-8)


def test_the_other_class_is_the_mirror_image() -> None:
    one = ElliCE.of(TWO, X, Y2, ElliCEConfig(eps=0.005), target=0)
    mirrored = ElliCE.of(TWO, X, 1 - Y2, ElliCEConfig(eps=0.005), target=1)
    people = X[Y2 == 1][:10]
    np.testing.assert_allclose(one.solve(people).points, mirrored.solve(people).points, atol=1e-7)
    assert one.radius.largest == pytest.approx(mirrored.radius.largest)


def test_a_threshold_asks_for_more() -> None:
    people = X[Y2 == 0][:10]
    plain = ElliCE.of(TWO, X, Y2, ElliCEConfig(eps=0.005)).solve(people)
    strict = ElliCE.of(TWO, X, Y2, ElliCEConfig(eps=0.005, threshold=1.0))
    answer = strict.solve(people)
    assert (answer.costs > plain.costs).all()
    models = strict.ellipsoid.sample(3000, np.random.default_rng(0))
    assert ((np.c_[answer.points, np.ones(10)] @ models.T) >= 1.0).all()
    assert strict.radius.largest < ElliCE.of(TWO, X, Y2).radius.largest


def test_scikit_learn_refit_lands_on_its_own_minimum() -> None:
    pytest.importorskip("sklearn")
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    for labels in (Y2, Y3):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.5, tol=1e-10, max_iter=5000)).fit(
            X, labels
        )
        method = ElliCE.of(from_sklearn(model, X), X, labels)
        assert method.moved_by_refit is not None
        assert method.moved_by_refit < 1e-4
        answer = method.solve(X[labels != labels.max()][:5])
        assert (model.predict(answer.points) == labels.max()).all()


@pytest.fixture(scope="module")
def net() -> tuple[ElliCE, np.ndarray]:
    labels = (np.abs(X[:, 0]) + X[:, 1] + 0.3 * RNG.normal(size=500) > 0.8).astype(int)
    classifier = fit_net(X, labels, NAMES, centre=X.mean(0), scale=X.std(0), hidden=(8,), epochs=200)
    method = ElliCE.of(classifier, X, labels, ElliCEConfig(eps=0.002))
    return method, X[method.margin(X, 0.002) < 0][:6]


def test_nets_are_certified_and_beat_the_nearest_row(net: tuple[ElliCE, np.ndarray]) -> None:
    method, people = net
    answer = method.solve(people)
    assert answer.certified.all()
    rows = method.nearest_supported(people)
    assert (answer.costs < np.square(rows - people).sum(axis=1)).all()
    models = method.ellipsoid.sample(3000, np.random.default_rng(0))
    phi = np.c_[method.classifier.representation(answer.points), np.ones(len(people))]
    assert ((phi @ models.T) > 0).all()


def test_a_piece_that_the_solver_cannot_do_is_passed_over(
    net: tuple[ElliCE, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    from recengine_plugins.ellice import net as walking

    whole, asked = walking.solve_any, count()

    def sometimes(*given: Any, **more: Any) -> Any:
        if next(asked) % 3 == 0:
            raise ConicStoppedError("the conic solver did not reach an answer")
        return whole(*given, **more)

    method, people = net
    monkeypatch.setattr(walking, "solve_any", sometimes)
    assert method.solve(people).certified.all()


def test_nets_find_what_a_fine_grid_finds() -> None:
    two = X[:, :2]
    labels = (np.abs(two[:, 0]) + two[:, 1] > 0.8).astype(int)
    classifier = fit_net(
        two, labels, ["a", "b"], centre=np.zeros(2), scale=np.ones(2), hidden=(6,), epochs=300
    )
    method = ElliCE.of(classifier, two, labels, ElliCEConfig(eps=0.001))
    people = two[method.margin(two, 0.001) < 0][:5]
    answer = method.solve(people)
    side = np.linspace(-3, 3, 241)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    grid = grid[method.margin(grid, 0.001) >= 1e-6]
    best = np.square(people[:, None] - grid[None]).sum(axis=2).min(axis=1)
    assert (answer.costs <= best * 1.02 + 1e-3).all()


def test_nets_keep_constraints(net: tuple[ElliCE, np.ndarray]) -> None:
    method, people = net
    limits = compile_constraints(
        {"features": {"a": {"immutable": True}, "b": {"direction": "up"}, "c": {"range": [-2, 2]}}}, NAMES
    )
    answer = method.solve(people, limits)
    ok = answer.certified
    assert ok.any()
    assert (answer.points[ok, 0] == people[ok, 0]).all()
    assert (answer.points[ok, 1] >= people[ok, 1]).all()


def test_whole_numbers_equal_brute_force() -> None:
    method = ElliCE.of(TWO, X, Y2, ElliCEConfig(eps=0.002))
    people = np.round(X[method.margin(X, 0.002) < -0.3][:5])
    limits = compile_constraints({"features": {n: {"integer": True, "range": [-4, 4]} for n in NAMES}}, NAMES)
    answer = method.solve(people, limits)
    side = np.arange(-4.0, 5.0)
    grid = np.stack(np.meshgrid(*[side] * 4), axis=-1).reshape(-1, 4)
    grid = grid[method.margin(grid, 0.002) >= 1e-6]
    best = np.square(people[:, None] - grid[None]).sum(axis=2).min(axis=1)
    np.testing.assert_allclose(answer.costs, best)
    assert (answer.points == np.round(answer.points)).all()


def test_exact_discrete_recourse_equals_brute_force_over_the_true_set() -> None:
    config = ElliCEConfig(eps=0.02, guarantee="exact")
    method = ElliCE.of(TWO, X, Y2, config)
    people = np.round(X[method.margin(X, 0.02) < -0.3][:2])
    limits = compile_constraints(
        {"features": {n: {"integer": True, "range": [-3, 3]} for n in NAMES[:2]} | {"c": {"immutable": True},
         "d": {"immutable": True}}}, NAMES,
    )  # fmt: skip
    answer = method.solve(people, limits)
    for i, person in enumerate(people):
        best = np.inf
        for a in np.arange(-3.0, 4.0):
            for b in np.arange(-3.0, 4.0):
                point = np.array([a, b, person[2], person[3]])
                cost = float(np.square(point - person).sum())
                if cost < best and method.true_margin(point, 0.02) >= 1e-6:
                    best = cost
        assert (answer.costs[i] == pytest.approx(best)) if np.isfinite(best) else not answer.certified[i]


def test_plausible_answers_stay_near_the_wanted_rows() -> None:
    free = ElliCE.of(TWO, X, Y2, ElliCEConfig(eps=0.01))
    near = ElliCE.of(TWO, X, Y2, ElliCEConfig(eps=0.01, plausible=0.5))
    people = X[free.margin(X, 0.01) < -2][:8]
    assert near.unlikely is not None
    answer, plain = near.solve(people), free.solve(people)
    ok = answer.certified
    assert ok.any()
    assert (near.unlikely.worst_logit(np.c_[answer.points[ok], np.ones(ok.sum())]) >= -1e-7).all()
    rows = near.nearest_supported(people)
    there = np.isfinite(rows).all(axis=1)
    assert there.any()
    assert (near.unlikely.worst_logit(np.c_[rows[there], np.ones(there.sum())]) >= 0).all()
    assert "than 50 % of them" in near.guarantee
    assert (answer.costs[ok] >= plain.costs[ok] * (1 - 1e-9)).all()


def test_what_was_saved_answers_the_same() -> None:
    method = ElliCE.of(TWO, X, Y2, ElliCEConfig(eps=0.01))
    again = ElliCE.restored(TWO, method.state(), ElliCEConfig(eps=0.01))
    people = X[Y2 == 0][:10]
    np.testing.assert_allclose(again.solve(people).points, method.solve(people).points, rtol=1e-12)
    with pytest.raises(UsageError, match="training rows"):
        ElliCE.restored(TWO, method.state(), ElliCEConfig(guarantee="exact"))


def test_servable_eps_is_where_answers_end() -> None:
    limits = compile_constraints({"features": {n: {"range": [-0.5, 0.5]} for n in NAMES}}, NAMES)
    star = ElliCE.of(TWO, X, Y2).radius.largest
    method = ElliCE.of(TWO, X, Y2, ElliCEConfig(eps=0.95 * star))
    person = X[np.argmin(np.abs(method.margin(X, 0.0) + 0.3))]
    assert not method.solve(person, limits).certified.any()
    most = method.servable(person, limits)
    assert 0 < most < 0.95 * star
    assert method.at(most).solve(person, limits).certified.all()
    assert not method.at(1.01 * most).solve(person, limits).certified.any()


@pytest.mark.parametrize("cost", ["l2", "l1"])
def test_units_do_not_matter(cost: str) -> None:
    """The same people in other units, at the same cost for the same change."""
    centre, scale = np.array([2000.0, 0.0, -5.0, 7e4]), np.array([1.0, 1e-4, 10.0, 3e4])
    config = ElliCEConfig(eps=0.01, cost=cost)
    limits = {"linear": [{"coefficients": {"a": 1.0, "b": 1.0}, "at_most": 1.0}]}
    plain = ElliCE.of(TWO, X, Y2, config).solve(X[Y2 == 0][:20], compile_constraints(limits, NAMES))
    there = linear_classifier(NAMES, centre=centre, scale=scale)
    factors = {"a": 1.0, "b": 1e4}
    limits = {"linear": [{"coefficients": factors, "at_most": 1.0 + 2000.0}]}
    rules = compile_constraints(limits, NAMES, units=1 / scale)
    found = ElliCE.of(there, X * scale + centre, Y2, config).solve((X * scale + centre)[Y2 == 0][:20], rules)
    np.testing.assert_allclose(found.costs, plain.costs, rtol=1e-6)
    assert found.certified.tolist() == plain.certified.tolist()


def test_fewest_changes_count_a_category_once_and_are_proved() -> None:
    rows = np.c_[X[:, :2], np.eye(3)[RNG.integers(0, 3, 500)]]
    labels = (rows @ [1.0, 0.5, -1.0, 0.5, 1.5] + 0.3 * RNG.normal(size=500) > 0.3).astype(int)
    names = ["a", "b", "k=1", "k=2", "k=3"]
    limits = compile_constraints(
        {
            "groups": {"k": {"features": names[2:]}},
            "features": {"a": {"range": [-1, 1]}, "b": {"range": [-1, 1]}},
        },
        names,
    )
    method = ElliCE.of(linear_classifier(names), rows, labels, ElliCEConfig(cost="changes", eps=0.002))
    people = rows[method.margin(rows, 0.002) < 0][:15]
    answer = method.solve(people, limits)
    ok = answer.certified
    assert ok.any()
    assert (answer.details["changed"][ok] == answer.details["proved_least"][ok]).all()
    assert answer.details["changed"][ok].max() <= 3


def test_bad_input_is_named() -> None:
    with pytest.raises(DataError, match="row 0, column 2"):
        ElliCE.of(TWO, np.where(np.arange(4) == 2, np.nan, X), Y2)
    with pytest.raises(DataError, match="every class needs rows"):
        ElliCE.of(THREE, X, Y2)
    with pytest.raises(UsageError, match="no such class"):
        ElliCE.of(TWO, X, Y2, target=2)
    with pytest.raises(DataError, match="only one class"):
        ElliCE.of(TWO, X, np.zeros(500, int))
    with pytest.raises(DataError, match="separated perfectly"):
        ElliCE.of(TWO, X, (X[:, 0] > 0).astype(int), ElliCEConfig(l2=0.0))
    with pytest.raises(DataError, match=r"repeat each other|singular"):
        ElliCE.of(linear_classifier(list("abcde")), np.c_[X, X[:, 0]], Y2, ElliCEConfig(l2=0.0))
