from __future__ import annotations

import torch
from classic import histories, make, scores, two_tastes


def test_the_same_question_has_the_same_answer_in_any_batch() -> None:
    train = two_tastes()
    model = make("random", train, seed=3)
    together = scores(model, histories(train, [5, 2, 9]))
    assert torch.equal(together[1:2], scores(model, histories(train, [2])))


def test_seed_user_and_item_decide() -> None:
    train = two_tastes(n_users=200, n_items=100)
    one, other = (scores(make("random", train, seed=seed), histories(train)) for seed in (0, 1))
    assert not torch.equal(one, other)
    assert one.min() >= 0
    assert one.max() < 1
    assert abs(float(one.mean()) - 0.5) < 0.01
    assert abs(float(torch.corrcoef(torch.stack([one[0], one[1]]))[0, 1])) < 0.35
    assert torch.unique(one).numel() > 0.99 * one.numel()


def test_new_users_with_different_histories_differ() -> None:
    train = two_tastes()
    answer = scores(make("random", train), histories(train, [0, 1], known=False))
    assert not torch.equal(answer[0], answer[1])
