"""The conditions that the settings of the box declare: where one does not hold, its setting does nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import recengine
from recengine.config import SearchRange, check_value
from recengine.hooks import host
from recengine.testing import planted, planted_clicks
from recengine.training.config import ClickTrainerConfig, TrainerConfig

CAUSAL = {"hidden_dim": 8, "n_blocks": 1, "max_length": 8, "direction": "causal"}
HIDDEN = [
    (name, {"model": {**CAUSAL, "objective": objective}}, f"model.{share}", 0.5, objective == "masked")
    for name in ("linrec", "cotten4rec")
    for objective in ("masked", "next")
    for share in ("mask_share", "last_share")
]
BSL = [
    ("mf", {"loss": {"name": "bsl", "form": form}}, f"loss.{key}", 1.4, (form == "ratio") is (key[0] == "p"))
    for form in ("ratio", "grouped")
    for key in ("positive_temperature", "negative_weight")
]
TABLES = [
    ("fm", {"training": {"table_optimizer": rule}}, "training.table_learning_rate", 0.2, rule != "same")
    for rule in ("same", "rowwise_adagrad", "sparse_adam")
]


def declared() -> dict[str, tuple[Any, SearchRange]]:
    """The settings of the box that have a condition: their config class and search range."""
    configs = {"training": TrainerConfig, "training of clicks": ClickTrainerConfig}
    for kind in ("model", "loss"):
        for entry in host().registries[kind]:
            if (config := entry.load_config()) is not None:
                configs[f"{kind} {entry.name}"] = config
    return {
        f"{name}: {key}": (config, search)
        for name, config in configs.items()
        for key, search in config.search_space().items()
        if search.when
    }


def test_the_conditions_of_the_box() -> None:
    found = declared()
    assert set(found) == {
        "loss bsl: negative_weight",
        "loss bsl: positive_temperature",
        "model cotten4rec: last_share",
        "model cotten4rec: mask_share",
        "model linrec: last_share",
        "model linrec: mask_share",
        "training of clicks: table_learning_rate",
    }  # each is tried below
    for config, search in found.values():
        for other, values in search.when:
            assert [check_value(config, other, value, where=other) for value in values] == list(values)


@pytest.mark.parametrize(("model", "settings", "name", "value", "matters"), [*HIDDEN, *BSL, *TABLES])
def test_a_setting_matters_where_its_condition_holds(
    model: str, settings: dict[str, Any], name: str, value: float, matters: bool
) -> None:
    section, _, key = name.partition(".")
    given = {**settings, "training": {"epochs": 1, "device": "cpu", **settings.get("training", {})}}
    other = {**given, section: {**given.get(section, {}), key: value}}
    data = planted_clicks(400) if model == "fm" else planted().split
    first, second = (
        recengine.fit(model, data, settings=chosen).model.state_dict() for chosen in (given, other)
    )
    assert all(torch.equal(first[part], second[part]) for part in first) is not matters
