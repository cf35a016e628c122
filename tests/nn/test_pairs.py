"""Unit rows, pair models and their answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import recengine
from recengine.contracts.batch import HistoryBatch, PairBatch, StepContext
from recengine.data import Interactions
from recengine.errors import UsageError
from recengine.nn.graph import GraphPairModel
from recengine.nn.pairs import PairModel
from recengine.nn.unit import unit_rows


def test_unit_rows_and_their_gradient() -> None:
    x = torch.randn(9, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x.requires_grad_()
    torch.testing.assert_close(unit_rows(x), torch.nn.functional.normalize(x, dim=1))
    assert torch.autograd.gradcheck(unit_rows, (x,))


def test_a_row_of_zeros_stays_zero_without_a_gradient() -> None:
    x = torch.zeros(2, 3)
    x[1] = torch.tensor([3.0, 0.0, 4.0])
    x.requires_grad_()
    out = unit_rows(x)
    assert out.tolist() == [[0, 0, 0], [pytest.approx(0.6), 0, pytest.approx(0.8)]]
    out.sum().backward()
    assert torch.equal(x.grad[0], torch.zeros(3))
    assert torch.isfinite(x.grad).all()


class Recorder:
    negatives, shared, sampler, power, score = 7, True, "mixed", 0.5, "cosine"

    def __call__(self, given: Any, context: StepContext) -> torch.Tensor:
        self.given = given
        return given.anchors.sum()


def model() -> PairModel:
    torch.manual_seed(0)
    made = PairModel(5, 6, 4, 1.0, l2=0.5)
    made.attach_loss(Recorder())
    return made


def test_the_loss_gets_what_it_may_need() -> None:
    made = model()
    feed = made.feed()
    assert (feed.kind, feed.negatives, feed.shared, feed.sampler, feed.power) == (
        "pairs",
        7,
        True,
        "mixed",
        0.5,
    )
    batch = PairBatch(torch.tensor([4, 1]), torch.tensor([2, 0]), torch.arange(6)[:3])
    held = (torch.arange(6), torch.arange(5))
    total = made.training_loss(batch, StepContext(extras={"popularity": torch.ones(6), "user_items": held}))
    given = made.loss.given
    assert torch.equal(given.anchors, made.users.weight[[4, 1]])
    assert torch.equal(given.row_ids, batch.users)
    assert torch.equal(given.popularity, torch.ones(6))
    assert given.user_items is held
    rows = made.users.weight[[4, 1]].square().sum() + made.items.weight[[2, 0]].square().sum()
    torch.testing.assert_close(total, given.anchors.sum() + 0.5 * 0.5 * rows / 2)


def test_answers_follow_the_loss_and_the_parameters() -> None:
    made = model().eval()
    histories = HistoryBatch(
        torch.tensor([3, -1, -1]), torch.tensor([2, 5, 2, 1]), torch.tensor([0, 1, 4, 4])
    )
    with torch.inference_mode():
        items = made.item_vectors()
        torch.testing.assert_close(items.norm(dim=1), torch.ones(6))  # a loss of cosines: unit vectors
        users = made.user_vectors(histories)
    torch.testing.assert_close(users[0], torch.nn.functional.normalize(made.users.weight, dim=1)[3])
    torch.testing.assert_close(users[1], items[[1, 2, 5]].mean(0))
    assert torch.equal(users[2], torch.zeros(4))
    assert made.item_vectors() is made.item_vectors()
    with torch.no_grad():
        made.items.weight.mul_(-1)
    torch.testing.assert_close(made.item_vectors(), -items)


@pytest.mark.parametrize("attached", [False, True])
def test_a_user_without_a_training_event_is_answered_as_somebody_new(attached: bool) -> None:
    made = model().eval()
    wide = Interactions.from_arrays(np.arange(5), np.arange(5), np.arange(5))
    if attached:
        made.attach_data(wide.select(np.array([True, True, True, False, False])))
    histories = HistoryBatch(
        torch.tensor([2, 3, 4, -1]), torch.tensor([0, 5, 1, 5, 1]), torch.tensor([0, 1, 3, 3, 5])
    )
    with torch.inference_mode():
        items, users = made.item_vectors(), made.user_vectors(histories)
    own = unit_rows(made.users.weight)
    new = items[[1, 5]].mean(0)
    torch.testing.assert_close(users[0], own[2])
    torch.testing.assert_close(users[1], new if attached else own[3])
    torch.testing.assert_close(users[2], torch.zeros(4) if attached else own[4])
    torch.testing.assert_close(users[3], new)


@pytest.mark.parametrize("name", ["mf", "simplex", "lightgcn", "simgcl", "bpr"])
def test_a_user_without_a_training_event_keeps_nothing_of_a_random_start(name: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    users, items = np.repeat(np.arange(12), 6), rng.integers(0, 15, 72)
    full = Interactions.from_arrays(users, items, np.arange(72))
    data = full.select(full.user != 0)
    settings = {"split.strategy": "ratio_random"}
    settings |= {"model.epochs": 2} if name == "bpr" else {"training.epochs": 2}
    run = recengine.fit(name, data, settings=settings, directory=tmp_path)
    untrained = run.split.train.users.tokens[0]
    for fitted in (run, recengine.load(tmp_path)):
        given = HistoryBatch(torch.tensor([0, -1]), torch.tensor([3, 7, 3, 7]), torch.tensor([0, 2, 4]))
        with torch.inference_mode():
            known, new = fitted.model.eval().user_vectors(given)
        torch.testing.assert_close(known, new)
        answer = fitted.recommend([untrained], 3)["item"].to_list()
        assert answer == fitted.recommend({"nobody": []}, 3)["item"].to_list()


def test_a_graph_model_needs_its_data_and_keeps_isolated_nodes() -> None:
    class Mean(GraphPairModel):
        def tables(self) -> Any:
            return self.parted(self.averaged(2))

    torch.manual_seed(0)
    made = Mean(4, 5, 3, 1.0)
    with pytest.raises(UsageError, match="training interactions"):
        made.tables()
    train = Interactions.from_arrays(np.array([0, 0, 1]), np.array([0, 1, 1]), np.arange(3))
    wide = Interactions.from_arrays(np.arange(4), np.arange(4) + 1, np.arange(4))
    made = Mean(wide.n_users, wide.n_items, 3, 1.0)
    made.attach_data(wide.select(np.array([True, True, True, False])))
    users, items = made.tables()
    torch.testing.assert_close(users[3], made.users.weight[3] / 3)
    torch.testing.assert_close(items[3], made.items.weight[3] / 3)
    assert train.n_users == 2
    assert "_graph" not in made.state_dict()


def test_answers_follow_a_fused_optimiser() -> None:
    made = model().train()
    optimizer = torch.optim.Adam(made.parameters(), lr=0.1, fused=True)
    batch = PairBatch(torch.tensor([4, 1]), torch.tensor([2, 0]), torch.arange(3))
    before = made.eval().item_vectors().clone()
    made.train()
    made.training_loss(batch, StepContext()).backward()
    optimizer.step()
    assert not torch.equal(before, made.eval().item_vectors())
