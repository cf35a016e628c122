from __future__ import annotations

import numpy as np
import pytest
import torch
from classic import histories, make, scores, share_of_own_taste, two_tastes

import recengine_plugins.itemknn.model as module
from recengine.contracts.model import DirectFit, ScoresItems


def all_similarities(train, shrinkage: float, similarity: str) -> np.ndarray:
    x = np.zeros((train.n_users, train.n_items))
    x[train.user, train.item] = 1
    both, n = x.T @ x, x.sum(0)
    with np.errstate(invalid="ignore"):
        if similarity == "cosine":
            alike = both / (np.sqrt(np.outer(n, n)) + shrinkage)
        else:
            alike = both / (n[:, None] + n - both + shrinkage)
    np.fill_diagonal(alike, 0)
    return np.nan_to_num(alike)


@pytest.mark.parametrize("similarity", ["cosine", "jaccard"])
@pytest.mark.parametrize("shrinkage", [0.0, 5.0])
def test_with_every_neighbour_the_scores_are_a_matrix_product(similarity: str, shrinkage: float) -> None:
    train = two_tastes()
    model = make("itemknn", train, neighbors=1000, similarity=similarity, shrinkage=shrinkage)
    x = np.zeros((train.n_users, train.n_items))
    x[train.user, train.item] = 1
    expected = x @ all_similarities(train, shrinkage, similarity)
    np.testing.assert_allclose(scores(model, histories(train)).numpy(), expected, atol=1e-5)


def test_keeps_the_most_similar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_CELLS", 100)  # three items a block
    train = two_tastes()
    model = make("itemknn", train, neighbors=5)
    best = -np.sort(-all_similarities(train, 10.0, "cosine"), axis=1)[:, :5]
    np.testing.assert_allclose(model.weights.numpy(), best, atol=1e-6)
    assert not (model.similar == torch.arange(train.n_items)[:, None]).any()


def test_contracts_planted_taste_and_empty_history() -> None:
    train = two_tastes()
    model = make("itemknn", train)
    assert isinstance(model, ScoresItems)
    assert isinstance(model, DirectFit)
    assert share_of_own_taste(model, train) == 1.0
    given = histories(train, [0])
    empty = type(given)(torch.tensor([-1]), torch.zeros(0, dtype=torch.int64), torch.tensor([0, 0]))
    assert scores(model, empty).abs().sum() == 0
