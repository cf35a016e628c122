"""ElliCE as it is used: guarantees, constraints, sparse and discrete recourse against brute force."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from recengine.errors import ConfigError, DataError, UsageError
from recengine.recourse import Constraints, compile_constraints
from recengine_plugins.ellice.config import ElliCEConfig
from recengine_plugins.ellice.method import ElliCE

pytest.importorskip("clarabel")
NAMES = ("age", "income", "debt", "rent", "own")


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    own = generator.integers(0, 2, 400)
    X = np.c_[generator.normal(size=(400, 3)), 1 - own, own]
    logit = X @ np.array([0.3, 1.5, -1.2, -0.5, 0.5]) - 0.2
    return X, (generator.random(400) < 1 / (1 + np.exp(-logit))).astype(int)


def rejected(method: ElliCE, X: np.ndarray, n: int) -> np.ndarray:
    return X[method.ellipsoid.worst_logit(np.c_[X, np.ones(len(X))]) < 0][:n]


def test_every_drawn_model_accepts(data: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = data
    method = ElliCE(X, y)
    answer = method.solve(rejected(method, X, 40))
    assert answer.certified.all()
    models = method.ellipsoid.sample(20_000, np.random.default_rng(1))
    assert ((np.c_[answer.points, np.ones(40)] @ models.T) > 0).all()
    assert 0 < answer.details["eps_share"] <= 0.5
    assert (answer.details["gap"] < 1e-6).all()


def test_constraints_are_kept_to_the_bit(data: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = data
    method = ElliCE(X, y)
    people = rejected(method, X, 30)
    limits = compile_constraints(
        {
            "features": {
                "age": {"immutable": True},
                "debt": {"direction": "down"},
                "income": {"range": [-3, 3]},
            }
        },
        NAMES,
    )
    answer = method.solve(people, limits)
    ok = answer.certified
    assert ok.any()
    assert (answer.points[ok, 0] == people[ok, 0]).all()
    assert (answer.points[ok, 2] <= people[ok, 2]).all()
    assert (answer.points[ok, 1] <= 3).all()


def test_discrete_recourse_equals_brute_force(data: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = data
    method = ElliCE(X, y)
    people = rejected(method, X, 8)
    values = [-1.0, 0.0, 1.0, 2.0]
    limits = compile_constraints(
        {
            "features": {"income": {"allowed": values}},
            "groups": {"home": {"features": ["rent", "own"]}},
        },
        NAMES,
    )
    answer = method.solve(people, limits)
    assert answer.details["search_complete"].all()
    for i, person in enumerate(people):
        best = np.inf
        for income, home in product([*values, person[1]], ([1.0, 0.0], [0.0, 1.0])):
            low, high = np.full(5, -np.inf), np.full(5, np.inf)
            low[1] = high[1] = income
            low[3:] = high[3:] = home
            from recengine_plugins.ellice.box import solve_box

            found = solve_box(method.ellipsoid, person[None], np.ones(5), low[None], high[None], tau=1e-6)
            if found.feasible[0]:
                best = min(best, found.cost[0])
        assert answer.costs[i] == pytest.approx(best, rel=1e-6)
        assert answer.points[i, 1] in [*values, person[1]]
        assert sorted(answer.points[i, 3:]) == [0.0, 1.0]


def test_sparse_recourse_changes_least(data: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = data
    sparse = ElliCE(X, y, ElliCEConfig(cost="changes"))
    people = rejected(sparse, X, 25)
    tight = compile_constraints({"features": {name: {"range": [-2.5, 2.5]} for name in NAMES[:3]}}, NAMES)
    few = sparse.solve(people, tight)
    dense = ElliCE(X, y).solve(people, tight)
    ok = few.certified
    assert (few.details["changed"][ok] <= dense.details["changed"][ok]).all()
    assert (few.details["changed"][ok] == few.details["proved_least"][ok]).mean() > 0.5
    assert few.details["changed"][ok].min() >= 1


def test_exact_set_is_never_longer_than_needed(data: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = data
    people = rejected(ElliCE(X, y), X, 4)
    large = ElliCEConfig(eps=0.05)
    exact = ElliCE(X, y, large.model_copy(update={"guarantee": "exact"})).solve(people)
    ellipsoid = ElliCE(X, y, large).solve(people)
    assert exact.certified.all()
    assert (exact.details["true_worst_logit"] >= 1e-6).all()
    assert (exact.costs <= ellipsoid.costs * 1.001).all()


def test_absolute_cost_links_and_linear_limits(data: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = data
    method = ElliCE(X, y, ElliCEConfig(cost="l1"))
    people = rejected(method, X, 5)
    limits = compile_constraints(
        {
            "linked": [{"feature": "income", "moves": "age", "ratio": 0.5}],
            "linear": [{"coefficients": {"income": 1, "own": 1}, "at_most": 8}],
        },
        NAMES,
    )
    answer = method.solve(people, limits)
    assert answer.certified.all()
    moved = answer.points - people
    np.testing.assert_allclose(moved[:, 0], 0.5 * moved[:, 1], atol=1e-7)
    assert (answer.points[:, 1] + answer.points[:, 4] <= 8 + 1e-7).all()


def test_asking_too_much_is_said(data: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = data
    with pytest.raises(UsageError, match="nobody can have recourse"):
        ElliCE(X, y, ElliCEConfig(eps=10.0)).solve(X[:1])


def test_accepted_people_stay(data: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = data
    method = ElliCE(X, y)
    best = X[np.argmax(method.ellipsoid.worst_logit(np.c_[X, np.ones(len(X))]))]
    answer = method.solve(best)
    assert answer.details["status"][0] == "already accepted"
    assert (answer.points[0] == best).all()


def test_impossible_bounds_are_said(data: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = data
    method = ElliCE(X, y)
    frozen = compile_constraints({"features": {name: {"immutable": True} for name in NAMES}}, NAMES)
    answer = method.solve(rejected(method, X, 3), frozen)
    assert not answer.certified.any()
    assert set(answer.details["status"]) == {"none under these constraints"}


def test_supported_recourse_is_a_real_row(data: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = data
    method = ElliCE(X, y)
    rows = method.nearest_supported(rejected(method, X, 5))
    assert all((row == X).all(axis=1).any() for row in rows)


def test_order_of_people_does_not_matter(data: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = data
    method = ElliCE(X, y)
    people = rejected(method, X, 20)
    order = np.random.default_rng(0).permutation(20)
    straight, shuffled = method.solve(people), method.solve(people[order])
    np.testing.assert_allclose(straight.points[order], shuffled.points, rtol=1e-9, atol=1e-12)


def test_a_person_in_no_level_is_named(data: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = data
    nowhere = X[:2].copy()
    nowhere[1, 3:] = 0.0
    limits = compile_constraints({"groups": {"home": {"features": ["rent", "own"]}}}, NAMES)
    with pytest.raises(DataError, match="person 1, 'home'"):
        ElliCE(X, y).solve(nowhere, limits)


def test_wrong_people_and_files_are_named(data: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = data
    with pytest.raises(DataError, match="other features"):
        ElliCE(X, y).solve(np.zeros((1, 3)))
    with pytest.raises(ConfigError, match="incom"):
        compile_constraints({"features": {"incom": {"immutable": True}}}, NAMES)
    with pytest.raises(ConfigError):
        compile_constraints({"features": {"income": {"rnage": [0, 1]}}}, NAMES)
    assert Constraints.free(NAMES).is_box
