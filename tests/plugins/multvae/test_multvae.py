from __future__ import annotations

import math

import torch

from recengine.contracts.batch import HistoryBatch, SequenceBatch, StepContext
from recengine.contracts.model import DataFacts
from recengine.hooks import host


def model(**settings: object) -> torch.nn.Module:
    entry = host().registries["model"].get("multvae")
    torch.manual_seed(0)
    config = entry.load_config().parse({"hidden": 16, "latent": 8, **settings})
    return entry.load()(config, DataFacts(5, 12))


def batch() -> SequenceBatch:
    return SequenceBatch(
        torch.tensor([0, 1]), torch.tensor([1, 2, 7]), torch.tensor([2, 3, 7]), torch.tensor([0, 2, 3])
    )


def test_the_loss_is_the_multinomial_likelihood_of_the_whole_set() -> None:
    made = model(beta=0.0, dropout=0.0).eval()
    with torch.no_grad():  # no spread: the latent vector is the mean
        made.encode.weight[8:].zero_()
        made.encode.bias[8:].fill_(-200.0)
        found = float(made.training_loss(batch(), StepContext()))
        sets = HistoryBatch(torch.tensor([0, 1]), torch.tensor([1, 2, 3, 7]), torch.tensor([0, 3, 4]))
        log_p = torch.log_softmax(made.score_items(sets), dim=1)
    wanted = -(log_p[0, [1, 2, 3]].mean() + log_p[1, 7]) / 2
    assert abs(found - float(wanted)) < 1e-5


def test_the_prior_is_annealed() -> None:
    made = model(beta=1.0, dropout=0.0, anneal=0.5).train()
    values = []
    for epoch in (0, 1, 2, 4):
        torch.manual_seed(1)
        values.append(float(made.training_loss(batch(), StepContext(epoch, 0, 4, 1)).detach()))
    assert values[0] < values[1] < values[2]
    assert values[2] == values[3]
    assert math.isfinite(values[3])


def test_repeats_count_once_and_the_order_does_not_matter() -> None:
    made = model().eval()
    one = HistoryBatch(torch.tensor([-1]), torch.tensor([4, 9]), torch.tensor([0, 2]))
    other = HistoryBatch(torch.tensor([-1]), torch.tensor([9, 4, 9]), torch.tensor([0, 3]))
    with torch.no_grad():
        torch.testing.assert_close(made.score_items(one), made.score_items(other))
