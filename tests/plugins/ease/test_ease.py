from __future__ import annotations

import numpy as np
import pytest
import torch
from classic import histories, hr_ndcg, leave_last_out, make, scores, share_of_own_taste, two_tastes

from recengine.contracts.model import DirectFit, ScoresItems
from recengine.errors import ConfigError, DataError


def closed_form(x: np.ndarray, penalty: float) -> np.ndarray:
    """Column by column, leave item j out and regress it on the rest."""
    n = x.shape[1]
    weights = np.zeros((n, n))
    for j in range(n):
        rest = [i for i in range(n) if i != j]
        a = x[:, rest]
        weights[rest, j] = np.linalg.solve(a.T @ a + penalty * np.eye(n - 1), a.T @ x[:, j])
    return weights


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_weights_solve_the_constrained_least_squares(precision: str) -> None:
    train = two_tastes()
    model = make("ease", train, regularization=3.0, precision=precision)
    x = np.zeros((train.n_users, train.n_items))
    x[train.user, train.item] = 1
    expected = closed_form(x, 3.0)
    np.testing.assert_allclose(model.weights.numpy(), expected, atol=2e-6 if precision == "float64" else 2e-5)
    np.testing.assert_allclose(scores(model, histories(train)).numpy(), x @ expected, atol=1e-4)


def test_contracts_and_planted_taste() -> None:
    train = two_tastes()
    model = make("ease", train)
    assert isinstance(model, ScoresItems)
    assert isinstance(model, DirectFit)
    assert share_of_own_taste(model, train) == 1.0
    assert share_of_own_taste(model, train, known=False) == 1.0


def test_repeats_in_a_history_count_once_and_an_empty_history_scores_zero() -> None:
    train = two_tastes()
    model = make("ease", train)
    given = histories(train, [0])
    twice = type(given)(given.users, given.items.repeat_interleave(2), given.offsets * 2)
    assert torch.equal(scores(model, given), scores(model, twice))
    empty = type(given)(torch.tensor([-1]), torch.zeros(0, dtype=torch.int64), torch.tensor([0, 0]))
    assert scores(model, empty).abs().sum() == 0


def test_refuses_what_does_not_fit_into_memory() -> None:
    with pytest.raises(DataError, match="GiB"):
        make("ease", two_tastes(), memory_limit_gib=1e-9)
    with pytest.raises(ConfigError, match="regularization"):
        make("ease", two_tastes(), regularization=0)


@pytest.mark.data
def test_ml100k_figures(shared_data) -> None:
    """Beside cornac's EASE (lambda 300, negative weights dropped): HR@10 .1436, NDCG@10 .0734."""
    train, targets = leave_last_out(shared_data("restricted/ml-100k/u.data.gz"))
    model = make("ease", train, regularization=300.0, nonnegative=True)
    hr, ndcg = hr_ndcg(scores(model, histories(train)), train, targets)
    assert abs(hr - 0.1436) < 0.002
    assert abs(ndcg - 0.0734) < 0.002
