"""A model with its loss: what the loss needs must be there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from recengine.contracts.loss import LossConfig
from recengine.contracts.model import DataFacts, Feed
from recengine.errors import PluginError, UsageError
from recengine.hooks import host
from recengine.nn.pairs import PairModel
from recengine.training.build import build_model
from recengine.training.config import resolve


class Bare(PairModel):
    """Gives a loss sampled items and nothing else."""

    supplies = frozenset({"negatives", "catalogue", "item_similarity"})

    def __init__(self, config: Any, facts: DataFacts) -> None:
        super().__init__(facts.n_users, facts.n_items, 4, 0.1)


class Undeclared(Bare):
    """Does not say what it supplies, and asks for no negatives."""

    @property
    def supplies(self) -> frozenset[Any]:  # type: ignore[override]
        raise AttributeError

    def feed(self) -> Feed:
        return Feed("pairs")


class Vague:
    """A loss that does not say what it needs."""

    needs = ("negatives",)

    def __init__(self, config: LossConfig) -> None: ...


@pytest.fixture
def bare() -> Iterator[None]:
    models, losses = host().registries["model"], host().registries["loss"]
    with models.registering("bare"), losses.registering("bare"):
        models.add("bare", Bare, summary="a model", default_loss="sl")
        models.add("undeclared", Undeclared, summary="a model", default_loss="sl")
        losses.add("vague", Vague, config=LossConfig, summary="a loss")
    yield
    models.forget("bare")
    losses.forget("bare")


def build(model: str, **loss: Any) -> Any:
    return build_model(model, resolve(model, {"loss": loss}, host()), DataFacts(5, 6), 0, host())


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize(
    ("loss", "missing"),
    [
        ({"name": "adap_tau"}, "no popularity and no row_ids"),
        ({"name": "sl_at_k"}, "no row_ids and no user_items"),
        ({"name": "bsl", "form": "grouped"}, "no row_ids and no user_groups"),
        ({"name": "dsl_r", "shared": True, "reject": True}, "no row_ids and no user_items"),
    ],
)
def test_a_loss_that_needs_more_than_the_model_supplies_is_refused_by_name(
    loss: dict[str, Any], missing: str
) -> None:
    with pytest.raises(UsageError, match=rf"loss '{loss['name']}'[\s\S]*model 'bare'[\s\S]*{missing}"):
        build("bare", **loss)
    build("bare", name="dsl_r")
    build("mf", **loss)


@pytest.mark.usefixtures("bare")
def test_a_feed_without_negatives_does_not_do_for_a_loss_that_needs_them() -> None:
    with pytest.raises(UsageError, match=r"loss 'bpr'[\s\S]*model 'undeclared'[\s\S]*no negatives"):
        build("undeclared", name="bpr")
    build("undeclared", name="directau")  # what else it supplies it does not say


@pytest.mark.usefixtures("bare")
def test_a_loss_that_does_not_declare_its_needs_breaks_its_contract() -> None:
    with pytest.raises(PluginError, match=r"Vague.needs[\s\S]*frozenset of catalogue"):
        build("mf", name="vague")
