from __future__ import annotations

import numpy as np
import torch
from classic import histories, make, scores

from recengine.contracts.model import DirectFit, Represents
from recengine.data import Interactions


def events() -> Interactions:
    return Interactions.from_arrays(np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 0, 1, 2, 1]))


def test_counts_users_or_events() -> None:
    assert make("popularity", events()).share.tolist() == [0.5, 1.0, 0.5]
    by_event = make("popularity", events(), count="events").share
    assert torch.allclose(by_event, torch.tensor([1.0, 2 / 3, 1 / 3]))


def test_every_user_gets_the_same_order_also_a_new_one() -> None:
    train = events()
    model = make("popularity", train)
    assert isinstance(model, Represents)
    assert isinstance(model, DirectFit)
    assert torch.equal(scores(model, histories(train)), scores(model, histories(train, known=False)))
