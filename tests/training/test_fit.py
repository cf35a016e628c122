"""Five calls: interactions, fit, evaluate, recommend, save and load."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from recengine import fit, load, recommend
from recengine.data import Interactions
from recengine.errors import ConfigError, DataError, UsageError

SMALL = {
    "model": {"hidden_dim": 16, "n_blocks": 1, "max_length": 10, "dropout": 0.0},
    "training": {"epochs": 15, "batch_size": 16, "learning_rate": 1e-2, "device": "cpu"},
    "split": {"strategy": "leave_two_out"},
}


def test_learns_the_ring_and_survives_a_round_trip(ring: Interactions, tmp_path: Path) -> None:
    run = fit("sasrec", ring, settings=SMALL, seed=1, directory=tmp_path / "run")
    assert run.history[-1]["loss"] < 0.6 * run.history[0]["loss"]
    assert run.history[-1]["ndcg@10"] > 0.5
    again = load(tmp_path / "run")
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name])
    users = list(ring.users.tokens[:5])
    ours, theirs = recommend(run, users, 3), again.recommend(users, 3)
    assert ours.equals(theirs)
    assert ours["rank"].to_list() == [1, 2, 3] * 5
    assert again.config.model_dump() == run.config.model_dump()
    assert again.history == run.history
    assert np.array_equal(again.split.test.targets, run.split.test.targets)


def test_a_new_user_is_answered_from_the_history(ring: Interactions) -> None:
    run = fit("sasrec", ring, settings=SMALL)
    got = recommend(run, {"somebody": [105, 106, 107, 108], "nobody": []}, 2)
    assert got.filter(got["user"] == "somebody")["item"][0] == 109
    assert got.filter(got["user"] == "nobody").height == 2
    seen = recommend(run, {"x": [105, 106, 107, 108]}, ring.n_items)
    assert not set(seen["item"]) & {105, 106, 107, 108}


def test_mistakes_are_named(ring: Interactions, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'sasrec'"):
        fit("sasrek", ring)
    with pytest.raises(ConfigError, match=r"did you mean 'model\.hidden_dim'"):
        fit("sasrec", ring, settings={"hidden_dim": 8})
    with pytest.raises(ConfigError, match=r"did you mean 'training\.epochs'"):
        fit("sasrec", ring, settings={"training": {"epocs": 3}})
    with pytest.raises(UsageError, match="there is no loss"):
        fit("sasrec", ring, settings={"loss": {"name": "sofmax"}})
    with pytest.raises(ConfigError, match="not measured"):
        fit("sasrec", ring, settings={**SMALL, "training": {"monitor": "luck@10"}})
    run = fit("sasrec", ring, settings={**SMALL, "training": {"epochs": 1}}, directory=tmp_path)
    with pytest.raises(UsageError, match="already holds a run"):
        fit("sasrec", ring, settings=SMALL, directory=tmp_path)
    with pytest.raises(DataError, match="does not know"):
        recommend(run, [-5], 3)
    with pytest.raises(UsageError, match="at least 1"):
        recommend(run, [0], 0)


@pytest.mark.parametrize("name", ["softmax", "sampled_softmax", "gbce", "bce", "bpr"])
def test_every_loss_learns(ring: Interactions, name: str) -> None:
    loss = {"name": name} if name == "softmax" else {"name": name, "negatives": 8, "shared": False}
    if name == "gbce":
        loss["calibration"] = 0.2  # a full calibration leaves its first plateau only after a hundred epochs
    training = {**SMALL["training"], "epochs": 40, "patience": 0}
    run = fit("sasrec", ring, settings={**SMALL, "training": training, "loss": loss}, seed=2)
    assert max(entry["ndcg@10"] for entry in run.history) > 0.4
