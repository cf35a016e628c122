"""BERT4Rec: conformance, and what it says it computes."""

from __future__ import annotations

from types import SimpleNamespace

import sequences as check
import torch

from recengine.contracts.batch import SequenceBatch, StepContext
from recengine.contracts.loss import LossInput
from recengine.testing import ModelConformance


class TestConformance(ModelConformance):
    name = "bert4rec"


def test_both_sides_are_seen() -> None:
    model = check.make("bert4rec")
    offsets = torch.tensor([0, 5])
    with torch.inference_mode():
        one = model.encoder.states(torch.tensor([1, 2, check.ITEMS, 4, 5]), offsets)
        other = model.encoder.states(torch.tensor([1, 2, check.ITEMS, 4, 20]), offsets)
    assert (one - other).abs().amax(1).min() > 1e-6


def test_a_loss_of_cosines_is_ranked_by_cosines() -> None:
    model = check.make("bert4rec")
    model.attach_loss(SimpleNamespace(score="cosine"))
    with torch.inference_mode():
        users, items = model.user_vectors(check.histories([1, 2, 3], [4])), model.item_vectors()
    torch.testing.assert_close(users.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(items.norm(dim=1), torch.ones(check.ITEMS))
    assert model.item_bias() is None


def test_the_loss_is_told_whose_rows_they_are() -> None:
    model, told = check.make("bert4rec"), []

    def loss(given: LossInput, context: StepContext) -> torch.Tensor:
        told.append(given)
        return given.anchors.sum()

    model.attach_loss(loss)
    items, targets = torch.tensor([1, 30, 30, 4, 30]), torch.tensor([-1, 2, 9, -1, 5])
    batch = SequenceBatch(torch.tensor([7, 3]), items, targets, torch.tensor([0, 3, 5]))
    model.training_loss(batch, StepContext(extras={"popularity": torch.ones(30)}))
    assert told[0].row_ids.tolist() == [7, 7, 3]
    assert told[0].popularity is not None
    assert told[0].positives.tolist() == [2, 9, 5]
