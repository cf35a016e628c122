from __future__ import annotations

import numpy as np
import torch

import recengine
from recengine.contracts.batch import HistoryBatch
from recengine.testing.worlds import planted


def test_vectors_are_own_and_history_mixed() -> None:
    settings = {
        "training.epochs": 1,
        "loss": {"name": "ccl", "negatives": 8},
        "model": {"own": 0.3, "longest": 4},
    }
    run = recengine.fit("simplex", planted().split, settings=settings)
    model, train = run.model, run.split.train
    users, _ = model.tables()
    for user in (0, 5, 11):
        recent = train.item[train.indptr[user] : train.indptr[user + 1]][-4:].astype(np.int64)
        mean = model.items.weight[recent].mean(0)
        wanted = 0.3 * model.users.weight[user] + 0.7 * model.mix(mean)
        torch.testing.assert_close(users[user], wanted, rtol=1e-5, atol=1e-6)


def test_a_new_user_is_the_mapped_mean_and_nobody_is_zero() -> None:
    settings = {"training.epochs": 1, "loss": {"name": "ccl", "negatives": 8}}
    model = recengine.fit("simplex", planted().split, settings=settings).model
    with torch.no_grad():
        found = model.user_vectors(
            HistoryBatch(torch.tensor([-1, -1]), torch.tensor([3, 7]), torch.tensor([0, 2, 2]))
        )
        wanted = 0.5 * model.mix(model.items.weight[[3, 7]].mean(0))
    torch.testing.assert_close(found[0], wanted, rtol=1e-5, atol=1e-6)
    assert torch.equal(found[1], torch.zeros_like(found[1]))
