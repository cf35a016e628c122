"""GRU4Rec: conformance, and what it says it computes."""

from __future__ import annotations

import pytest
import sequences as check
import torch

from recengine.testing import ModelConformance


class TestConformance(ModelConformance):
    name = "gru4rec"


def small(**settings: object) -> torch.nn.Module:
    return check.make("gru4rec", state_dim=12, **settings)


@pytest.mark.parametrize("layers", [1, 2])
def test_states_and_histories(layers: int) -> None:
    model = small(n_layers=layers)
    check.check_states_at_are_those_of_all(model)
    check.check_histories(model, seen=5)


@pytest.mark.parametrize("loss", ["softmax", "sampled_softmax", "gbce"])
def test_positions_without_a_target_cost_nothing(loss: str) -> None:
    check.check_loss_is_over_targets_alone("gru4rec", loss, state_dim=12)


def test_the_cell_is_its_formula() -> None:
    model = small().double()
    encoder, items = model.encoder, torch.tensor([3, 8, 1, 5])
    layer, state, wanted = encoder.layers, torch.zeros(12, dtype=torch.float64), []
    for item in items:
        ours = layer.weight_ih_l0 @ encoder.items.weight[item] + layer.bias_ih_l0
        own = layer.weight_hh_l0 @ state + layer.bias_hh_l0
        reset, update = torch.sigmoid(ours[:24] + own[:24]).chunk(2)
        fresh = torch.tanh(ours[24:] + reset * own[24:])
        state = (1 - update) * fresh + update * state
        wanted.append(encoder.out(state))
    found = encoder.states(torch.cat([torch.tensor([9, 9, 9, 9, 9]), items]), torch.tensor([0, 5, 9]))
    torch.testing.assert_close(found[5:], torch.stack(wanted))


@pytest.mark.parametrize("layers", [1, 2])
def test_one_event_at_a_time_is_the_whole_history(layers: int) -> None:
    model, items = small(n_layers=layers).double(), [1, 2, 3, 4, 5, 6]
    state = model.empty_state(1)
    with torch.inference_mode():
        for step, item in enumerate(items):
            taken = model.append(state, torch.tensor([item]))
            whole = model.encoder.states(torch.tensor(items[: step + 1]), torch.tensor([0, step + 1]))[-1:]
            torch.testing.assert_close(taken, whole, rtol=1e-12, atol=1e-12)
        read, last = model.read(torch.tensor([7, *items]), torch.tensor([0, 1, 7]))
    torch.testing.assert_close(last[1:], taken, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close({name: held[1:] for name, held in read.items()}, state, rtol=1e-12, atol=1e-12)
