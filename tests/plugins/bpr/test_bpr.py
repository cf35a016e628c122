from __future__ import annotations

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


def test_contracts_and_planted_taste() -> None:
    train = two_tastes()
    model = make("bpr", train, factors=16)
    assert isinstance(model, Represents)
    assert isinstance(model, DirectFit)
    assert share_of_own_taste(model, train) > 0.95
    assert share_of_own_taste(model, train, known=False) > 0.95


def test_an_empty_history_is_ranked_by_the_biases() -> None:
    train = two_tastes()
    model = make("bpr", train, factors=16)
    given = histories(train, [0])
    empty = type(given)(torch.tensor([-1]), torch.zeros(0, dtype=torch.int64), torch.tensor([0, 0]))
    assert torch.equal(scores(model, empty)[0], model.bias)


def test_known_and_new_users_share_a_batch() -> None:
    train = two_tastes()
    model = make("bpr", train, factors=16)
    given = histories(train, [3, 4])
    mixed = type(given)(torch.tensor([3, -1]), given.items, given.offsets)
    answer = model.user_vectors(mixed)
    assert torch.equal(answer[0], model.users[3])
    torch.testing.assert_close(answer[1], model.user_vectors(histories(train, [4], known=False))[0])


def test_seed_decides_threads_do_not_and_weights_travel() -> None:
    train = two_tastes(n_users=200, n_items=100)
    before = torch.get_num_threads()
    one = make("bpr", train, factors=16, epochs=5)
    torch.set_num_threads(3)
    again = make("bpr", train, factors=16, epochs=5)
    torch.set_num_threads(before)
    other = make("bpr", train, seed=1, factors=16, epochs=5)
    for name, value in one.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert not torch.equal(one.users, other.users)
    loaded = fresh("bpr", train, factors=16)
    loaded.load_state_dict(one.state_dict())
    assert torch.equal(scores(loaded, histories(train)), scores(one, histories(train)))


@pytest.mark.data
def test_ml100k_beats_the_figure_of_implicit(shared_data) -> None:
    """implicit 0.7.3 BPR: NDCG@10 about .054; cornac's: .0693."""
    train, targets = leave_last_out(shared_data("restricted/ml-100k/u.data.gz"))
    _, ndcg = hr_ndcg(scores(make("bpr", train), histories(train)), train, targets)
    assert ndcg > 0.06
