"""Two stages on a world whose truth is known: the ranker sees what the retriever cannot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

import recengine
from recengine.contracts.model import Generates
from recengine.errors import DataError, UsageError
from recengine.evaluation import evaluate
from recengine.serving import PairFeatures, SecondStage, Stages, candidates_log, measure_stages, second_stage
from recengine.testing import World, planted
from recengine.training import Run

TRAINING = {"epochs": 8, "batch_size": 256, "learning_rate": 0.02, "patience": 0, "device": "cpu"}


@pytest.fixture(scope="module")
def world() -> World:
    return planted(events=8, items_per_group=16, users_per_group=120)


@pytest.fixture(scope="module")
def retriever(world: World) -> Run:
    """Popularity: it knows nothing of the groups."""
    return recengine.fit("popularity", world.split)


def features_of(world: World, **changed: Any) -> PairFeatures:
    train = world.split.train
    users = pl.DataFrame({"user": train.users.tokens, "taste": [f"g{g}" for g in world.group_of_user]})
    items = pl.DataFrame({"item": train.items.tokens, "kind": [f"k{g}" for g in world.group_of_item]})
    return PairFeatures.of(train.users, train.items, **{"user_table": users, "item_table": items, **changed})


@pytest.fixture(scope="module")
def stages(world: World, retriever: Run) -> SecondStage:
    settings = {"model": {"embedding_dim": 8}, "training": TRAINING}
    return second_stage(retriever, "fm", features_of(world), top=64, settings=settings)


@pytest.fixture(scope="module")
def measured(stages: SecondStage) -> Stages:
    return measure_stages(stages, k=9)


def test_the_second_stage_finds_what_the_first_cannot_see(world: World, measured: Stages) -> None:
    before, after = measured.first["recall@9"], measured.second["recall@9"]
    assert before < 2.5 * world.k / 57, "the retriever must not know the groups"
    assert after > 0.8, "all but a few candidates of the own group are ranked first"


def test_the_shares_add_up_for_every_user(measured: Stages) -> None:
    s = measured.shares
    np.testing.assert_allclose(s["kept"] + s["lost"], s["before"])
    np.testing.assert_allclose(s["kept"] + s["gained"], s["after"])
    assert (s["after"] <= s["found"]).all()
    assert (s["before"] <= s["found"]).all()
    np.testing.assert_allclose(s["before"].mean(), measured.first["recall@9"])
    np.testing.assert_allclose(s["after"].mean(), measured.second["recall@9"])
    assert [one.metric for one in measured.summary()] == list(s)


def test_what_is_shown_was_retrieved_and_is_in_the_order_of_the_ranker(stages: SecondStage) -> None:
    users = np.arange(5)
    items = np.array([[3, 1, 7, -1], [0, 2, 4, 6], [9, 8, -1, -1], [-1, -1, -1, -1], [5, 5, 5, 5]])
    ids, scores = stages.order(users, items)
    for row in range(5):
        kept = items[row][items[row] >= 0]
        assert (ids[row, kept.size :] == -1).all()
        if not kept.size:
            continue
        pairs = stages.features.pairs(np.full(kept.size, row), kept)
        asked = stages.ranker.predict(
            pairs.with_columns(pl.Series("recengine.place", np.arange(1.0, kept.size + 1)))
        )
        by = np.argsort(-asked, kind="stable")
        np.testing.assert_array_equal(ids[row, : kept.size], kept[by])
        np.testing.assert_allclose(scores[row, : kept.size], asked[by])


def test_it_is_a_model_that_generates(world: World, stages: SecondStage, measured: Stages) -> None:
    assert isinstance(stages, Generates)
    again = evaluate(stages, world.split.test, metrics=["recall"], cutoffs=(9,))
    assert again["recall@9"] == pytest.approx(measured.second["recall@9"])
    seen = stages.recommend([3, 4], k=5)
    assert seen.columns == ["user", "rank", "item", "score"]
    assert seen["user"].to_list() == [3] * 5 + [4] * 5
    assert seen["score"].is_between(0, 1).all()
    met = set(world.split.test.history.history(np.array([3])).items.tolist())
    assert not met & set(seen.filter(pl.col("user") == 3)["item"].to_list())


def test_a_reader_of_rows_may_be_a_saved_run(
    world: World, retriever: Run, stages: SecondStage, measured: Stages, tmp_path: Path
) -> None:
    stages.ranker.save(tmp_path / "ranker")
    again = SecondStage(retriever, recengine.load(tmp_path / "ranker"), features_of(world), top=64)
    assert measure_stages(again, k=9).second["ndcg@9"] == measured.second["ndcg@9"]


def test_the_log_holds_what_was_retrieved_and_says_what_was_taken(world: World, retriever: Run) -> None:
    task = world.split.validation
    assert task is not None
    log = candidates_log(retriever, features_of(world), top=40, seed=1)
    frame = log.frames[0]
    target = dict(zip(task.users.tolist(), task.targets.tolist(), strict=True))
    for user, item, label in frame.select("user", "item", log.config.label).iter_rows():
        assert (target[user] == item) == bool(label)
    by_user = frame.group_by("user").agg(pl.col("recengine.place"), pl.col(log.config.label).sum())
    assert (by_user[log.config.label] == 1).all(), "users whose target was not found teach nothing"
    assert 0 < by_user.height < len(task)
    for places in by_user["recengine.place"].to_list():
        assert sorted(places) == list(range(1, 41))
    seen = task.history.history(np.array([by_user["user"][0]])).items.tolist()
    assert not set(seen) & set(frame.filter(pl.col("user") == by_user["user"][0])["item"].to_list())
    again = [candidates_log(retriever, features_of(world), top=40, seed=seed).frames[0] for seed in (1, 2)]
    assert frame.equals(again[0])
    assert not frame.equals(again[1])


def test_a_split_without_validation_is_told(world: World, retriever: Run) -> None:
    alone = replace(retriever, split=replace(world.split, validation=None))
    with pytest.raises(UsageError, match="learns from a validation task"):
        candidates_log(alone, features_of(world))


def test_missing_features_are_told_by_name(world: World, stages: SecondStage, retriever: Run) -> None:
    train = world.split.train
    items = pl.DataFrame({"item": train.items.tokens[1:], "kind": ["k"] * (len(train.items) - 1)})
    with pytest.raises(DataError, match="have no features") as told:
        features_of(world, item_table=items)
    assert str(train.items.tokens[0]) in str(told.value)
    with pytest.raises(DataError, match="in no table") as told:
        SecondStage(retriever, stages.ranker, features_of(world, item_table=None))
    assert told.value.expected == "kind"
    users = pl.DataFrame({"user": train.users.tokens[1:], "taste": ["g1"] * (len(train.users) - 1)})
    some = SecondStage(retriever, stages.ranker, features_of(world, user_table=users))
    assert some.recommend([train.users.tokens[1]], k=2).height == 2
    with pytest.raises(DataError, match="a user has no features"):
        some.recommend([train.users.tokens[0]], k=2)
    doubled = pl.concat([items, items[:1]])
    with pytest.raises(DataError, match="two rows"):
        features_of(world, item_table=doubled)
    with pytest.raises(DataError, match="two places"):
        features_of(world, context={"kind": "k1"})
    with pytest.raises(DataError, match="no column 'item'"):
        features_of(world, item_table=items.rename({"item": "film"}))


def test_stages_take_their_own_kind_of_model(world: World, retriever: Run, stages: SecondStage) -> None:
    with pytest.raises(UsageError, match="predicts no clicks"):
        SecondStage(retriever, retriever, stages.features)
    with pytest.raises(UsageError, match="retrieves nothing"):
        SecondStage(stages.ranker, stages.ranker, stages.features)
    for top in (0, 2.5):
        with pytest.raises(UsageError, match="top: not the length of a list"):
            SecondStage(retriever, stages.ranker, stages.features, top=top)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="top: not the length of a list"):
            candidates_log(retriever, stages.features, top=top)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="one id in place of several"):
        stages.recommend("u3")
    with pytest.raises(UsageError, match="no longer than what was retrieved"):
        measure_stages(stages, k=65)
    with pytest.raises(UsageError, match="no such task"):
        measure_stages(stages, "training")


def test_a_ranker_is_not_measured_on_what_it_learned_from(
    world: World, retriever: Run, stages: SecondStage, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="learns from the validation users"):
        measure_stages(stages, "validation", k=9)
    stages.ranker.save(tmp_path / "ranker")
    again = SecondStage(retriever, recengine.load(tmp_path / "ranker"), stages.features, top=64)
    with pytest.raises(UsageError, match="learns from the validation users"):
        measure_stages(again, "validation", k=9)
    task = world.split.validation
    assert task is not None
    pairs = stages.features.pairs(task.users, task.targets)
    clicked = pairs.with_columns(label=pl.Series(world.group_of_item[task.targets] == 0).cast(pl.Int8))
    log = recengine.data.clicks.ClickLog.from_frame(clicked)
    elsewhere = recengine.fit("lr", log, settings={"training": {"epochs": 1, "device": "cpu"}})
    assert measure_stages(SecondStage(retriever, elsewhere, stages.features), "validation", k=9).k == 9


def test_people_who_are_new_are_told(stages: SecondStage) -> None:
    from recengine.contracts.batch import HistoryBatch

    stranger = HistoryBatch(torch.tensor([-1]), torch.tensor([1, 2]), torch.tensor([0, 2]))
    with pytest.raises(DataError, match="a user has no features"):
        stages.generate(stranger, 3)


def test_a_context_is_a_feature_of_every_pair(world: World) -> None:
    made = features_of(world, context={"hour": "noon"}).pairs(np.array([0, 1]), np.array([2, 3]))
    assert made.columns == ["user", "taste", "item", "kind", "hour"]
    assert made["hour"].to_list() == ["noon", "noon"]
