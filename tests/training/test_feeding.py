"""Batches of a Feed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from walking import walks

import recengine
from recengine.contracts.batch import PairBatch, SequenceBatch
from recengine.contracts.model import Feed
from recengine.data import Interactions
from recengine.errors import ConfigError, DataError, UsageError
from recengine.hooks import host
from recengine.training.config import resolve
from recengine.training.feeding import make_feeder
from recengine.training.negatives import Mixed
from recengine.training.splitting import prepared, with_negatives_that_exist


def test_sequences_are_the_recent_past_with_the_item_after_each_event() -> None:
    train = walks(20, 15, 9)
    source = make_feeder(train, Feed("sequences", max_length=5), 8, 0, host())
    batches = list(source.epoch(0))
    assert len(batches) == source.steps_per_epoch == 3
    users = torch.cat([batch.users for batch in batches])
    assert sorted(users.tolist()) == list(range(20))
    for batch in batches:
        assert isinstance(batch, SequenceBatch)
        for row, user in enumerate(batch.users.tolist()):
            a, b = batch.offsets[row : row + 2].tolist()
            events = train.item[train.indptr[user] : train.indptr[user + 1]]
            assert batch.items[a:b].tolist() == events[-6:-1].tolist()
            assert batch.targets[a:b].tolist() == events[-5:].tolist()


def test_an_epoch_is_a_function_of_seed_and_epoch() -> None:
    train = walks(20, 15, 9)

    def items(seed: int, epoch: int) -> list[int]:
        feed = Feed("sequences", max_length=5, negatives=3, sampler="popularity")
        batches = make_feeder(train, feed, 8, seed, host()).epoch(epoch)
        return torch.cat([torch.cat([b.items, b.negatives.flatten()]) for b in batches]).tolist()

    assert items(1, 2) == items(1, 2)
    assert items(1, 2) != items(1, 3)
    assert items(1, 2) != items(2, 2)


def test_pairs_cover_every_event_once() -> None:
    train = walks(20, 15, 9)
    batches = list(make_feeder(train, Feed("pairs", negatives=2, shared=True), 50, 0, host()).epoch(0))
    assert all(isinstance(batch, PairBatch) and batch.negatives.shape == (2,) for batch in batches)
    pairs = sorted(
        zip(torch.cat([b.users for b in batches]), torch.cat([b.items for b in batches]), strict=True)
    )
    assert pairs == sorted(zip(train.user.tolist(), train.item.tolist(), strict=True))


def test_ties_are_reshuffled_on_request() -> None:
    events = walks(30, 40, 9)
    tied = Interactions.from_arrays(events.user, events.item, np.zeros(len(events), np.int64))

    def epochs(train: Interactions, reshuffle: bool) -> list[list[int]]:
        source = make_feeder(train, Feed("sequences"), 64, 0, host(), reshuffle=reshuffle)
        found = []
        for epoch in range(2):
            (batch,) = source.epoch(epoch)
            by_user = {
                user: batch.items[batch.offsets[i] : batch.offsets[i + 1]].tolist()
                for i, user in enumerate(batch.users.tolist())
            }
            found.append([item for user in sorted(by_user) for item in by_user[user]])
        return found

    first, second = epochs(tied, True)
    assert first != second
    first, second = epochs(tied, False)
    assert first == second
    first, second = epochs(events, True)  # every event has a time of its own
    assert first == second


def test_nothing_to_learn_from_and_wrong_feeds_are_named() -> None:
    train = walks(4, 15, 9)
    single = replace(train, item=train.item).select(train.time == 0)
    with pytest.raises(DataError, match="a user with two events"):
        make_feeder(single, Feed("sequences"), 8, 0, host())
    with pytest.raises(UsageError, match="no such batches"):
        make_feeder(train, Feed("features"), 8, 0, host())
    with pytest.raises(UsageError, match="there is no sampler"):
        make_feeder(train, Feed("pairs", negatives=1, sampler="popularty"), 8, 0, host())


@pytest.mark.parametrize("sampler", ["uniform", "popularity", "mixed"])
def test_negatives_were_not_met_and_carry_their_probability(sampler: str) -> None:
    train = walks(20, 40, 9)
    feed = Feed("pairs", negatives=6, sampler=sampler, power=0.5)
    popularity = train.popularity().astype(float) ** 0.5
    share = popularity / popularity.sum()
    wanted = {"popularity": share, "mixed": 0.5 * share + 0.5 / train.n_items}.get(sampler)
    for batch in make_feeder(train, feed, 50, 0, host()).epoch(0):
        for user, negatives in zip(batch.users.tolist(), batch.negatives, strict=True):
            own = train.item[train.indptr[user] : train.indptr[user + 1]]
            assert not set(negatives.tolist()) & set(own.tolist())
        if wanted is None:
            assert batch.log_q is None
        else:
            np.testing.assert_allclose(batch.log_q.exp(), wanted[batch.negatives], rtol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("shared", [False, True])
def test_mixed_draws_are_as_likely_as_they_say_whatever_their_number(count: int, shared: bool) -> None:
    users, items = np.arange(400), np.where(np.arange(400) < 380, 0, np.arange(400) % 10)
    train = Interactions.from_arrays(users, items)
    sampler, generator = Mixed(train), np.random.default_rng(4)
    nobody = np.full(20_000, 399)  # met an item of the tail alone
    counts, stated = np.zeros((count, train.n_items)), np.zeros(train.n_items)
    for _ in range(1 if not shared else 20_000):
        drawn, log_q = (
            sampler.sample_shared(count, generator) if shared else sampler.sample(nobody, count, generator)
        )
        stated[drawn.ravel()] = np.exp(log_q.ravel())
        for slot, one in enumerate(drawn.reshape(-1, count).T):
            counts[slot] += np.bincount(one, minlength=train.n_items)
    if not shared:  # q is that of the proposal, before the row's own items are rejected
        stated[train.item[train.indptr[399] : train.indptr[400]]] = 0.0
        stated /= stated.sum()
    assert 0.4 < stated.max() < 0.6
    np.testing.assert_allclose(counts / 20_000, np.tile(stated, (count, 1)), atol=0.015)


def test_in_batch_negatives_are_the_other_targets() -> None:
    train = walks(20, 15, 9)
    for batch in make_feeder(train, Feed("pairs", negatives=1, sampler="in_batch"), 50, 0, host()).epoch(0):
        assert torch.equal(batch.negatives, batch.items)
        share = train.popularity() / len(train)
        np.testing.assert_allclose(batch.log_q.exp(), share[batch.items], rtol=1e-5)


@pytest.mark.parametrize("shared", [False, True])
def test_more_negatives_than_items_are_refused_by_name(shared: bool) -> None:
    train = walks(20, 15, 9)
    with pytest.raises(ConfigError, match=r"loss.negatives[\s\S]*at most 15[\s\S]*to 15 or less"):
        make_feeder(train, Feed("pairs", negatives=16, shared=shared), 50, 0, host())
    make_feeder(train, Feed("pairs", negatives=15, shared=shared), 50, 0, host())


def test_a_user_who_met_every_item_is_named_when_negatives_are_drawn() -> None:
    users = np.repeat(["ann", "bob"], [3, 1])
    train = Interactions.from_arrays(users, np.array([0, 1, 2, 0]), np.arange(4))
    feeder = make_feeder(train, Feed("pairs", negatives=1), 8, 0, host())
    with pytest.raises(UsageError, match=r"met every item[\s\S]*user ann with all 3[\s\S]*in_batch"):
        list(feeder.epoch(0))


def test_a_user_who_met_every_popular_item_is_named_not_given_one_that_is_never_drawn() -> None:
    """Items of the test part alone have no training event, so that log q of them is minus infinity."""
    users, items = [0] * 5 + [1] * 7, [0, 1, 2, 3, 4, 0, 1, 5, 6, 7, 8, 9]
    data = Interactions.from_arrays(users, items, part=np.array([0] * 7 + [2] * 5, np.int8))
    loss = {"name": "ssm", "negatives": 4, "sampler": "popularity", "shared": False}
    settings = {"split": {"strategy": "given"}, "training.epochs": 1, "loss": loss}
    with pytest.raises(UsageError, match=r"every item that this sampler draws[\s\S]*user 0 with 5 of 10"):
        recengine.fit("mf", data, settings=settings)
    items[6], items[7] = 5, 1  # user 1 was trained on an item that user 0 was not
    less = Interactions.from_arrays(users, items, part=np.array([0] * 7 + [2] * 5, np.int8))
    run = recengine.fit("mf", less, settings=settings)
    assert np.isfinite(run.history[-1]["loss"])


def test_the_default_number_of_negatives_gives_way_to_a_small_catalogue() -> None:
    config = resolve("mf", {}, host())
    assert config.loss is not None
    few = with_negatives_that_exist(config, 50)
    assert few.loss is not None
    assert few.loss.negatives == 50  # type: ignore[attr-defined]
    assert with_negatives_that_exist(config, 100_000) is config
    batch = resolve("mf", {"loss": {"sampler": "in_batch"}}, host())
    assert with_negatives_that_exist(batch, 50) is batch
    asked = resolve("mf", {"loss": {"negatives": 512}}, host())
    assert with_negatives_that_exist(asked, 50) is asked  # a number that was set is refused, not changed


@pytest.mark.parametrize("name", ["sl", "bpr", "dsl_r"])
def test_users_for_whom_rejection_leaves_nothing_are_told(name: str) -> None:
    users, items = ["ann"] * 4 + ["bob"] * 3, [0, 1, 2, 3, 1, 2, 3]
    data = Interactions.from_arrays(users, items, part=np.array([0] * 6 + [2], np.int8))

    def told(**loss: Any) -> list[str]:
        asked = {"loss": {"name": name, "negatives": 2, **loss}, "split": {"strategy": "given"}}
        findings = prepared(data, resolve("mf", asked, host()), clicks=False).findings
        return [f.message for f in findings if (f.check, f.severity) == ("negatives", "warn")]

    [message] = told(shared=True, reject=True)
    assert "1 of 2 users (the first: ann) met all 4 items" in message
    assert told(shared=True) == []


@pytest.mark.parametrize(
    ("name", "short", "long", "settings"),
    [
        ("dsl_r", 5, 6, {}),
        ("dsl_r", 2, 3, {"warmup": 2}),
        ("sl_at_k", 20, 21, {}),
        ("sogsl_at_k", 5, 6, {"refresh": 5}),
        ("advinfonce", 4, 5, {}),
    ],
)
def test_a_fit_too_short_for_a_part_of_its_loss_says_so(
    name: str, short: int, long: int, settings: dict[str, Any]
) -> None:
    def warned(epochs: int, **more: Any) -> list[str]:
        asked = {"loss": {"name": name, "negatives": 4, **settings, **more}, "training.epochs": epochs}
        findings = prepared(walks(20, 15, 9), resolve("mf", asked, host()), clicks=False).findings
        return [f.message for f in findings if (f.check, f.severity) == ("loss", "warn")]

    [message] = warned(short)
    assert f"of a fit of {short}" in message
    assert "training.epochs" in message
    assert warned(long) == []
    if name == "dsl_r":
        assert warned(short, kappa=0.0, gamma=0.0) == []
