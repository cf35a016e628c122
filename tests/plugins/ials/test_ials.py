from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from classic import (
    fresh,
    histories,
    hr_ndcg,
    leave_last_out,
    make,
    scores,
    share_of_own_taste,
    two_tastes,
)

from recengine.contracts.model import DirectFit, Represents
from recengine.data import Interactions


def objective(x: np.ndarray, users: np.ndarray, items: np.ndarray, alpha: float, penalty: float) -> float:
    squares = (1 + alpha * x) * (x - users @ items.T) ** 2
    return float(squares.sum() + penalty * ((users**2).sum() + (items**2).sum()))


@pytest.mark.parametrize("steps", [0, 3])
def test_sweeps_lower_the_objective(steps: int) -> None:
    train = two_tastes()
    x = np.zeros((train.n_users, train.n_items))
    x[train.user, train.item] = 1
    values = []
    for iterations in (1, 2, 4, 8):
        settings = {
            "iterations": iterations,
            "steps": steps,
            "factors": 8,
            "regularization": 0.5,
            "answer_steps": 0,
        }
        model = make("ials", train, **settings)
        users = model.user_vectors(histories(train)).double().numpy()
        values.append(objective(x, users, model.items.double().numpy(), 10.0, 0.5))
    assert all(later < earlier for earlier, later in pairwise(values))


def test_contracts_planted_taste_new_users_and_empty_history() -> None:
    train = two_tastes()
    model = make("ials", train, factors=8)
    assert isinstance(model, Represents)
    assert isinstance(model, DirectFit)
    assert share_of_own_taste(model, train) == 1.0
    known, new = (model.user_vectors(histories(train, known=known)) for known in (True, False))
    assert torch.equal(known, new)
    given = histories(train, [0])
    empty = type(given)(torch.tensor([-1]), torch.zeros(0, dtype=torch.int64), torch.tensor([0, 0]))
    assert model.user_vectors(empty).abs().sum() == 0


def test_counts_weigh_repeats() -> None:
    users = np.array([0, 0, 0, 0, 1, 1])
    items = np.array([0, 0, 0, 1, 0, 1])
    train = Interactions.from_arrays(users, items)
    dense = {}
    for counts in ("binary", "log", "count"):
        model = make("ials", train, factors=1, counts=counts, regularization=1.0, alpha=2.0, answer_steps=0)
        dense[counts] = scores(model, histories(train))[0]
    ratio = {name: float(row[0] / row[1]) for name, row in dense.items()}
    assert ratio["binary"] == pytest.approx(1.0, abs=1e-4)
    assert 1.0 < ratio["log"] < ratio["count"]


def test_seed_decides_and_weights_travel() -> None:
    train = two_tastes()
    one, again, other = (make("ials", train, seed=seed, factors=8) for seed in (0, 0, 1))
    assert torch.equal(one.items, again.items)
    assert not torch.equal(one.items, other.items)
    loaded = fresh("ials", train, factors=8)
    loaded.load_state_dict(one.state_dict())
    assert torch.equal(scores(loaded, histories(train)), scores(one, histories(train)))


@pytest.mark.data
def test_ml100k_beats_the_figure_of_implicit(shared_data) -> None:
    """implicit 0.7.3 (64 factors, alpha 10, 15 iterations): NDCG@10 .0701."""
    train, targets = leave_last_out(shared_data("restricted/ml-100k/u.data.gz"))
    _, ndcg = hr_ndcg(scores(make("ials", train), histories(train)), train, targets)
    assert ndcg > 0.069
