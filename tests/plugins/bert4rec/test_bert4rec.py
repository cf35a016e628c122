"""BERT4Rec: conformance, and what it says it computes."""

from __future__ import annotations

import pytest
import sequences as check
import torch

from recengine.testing import ModelConformance


class TestConformance(ModelConformance):
    name = "bert4rec"


def test_states_answers_and_histories() -> None:
    model = check.make("bert4rec")
    check.check_states_at_are_those_of_all(model)
    check.check_answer_is_the_state_of_a_hidden_event(model)
    check.check_histories(model, seen=5)


@pytest.mark.parametrize("loss", ["softmax", "sampled_softmax", "gbce"])
def test_only_hidden_events_are_learned_from(loss: str) -> None:
    check.check_loss_is_over_targets_alone("bert4rec", loss)


def test_the_loss_is_cross_entropy_over_the_catalogue() -> None:
    check.check_full_softmax_is_its_definition("bert4rec")
    check.check_full_softmax_is_its_definition("bert4rec", item_bias=False)


def test_both_sides_are_seen() -> None:
    model = check.make("bert4rec")
    offsets = torch.tensor([0, 5])
    with torch.inference_mode():
        one = model.encoder.states(torch.tensor([1, 2, check.ITEMS, 4, 5]), offsets)
        other = model.encoder.states(torch.tensor([1, 2, check.ITEMS, 4, 20]), offsets)
    assert (one - other).abs().amax(1).min() > 1e-6
