"""Whole refits beside the ellipsoid: the bound, its cones, and what the answers survive."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("clarabel")
pytest.importorskip("recengine_plugins.ellice.method")

from recengine.contracts.recourse import Classifier
from recengine.errors import UsageError
from recengine.recourse import Affine, Layer, Layers, compile_constraints, fit_net, refitted
from recengine_plugins.ellice.config import ElliCEConfig
from recengine_plugins.ellice.method import ElliCE
from recengine_plugins.ellice.refits import Refits

RNG = np.random.default_rng(0)
NAMES = ["a", "b", "c"]
X = RNG.normal(size=(300, 3))
Y = (np.abs(X[:, 0]) + X[:, 1] + 0.3 * RNG.normal(size=300) > 0.6).astype(int)


def net(seed: int, smooth: str | None = None, hidden: int = 5) -> Classifier:
    g = np.random.default_rng(seed)
    inner = Layer(g.normal(size=(hidden, 3)), g.normal(size=hidden), None if smooth else (0.0, 1.0), smooth)
    return Classifier(Layers((inner,)), (0, 1), tuple(NAMES), g.normal(size=hidden + 1))


def fit(rows: np.ndarray, labels: np.ndarray, seed: int) -> Classifier:
    return fit_net(
        rows, labels, NAMES, centre=np.zeros(3), scale=np.ones(3), hidden=(12,), epochs=250, seed=seed
    )


@pytest.mark.parametrize("smooth", [None, "tanh"])
def test_the_bound_is_mean_less_deviations_and_the_cone_says_the_same(smooth: str | None) -> None:
    models = [net(k, smooth) for k in range(7)]
    refits = Refits(models, np.ones((1, 1)), 2.5)
    points = RNG.normal(size=(20, 3))
    scores = np.stack([m.representation(points) @ m.weights[:-1] + m.weights[-1] for m in models])
    np.testing.assert_allclose(refits.scores(points)[:, :, 0], scores, atol=1e-12)
    expected = scores.mean(axis=0) - 2.5 * scores.std(axis=0, ddof=1)
    np.testing.assert_allclose(refits.worst(points), expected, atol=1e-12)
    for x, bound in zip(points, expected, strict=True):
        (cone,) = refits.cones(x, 0.3)
        assert cone.worst_logit(np.r_[x, 1.0][None])[0] == pytest.approx(bound - 0.3, abs=1e-9)


def test_refits_of_several_shapes_and_several_classes() -> None:
    g = np.random.default_rng(5)
    models = [
        Classifier(Affine.identity(3), (0, 1, 2), tuple(NAMES), g.normal(size=(3, 4))) for _ in range(4)
    ]
    contrasts = np.array([[-1.0, 0.0, 1.0], [0.0, -1.0, 1.0]])
    refits = Refits(models, contrasts, 1.0)
    assert refits.affine
    scores = np.stack([np.c_[X, np.ones(300)] @ (contrasts @ m.weights).T for m in models])
    low = (scores.mean(axis=0) - scores.std(axis=0, ddof=1)).min(axis=1)
    np.testing.assert_allclose(refits.worst(X), low, atol=1e-12)
    mixed = Refits([net(0), net(1, hidden=4)], np.ones((1, 1)), 1.0)
    assert mixed.scores(X[:5]).shape == (2, 5, 1)


def test_what_is_no_refit_is_refused() -> None:
    with pytest.raises(UsageError, match="at least two"):
        Refits([net(0)], np.ones((1, 1)), 1.0)
    bare = Classifier(net(1).representation, (0, 1), tuple(NAMES))
    with pytest.raises(UsageError, match="fitted classifier"):
        Refits([net(0), bare], np.ones((1, 1)), 1.0)
    with pytest.raises(UsageError, match="fitted classifier"):
        Refits([net(0), net(1)], np.ones((2, 3)), 1.0)


def test_refits_are_the_same_under_a_seed_and_differ_among_each_other() -> None:
    one, two = (refitted(fit, X, Y, 3, seed=4) for _ in range(2))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a.weights, b.weights)
    assert not np.allclose(one[0].weights, one[1].weights)


@pytest.fixture(scope="module")
def asked() -> tuple[ElliCE, ElliCE, np.ndarray]:
    """The same net without and with refits, and refused people."""
    base = fit(X, Y, 0)
    config = ElliCEConfig(eps=0.002, deviations=2.0)
    with_refits = ElliCE.of(base, X, Y, config, refits=refitted(fit, X, Y, 24, seed=1))
    return ElliCE.of(base, X, Y, config), with_refits, X[with_refits.margin(X, 0.002) < -0.5][:6]


def test_answers_with_refits_hold_and_survive_other_refits(
    asked: tuple[ElliCE, ElliCE, np.ndarray],
) -> None:
    plain, method, people = asked
    rules = compile_constraints({"features": {"c": {"immutable": True}}}, NAMES)
    answer, before = method.solve(people, rules), plain.solve(people, rules)
    assert answer.certified.all()
    assert "24 whole refits" in answer.guarantee
    assert (answer.points[:, 2] == people[:, 2]).all()
    assert (answer.costs >= before.costs * (1 - 1e-6)).all()
    assert method.refits is not None
    assert (method.refits.worst(answer.points) >= 0).all()
    others = Refits(refitted(fit, X, Y, 12, seed=99), np.ones((1, 1)), 1.0)
    accepted = [(others.scores(x)[:, :, 0] > 0).mean() for x in (answer.points, before.points)]
    assert accepted[0] > 0.9
    assert accepted[0] > accepted[1] + 0.1


def test_affine_refits_are_one_convex_problem() -> None:
    g = np.random.default_rng(2)
    linear = Classifier(Affine.identity(3), (0, 1), tuple(NAMES))
    labels = (X @ [1.0, 0.5, 0.0] > 0).astype(int)
    again = [
        Classifier(
            Affine.identity(3), (0, 1), tuple(NAMES), np.r_[1.0, 0.5, 0.0, 0.0] + 0.2 * g.normal(size=4)
        )
        for _ in range(10)
    ]
    method = ElliCE.of(linear, X, labels, ElliCEConfig(eps=0.002, deviations=2.0), refits=again)
    answer = method.solve(X[labels == 0][:8])
    assert answer.certified.all()
    assert (answer.details["gap"] <= 1e-7).all()
    assert method.refits is not None
    assert (method.refits.worst(answer.points) >= 0).all()
