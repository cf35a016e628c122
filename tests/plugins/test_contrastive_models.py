"""What holds for SimGCL and XSimGCL alike; what their configs refuse is beside it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import recengine
from recengine.contracts.batch import PairBatch, StepContext
from recengine.errors import ConfigError
from recengine.nn.graph import noisy
from recengine.testing.worlds import planted


@pytest.fixture(params=["simgcl", "xsimgcl"])
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def fit(model: str, **settings: Any) -> Any:
    return recengine.fit(model, planted().split, settings={"training.epochs": 1, **settings})


def test_answers_are_the_mean_of_the_layers_after_the_first_without_noise(model: str) -> None:
    run = fit(model, **{"model.layers": 2})
    dense, nodes = run.model.graph().dense(), run.model.nodes().detach()
    wanted = (dense @ nodes + dense @ dense @ nodes) / 2
    users, items = run.model.tables()
    torch.testing.assert_close(torch.cat([users, items]), wanted, rtol=1e-4, atol=1e-6)


def test_noise_has_its_length_and_keeps_signs() -> None:
    nodes = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    moved = noisy(nodes, 0.1)
    torch.testing.assert_close((moved - nodes).norm(dim=1), torch.full((20,), 0.1))
    assert bool((moved.sign() == nodes.sign()).all())
    assert torch.equal(noisy(torch.zeros(2, 4), 0.1), torch.zeros(2, 4))


def test_the_contrast_is_added_to_the_ranking_loss(model: str) -> None:
    network = fit(model).model.train()
    batch = PairBatch(torch.tensor([0, 1, 2]), torch.tensor([0, 1, 2]), torch.tensor([[3], [4], [5]]))
    losses = []
    for weight in (0.0, 0.5, 1.0):
        network.config = network.config.model_copy(update={"contrast": weight})
        torch.manual_seed(0)
        losses.append(float(network.training_loss(batch, StepContext()).detach()))
    assert losses[0] < losses[1] < losses[2]
    assert losses[2] - losses[1] == pytest.approx(losses[1] - losses[0], rel=1e-4)


@pytest.mark.parametrize("loss", ["sl", "psl", "dsl_r"])
def test_other_losses_train_it(model: str, loss: str) -> None:
    run = fit(model, loss={"name": loss, "negatives": 8})
    assert torch.isfinite(run.model.item_vectors()).all()


def test_no_layer_is_refused() -> None:
    with pytest.raises(ConfigError, match="layers"):
        fit("simgcl", **{"model.layers": 0})


def test_a_layer_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="beyond the 2 layers"):
        fit("xsimgcl", **{"model.layers": 2, "model.contrast_layer": 3})
