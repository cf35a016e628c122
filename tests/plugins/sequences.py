"""What the tests of sequence models share: small models, histories, and checks that hold for each of them."""

from __future__ import annotations

from typing import Any

import torch

from recengine.contracts.batch import HistoryBatch, SequenceBatch, StepContext
from recengine.contracts.loss import LossInput
from recengine.contracts.model import DataFacts
from recengine.hooks import host
from recengine.training import resolve
from recengine.training.build import build_model

ITEMS = 30


def make(name: str, *, loss: str = "softmax", seed: int = 1, **settings: object) -> Any:
    """A small model with random weights, biases included, in evaluation mode."""
    given = {"model": {"hidden_dim": 16, "max_length": 6, **settings}, "loss": {"name": loss}}
    network: Any = build_model(name, resolve(name, given, host()), DataFacts(5, ITEMS), seed, host()).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return network


def histories(*rows: list[int], times: bool = False) -> HistoryBatch:
    offsets = torch.tensor([0, *torch.tensor([len(row) for row in rows]).cumsum(0).tolist()])
    items = torch.tensor([item for row in rows for item in row], dtype=torch.int64)
    return HistoryBatch(
        torch.full((len(rows),), -1), items, offsets, torch.arange(items.numel()) * 100 if times else None
    )


def check_states_at_are_those_of_all(model: Any) -> None:
    """The encoder at some rows gives what it gives for all."""
    asked = histories([1, 2, 3], [4], [5, 6, 7, 8, 9, 10])
    every = model.encoder.states(asked.items, asked.offsets)
    for wanted in ([2, 3, 9], [0, 4, 5, 8], [3]):
        some = model.encoder.at(asked.items, asked.offsets, torch.tensor(wanted))
        torch.testing.assert_close(some, every[torch.tensor(wanted)], rtol=1e-5, atol=1e-6)


def check_histories(model: Any, *, seen: int) -> None:
    """Of eight events only the newest ``seen`` count; order counts; neighbours, empty histories do not."""
    events = [9, 8, 7, 6, 5, 4, 3, 2]
    with torch.inference_mode():
        long, short = model.user_vectors(histories(events, events[-seen:]))
        assert not torch.allclose(model.user_vectors(histories(events[-seen + 1 :])), short)
        torch.testing.assert_close(long, short)
        alone = model.user_vectors(histories([3, 1, 4]))[0]
        torch.testing.assert_close(model.user_vectors(histories([7, 8, 9, 2], [3, 1, 4], []))[1], alone)
        assert not torch.allclose(model.user_vectors(histories([1, 3, 4]))[0], alone)
        assert torch.equal(model.user_vectors(histories([], [])), torch.zeros(2, 16))


def check_loss_is_over_targets_alone(name: str, loss: str, **settings: object) -> None:
    """The training loss is the loss of the rows that have a target, from the states of all rows."""
    model = make(name, loss=loss, **settings)
    feed = model.feed()
    items, targets = torch.tensor([1, 30 if feed.masking else 2, 3, 4, 5]), torch.tensor([-1, 2, -1, 7, 5])
    negatives = None
    if feed.negatives:
        negatives = torch.arange(10, 14) if feed.shared else torch.arange(10, 30).view(5, 4)
    batch = SequenceBatch(torch.tensor([0, 1]), items, targets, torch.tensor([0, 3, 5]), negatives=negatives)
    kept = targets >= 0
    rows = negatives if negatives is None or feed.shared else negatives[kept]
    given = LossInput(
        model.encoder.states(items, batch.offsets)[kept],
        model.item_vectors(),
        targets[kept],
        rows,
        bias=model.item_bias(),
    )
    torch.testing.assert_close(
        model.training_loss(batch, StepContext()), model.loss(given, StepContext()), rtol=1e-5, atol=1e-6
    )


def check_full_softmax_is_its_definition(name: str, **settings: object) -> None:
    """-log softmax over the catalogue, averaged over the hidden events of a batch."""
    model = make(name, **settings).double()
    items, targets = torch.tensor([1, ITEMS, 3, 4, ITEMS]), torch.tensor([-1, 2, -1, -1, 5])
    batch = SequenceBatch(torch.tensor([0, 1]), items, targets, torch.tensor([0, 3, 5]))
    states = model.encoder.states(items, batch.offsets)
    logits = states @ model.item_vectors().T
    if model.item_bias() is not None:
        logits = logits + model.item_bias()
    wanted = torch.nn.functional.cross_entropy(logits, targets, ignore_index=-1)
    torch.testing.assert_close(model.training_loss(batch, StepContext()), wanted)


def check_answer_is_the_state_of_a_hidden_event(model: Any) -> None:
    """A user vector is the state at a hidden event behind the history."""
    with torch.inference_mode():
        found = model.user_vectors(histories([1, 2, 3], [4, 5]))
        states = model.encoder.states(torch.tensor([1, 2, 3, ITEMS, 4, 5, ITEMS]), torch.tensor([0, 4, 7]))
    torch.testing.assert_close(found, states[[3, 6]])
