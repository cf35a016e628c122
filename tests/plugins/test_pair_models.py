"""What holds for every model of user-item pairs that takes any loss: MF and LightGCN."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import recengine
from recengine.data import Interactions
from recengine.errors import ConfigError, RecengineError, UsageError
from recengine.testing.worlds import planted

LOSSES = [
    "sl",
    "ssm",
    "bsl",
    "psl",
    "advinfonce",
    "adap_tau",
    "ccl",
    "drrl",
    "sogclr",
    "sl_at_k",
    "sogsl_at_k",
]
LOSSES += ["dsl_r", "directau", "softmax", "sampled_softmax", "gbce", "bce", "bpr", "mse", "simce", "llpauc"]
LOSSES += ["lambdaloss"]
WITHOUT = {"directau", "softmax"}


@pytest.fixture(params=["mf", "lightgcn"])
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def fit(model: str, loss: dict[str, Any], epochs: int = 2, **training: Any) -> Any:
    settings = {
        "loss": loss,
        "training": {"epochs": epochs, "batch_size": 64, "learning_rate": 0.01, **training},
    }
    return recengine.fit(model, planted().split, settings=settings)


@pytest.mark.parametrize("loss", LOSSES)
def test_any_loss_trains_it(model: str, loss: str) -> None:
    run = fit(model, {"name": loss, **({} if loss in WITHOUT else {"negatives": 8})})
    assert all(np.isfinite(entry["loss"]) for entry in run.history)
    assert len(run.recommend([run.split.train.users.tokens[0]], k=3)) == 3


def test_norm_power_goes_from_the_cosine_to_the_dot_product(model: str) -> None:
    settings = {"loss": {"name": "sl", "negatives": 8}, "training": {"epochs": 1, "batch_size": 64}}
    split = planted().split
    items = recengine.fit(model, split, settings=settings).model.tables()[1]
    unit = torch.nn.functional.normalize(items, dim=1)
    lengths = items.norm(dim=1, keepdim=True)
    for power in (0.0, 0.5, 1.0):
        fitted = recengine.fit(model, split, settings={**settings, "model": {"norm_power": power}})
        torch.testing.assert_close(fitted.model.item_vectors(), (unit * lengths**power).detach())
    settings["loss"]["name"] = "bpr"
    with pytest.raises(ConfigError, match="dot product") as told:
        recengine.fit(model, split, settings={**settings, "model": {"norm_power": 0.5}})
    assert "model.norm_power" in str(told.value)


@pytest.mark.parametrize("sampler", ["uniform", "popularity", "mixed", "in_batch"])
def test_any_sampler_feeds_it(model: str, sampler: str) -> None:
    run = fit(model, {"name": "ssm", "negatives": 8, "sampler": sampler, "power": 0.75})
    assert run.history[-1]["loss"] < run.history[0]["loss"]


@pytest.mark.parametrize("loss", ["sl", "psl", "dsl_r", "advinfonce"])
@pytest.mark.parametrize("shared", [False, True])
def test_threads_do_not_change_a_bit(model: str, loss: str, shared: bool) -> None:
    before, found = torch.get_num_threads(), []
    section = {"name": loss, "negatives": 8, "shared": shared}
    section |= {"warmup": 0, "ramp": 0} if loss == "dsl_r" else {}
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(fit(model, section).model.item_vectors())
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


def test_state_of_the_loss_is_saved_with_the_run(model: str, tmp_path: Any) -> None:
    settings = {"loss": {"name": "sl_at_k", "negatives": 8, "refresh": 1}, "training": {"epochs": 2}}
    run = recengine.fit(model, planted().split, settings=settings, directory=tmp_path / "run")
    again = recengine.load(tmp_path / "run")
    assert torch.equal(run.model.loss.thresholds, again.model.loss.thresholds)
    assert bool((again.model.loss.thresholds != 0).any())
    assert torch.equal(run.model.item_vectors(), again.model.item_vectors())


def test_users_and_items_without_interactions_keep_finite_answers(model: str) -> None:
    split = planted().split
    few = split.train.select(np.arange(len(split.train)) < len(split.train) // 3)
    part = type(split)(few, split.validation, split.test, split.description)
    settings = {"loss": {"name": "ssm", "negatives": 4, "sampler": "popularity"}, "training": {"epochs": 1}}
    run = recengine.fit(model, part, settings=settings)
    assert int((few.popularity() == 0).sum()) + int((few.lengths() == 0).sum()) > 0
    assert torch.isfinite(run.model.item_vectors()).all()


def test_a_user_who_met_every_item_has_no_negative(model: str) -> None:
    users, items = np.array([0, 0, 0, 0, 1, 1, 2]), np.array([0, 1, 2, 3, 1, 2, 2])
    met = Interactions.from_arrays(users, items, part=np.array([0, 0, 0, 0, 0, 2, 0], np.int8))
    loss = {"name": "sl", "negatives": 2}
    settings: dict[str, Any] = {"split": {"strategy": "given"}, "training": {"epochs": 1}}
    with pytest.raises(UsageError, match=r"met every item[\s\S]*loss.shared"):
        recengine.fit(model, met, settings={**settings, "loss": loss})
    run = recengine.fit(model, met, settings={**settings, "loss": {**loss, "shared": True}})
    assert torch.isfinite(run.model.item_vectors()).all()


def test_a_step_that_is_too_long_names_the_learning_rate(model: str) -> None:
    with pytest.raises(RecengineError, match="learning_rate"):
        fit(model, {"name": "bpr", "negatives": 2}, learning_rate=1e38, optimizer="sgd")


def test_bad_input_names_the_setting(model: str) -> None:
    items = planted().split.train.n_items
    with pytest.raises(ConfigError, match=r"loss.negatives[\s\S]*at most"):
        fit(model, {"name": "sl", "negatives": items + 1})
    with pytest.raises(ConfigError, match="temperature"):
        fit(model, {"name": "sl", "temperature": 0.0})
    with pytest.raises(ConfigError, match="temperature"):
        fit(model, {"name": "psl", "temperature": -1.0})
