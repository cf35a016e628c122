from __future__ import annotations

import numpy as np
import torch
from classic import histories, make, scores, share_of_own_taste, two_tastes


def dense(model: object, items: int) -> np.ndarray:
    weights = np.zeros((items, items))
    for j in range(items):
        np.add.at(weights[:, j], model.columns[j].numpy(), model.values[j].numpy())
    return weights


def test_weights_satisfy_the_optimality_conditions() -> None:
    train = two_tastes()
    model = make("slim", train, l1=0.5, l2=2.0, neighbours=39, sweeps=500, tolerance=1e-7)
    x = np.zeros((train.n_users, train.n_items))
    x[train.user, train.item] = 1
    w = dense(model, train.n_items)
    slope = x.T @ (x @ w - x) + 2.0 * w + 0.5  # of the smooth part, and l1 for weights above zero
    off = ~np.eye(train.n_items, dtype=bool)
    assert np.all(np.diag(w) == 0)
    assert np.abs(slope[(w > 0) & off]).max() < 1e-3
    assert slope[(w == 0) & off].min() > -1e-3
    assert (w > 0).sum() < off.sum() / 2
    np.testing.assert_allclose(scores(model, histories(train)).numpy(), x @ w, atol=1e-4)


def test_signed_weights_satisfy_the_optimality_conditions() -> None:
    """Of items that are never met together, too: there the weight is below zero."""
    train = two_tastes()
    l1, l2 = 0.01, 2.0
    settings = {"l1": l1, "l2": l2, "neighbours": 39, "sweeps": 2000, "tolerance": 1e-8}
    model = make("slim", train, nonnegative=False, **settings)
    x = np.zeros((train.n_users, train.n_items))
    x[train.user, train.item] = 1
    w = dense(model, train.n_items)
    slope = x.T @ (x @ w - x) + l2 * w  # of the smooth part
    off = ~np.eye(train.n_items, dtype=bool)
    assert np.all(np.diag(w) == 0)
    assert np.abs(slope + l1 * np.sign(w))[(w != 0) & off].max() < 1e-3
    assert np.abs(slope)[(w == 0) & off].max(initial=0.0) < l1 + 1e-3
    apart = (x.T @ x == 0) & off
    assert (w[apart] < 0).any()


def test_planted_taste_and_candidates() -> None:
    train = two_tastes()
    model = make("slim", train, l1=0.1, l2=1.0, neighbours=10)
    assert model.columns.shape == (40, 10)
    assert share_of_own_taste(model, train) == 1.0
    assert share_of_own_taste(model, train, known=False) == 1.0
    nobody = histories(train, [0])
    empty = type(nobody)(torch.tensor([-1]), torch.zeros(0, dtype=torch.int64), torch.tensor([0, 0]))
    assert scores(model, empty).abs().sum() == 0
