"""Checks that models and data sets of more than one kind share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from recengine.contracts.batch import StepContext
from recengine.testing.base import Conformance, made


def check_gradients(model: Any, batches: Iterable[tuple[Any, StepContext]]) -> None:
    """Steps of Adam on ``batches``: finite scalar losses, finite gradients, one that is not zero for every
    parameter. Raises AssertionError naming what is not so."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.Adam(named.values(), lr=1e-2)
    reached: set[str] = set()
    torch.manual_seed(0)
    for batch, context in batches:
        optimizer.zero_grad()
        loss = model.training_loss(batch, context)
        assert loss.shape == (), f"the loss is no scalar: {tuple(loss.shape)}"
        assert torch.isfinite(loss), f"the loss is {loss.item()}"
        loss.backward()
        for name, parameter in named.items():
            if parameter.grad is not None:
                assert torch.isfinite(parameter.grad).all(), f"'{name}' has a NaN or infinite gradient"
                if bool((parameter.grad != 0).any()):
                    reached.add(name)
        optimizer.step()
    assert set(named) == reached, f"no gradient reaches {sorted(set(named) - reached)}"


class SourceConformance(Conformance):
    """Checks of any data set: what it is and who may use it."""

    kind = "dataset"

    def source(self) -> Any:
        """The data set, ready to use."""
        return made(self.entry().load())

    def test_says_what_it_is_and_who_may_use_it(self) -> None:
        source = self.source()
        for fact in ("name", "summary", "licence"):
            value = getattr(source, fact)
            assert isinstance(value, str), f"{fact} is no text"
            assert value.strip(), f"it has no {fact}"
