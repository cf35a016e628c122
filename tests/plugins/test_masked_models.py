"""What holds for every model that fills hidden events."""

from __future__ import annotations

from typing import Any

import pytest
import sequences as check

from recengine_plugins.cotten4rec.config import AUTHORS

FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert4rec": ("bert4rec", {}),
    "bert4rec without biases": ("bert4rec", {"item_bias": False}),
    "linrec": ("linrec", {}),
    "cotten4rec": ("cotten4rec", {}),
    "cotten4rec, authors": ("cotten4rec", AUTHORS),
    "cotten4rec, causal": ("cotten4rec", {"direction": "causal", "scale": "key_prefix"}),
}


@pytest.fixture(params=list(FORMS))
def form(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return FORMS[request.param]


def test_states_answers_and_histories(form: tuple[str, dict[str, Any]]) -> None:
    model = check.make(form[0], **form[1])
    check.check_states_at_are_those_of_all(model)
    check.check_answer_is_the_state_of_a_hidden_event(model)
    check.check_histories(model, seen=5)


@pytest.mark.parametrize("loss", ["softmax", "sampled_softmax", "gbce"])
@pytest.mark.parametrize("name", ["bert4rec", "linrec", "cotten4rec"])
def test_only_hidden_events_are_learned_from(name: str, loss: str) -> None:
    check.check_loss_is_over_targets_alone(name, loss)


def test_the_loss_is_cross_entropy_over_the_catalogue(form: tuple[str, dict[str, Any]]) -> None:
    check.check_full_softmax_is_its_definition(form[0], **form[1])
