"""Item recourse against re-ranking under drawn models, and the kernel that LinUCB shares."""

from __future__ import annotations

import numpy as np
import pytest

from recengine.errors import DataError, UsageError
from recengine.recourse import compile_constraints
from recengine_plugins.ellice.item import Audience, fit_pairwise, fit_squared, item_recourse
from recengine_plugins.ellice.kernel import LinUCB, after_single_moves, quadratic_form
from recengine_plugins.ellice.logistic import FittedLayer

pytest.importorskip("clarabel")
USERS, ITEMS, D = 8, 25, 4


@pytest.fixture(scope="module")
def world() -> tuple[FittedLayer, Audience, np.ndarray]:
    rng = np.random.default_rng(0)
    items = rng.normal(size=(ITEMS, D))
    audience = Audience.bilinear(rng.normal(size=(USERS, 2)), D)
    phi = audience.pairs(items)
    scores = phi @ (0.7 * rng.normal(size=phi.shape[-1]))
    u, i, j = rng.integers(USERS, size=4000), rng.integers(ITEMS, size=4000), rng.integers(ITEMS, size=4000)
    first = rng.random(4000) < 1 / (1 + np.exp(scores[u, j] - scores[u, i]))
    better = np.where(first[:, None], phi[u, i], phi[u, j])
    worse = np.where(first[:, None], phi[u, j], phi[u, i])
    return fit_pairwise(better, worse), audience, items


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_the_item_is_in_every_top_k_under_every_drawn_model(
    world: tuple[FittedLayer, Audience, np.ndarray], share: float
) -> None:
    scorer, audience, items = world
    last = int(np.argmin((audience.pairs(items) @ scorer.theta).mean(axis=0)))
    answer = item_recourse(scorer, audience, items, last, k=5, share=share, eps=5e-4)
    assert answer.point is not None
    assert answer.share >= share
    assert answer.gap < 1e-6
    from recengine_plugins.ellice.rashomon import Ellipsoid

    models = Ellipsoid.of(scorer, 5e-4).sample(400, np.random.default_rng(1))
    changed = items.copy()
    changed[last] = answer.point
    scores = np.einsum("unp,kp->kun", audience.pairs(changed), models)
    ranks = 1 + (scores > scores[:, :, last : last + 1]).sum(axis=2)
    assert (ranks[:, answer.reached] <= 5).all()
    assert (answer.rank_after[answer.reached] <= 5).all()
    assert (answer.rank_before > 5).any()


def test_what_cannot_move_stays_and_impossible_is_said(
    world: tuple[FittedLayer, Audience, np.ndarray],
) -> None:
    scorer, audience, items = world
    frozen = compile_constraints({"features": {f"f{j}": {"immutable": True} for j in range(D)}},
                                 [f"f{j}" for j in range(D)])  # fmt: skip
    last = int(np.argmin((audience.pairs(items) @ scorer.theta).mean(axis=0)))
    none = item_recourse(scorer, audience, items, last, frozen, k=3, eps=1e-4)
    assert none.point is None
    with pytest.raises(UsageError, match="out of range"):
        item_recourse(scorer, audience, items, 99, k=3, eps=1e-4)


def test_squared_loss_makes_the_ellipsoid_the_true_set() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 3)), rng.normal(size=60)
    layer = fit_squared(X, y, l2=0.1)
    step = rng.normal(size=3)
    excess = layer.problem.loss(layer.theta + step) - layer.loss
    assert excess == pytest.approx(0.5 * step @ layer.hessian @ step)
    with pytest.raises(DataError, match="pair 0, column 1"):
        fit_squared([[1.0, np.nan]], [1.0])


def test_linucb_equals_ridge_regression_with_a_bonus() -> None:
    rng = np.random.default_rng(0)
    bandit = LinUCB(4, ridge=0.5, alpha=1.5)
    x, r = rng.normal(size=(200, 4)), rng.normal(size=200)
    for row, reward in zip(x, r, strict=True):
        bandit.update(row, reward)
    A = 0.5 * np.eye(4) + x.T @ x
    np.testing.assert_allclose(bandit.theta, np.linalg.solve(A, x.T @ r), atol=1e-10)
    some = rng.normal(size=(9, 4))
    bonus = 1.5 * np.sqrt(quadratic_form(A, some))
    np.testing.assert_allclose(bandit.scores(some), some @ bandit.theta + bonus, atol=1e-10)
    with pytest.raises(UsageError, match="width"):
        LinUCB(0)


def test_single_moves_cost_no_new_solve() -> None:
    rng = np.random.default_rng(0)
    P = np.linalg.inv(np.eye(5) + np.ones((5, 5)))
    points, features, by = rng.normal(size=(7, 5)), np.array([0, 3, 3]), np.array([0.5, -1.0, 2.0])
    found = after_single_moves(P, points, features, by)
    for k, (j, delta) in enumerate(zip(features, by, strict=True)):
        moved = points.copy()
        moved[:, j] += delta
        np.testing.assert_allclose(found[:, k], np.einsum("ni,ij,nj->n", moved, P, moved), atol=1e-12)
