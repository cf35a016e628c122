"""Realistic interactions with a known truth: what a perfect recommender would reach is computed, not guessed.

A user belongs to a cluster and shops in baskets, one a day at most. Each event draws an item it has not
drawn before, with probability proportional to

    (1 - follow) * base[period, cluster, i]  +  follow * mean over j in the basket before of next[j, i],

where base is a power law times cluster taste times drift in time, and next[j] is spread over a few
successors of item j. Baskets are ties: one time stamp a day, rows of the file sorted by item id, as shops
write them. Nothing in the order inside a basket means anything. The last event of every user is a basket of
its own, so the truth about it depends on what everybody can see, and on the user's cluster.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from recengine.config import Config, knob
from recengine.data.interactions import Interactions
from recengine.data.vocabulary import Vocabulary

_PERIODS = 8
_ROUNDS = 24
_BLOCK = 256  # users whose distributions are worked on at once


class GeneratorConfig(Config):
    """Size and nature of the generated data."""

    n_users: int = knob(1000, "users", ge=1)
    n_items: int = knob(500, "items", ge=20)
    mean_length: float = knob(20.0, "mean number of events of a user", ge=3)
    popularity: float = knob(0.8, "exponent of the power law of item popularity (0: all alike)", ge=0)
    n_clusters: int = knob(8, "groups of users with a taste in common", ge=1)
    taste: float = knob(1.5, "how far tastes differ (standard deviation of log preference)", ge=0)
    drift: float = knob(0.5, "how far popularity moves over the whole time (log scale)", ge=0)
    follow: float = knob(0.6, "share of events that follow from the basket before", ge=0, le=1)
    successors: int = knob(4, "items that may follow an item", ge=1)
    basket: float = knob(2.0, "mean events of a basket, which share a day (1: no ties)", ge=1)
    days: int = knob(365, "length of the time covered", ge=30)
    seed: int = knob(0, "seed", ge=0)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.mean_length > self.n_items / 4:
            raise ValueError("mean_length must not exceed a quarter of n_items")
        return self


@dataclass(frozen=True)
class Truth:
    """The process behind generated data.

    cluster: int64 [U]. base: float64 [periods, clusters, I]. following: int64 [I, S], likely successors;
    following_weight: float64 [S]. items: int64 [T], events in the order drawn, by user; offsets: [U + 1];
    basket_start: int64 [T], position of the first event of the event's basket; period: int64 [T].
    """

    follow: float
    cluster: NDArray[np.int64]
    base: NDArray[np.float64]
    following: NDArray[np.int64]
    following_weight: NDArray[np.float64]
    items: NDArray[np.int64]
    offsets: NDArray[np.int64]
    basket_start: NDArray[np.int64]
    period: NDArray[np.int64]

    def last_event_probabilities(self, users: NDArray[np.int64]) -> NDArray[np.float64]:
        """float64 [B, I]: the true distribution of each user's last event, given everything before it."""
        return self._probabilities(users, self.offsets[users + 1] - 1)

    def best_ndcg(self, k: int = 10) -> float:
        """Expected NDCG@k of the best ranking for the last event of every user, seen items excluded:
        mean over users of sum_r p_(r) / log2(r + 1), with p_(r) the r-th largest true probability."""
        discount = 1 / np.log2(np.arange(2, k + 2))
        n_users = self.cluster.shape[0]
        total = 0.0
        for begin in range(0, n_users, _BLOCK):
            chance = self.last_event_probabilities(np.arange(begin, min(begin + _BLOCK, n_users)))
            top = -np.sort(-np.partition(chance, -k, axis=1)[:, -k:], axis=1)
            total += float((top * discount[: top.shape[1]]).sum())
        return float(total / n_users)

    def _probabilities(self, users: NDArray[np.int64], at: NDArray[np.int64]) -> NDArray[np.float64]:
        """The distribution of the event at position ``at`` of ``items`` for each user."""
        chance = self.base[self.period[at], self.cluster[users]].copy()
        for row, (user, place) in enumerate(zip(users.tolist(), at.tolist(), strict=True)):
            begin, basket = int(self.offsets[user]), int(self.basket_start[place])
            if basket > begin:
                before = self.items[int(self.basket_start[basket - 1]) : basket]
                follow = np.zeros(chance.shape[1])
                weight = np.broadcast_to(self.following_weight, self.following[before].shape)
                np.add.at(follow, self.following[before], weight / before.size)
                chance[row] = (1 - self.follow) * chance[row] + self.follow * follow
            chance[row, self.items[begin:place]] = 0.0
        return np.asarray(chance / chance.sum(axis=1, keepdims=True))


def generate(config: GeneratorConfig | None = None) -> tuple[Interactions, Truth]:
    """Interactions (times in days, every item of the catalogue in the vocabulary) and the truth behind them;
    a function of the config alone."""
    config = config or GeneratorConfig()
    generator = np.random.default_rng(config.seed)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(_lengths(config, generator))])
    user = np.repeat(np.arange(config.n_users), np.diff(offsets))
    start, day = _baskets(config, offsets, user, generator)
    truth = Truth(
        config.follow,
        _clusters(config, generator),
        *_preferences(config, generator),
        np.full(user.shape[0], -1, np.int64),
        offsets,
        start,
        day * _PERIODS // config.days,
    )
    _draw_events(truth, generator)
    file_order = np.lexsort((truth.items, day, user))
    interactions = Interactions.from_rows(
        user[file_order].astype(np.int32),
        truth.items[file_order].astype(np.int32),
        day[file_order],
        None,
        Vocabulary(np.arange(config.n_users, dtype=np.int64)),
        Vocabulary(np.arange(config.n_items, dtype=np.int64)),
        seed=config.seed,
    )
    return interactions, truth


def _clusters(config: GeneratorConfig, generator: np.random.Generator) -> NDArray[np.int64]:
    shares = generator.dirichlet(np.full(config.n_clusters, 3.0))
    return generator.choice(config.n_clusters, config.n_users, p=shares)


def _lengths(config: GeneratorConfig, generator: np.random.Generator) -> NDArray[np.int64]:
    """At least three events, a long tail, at most a third of the catalogue (and a basket a day)."""
    longest = min(config.n_items // 3, config.days)
    drawn = 3 + generator.geometric(1 / max(config.mean_length - 2, 1.000001), config.n_users) - 1
    return np.minimum(drawn, longest).astype(np.int64)


def _baskets(
    config: GeneratorConfig,
    offsets: NDArray[np.int64],
    user: NDArray[np.int64],
    generator: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First position of each event's basket, and its day; the days of a user differ from basket to basket."""
    n = user.shape[0]
    opens = np.asarray(generator.random(n) < 1 / config.basket)
    opens[offsets[:-1]] = opens[offsets[1:] - 1] = True
    start = np.maximum.accumulate(np.where(opens, np.arange(n), 0))
    owner = user[opens]
    count = np.bincount(owner, minlength=config.n_users)
    place = np.arange(owner.size) - np.repeat(np.cumsum(count) - count, count)
    free = (config.days - count)[owner]
    drawn = np.floor(generator.random(owner.size) * (free + 1)).astype(np.int64)
    drawn = drawn[np.lexsort((drawn, owner))] + place
    return start, drawn[np.cumsum(opens) - 1]


def _preferences(
    config: GeneratorConfig, generator: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    rank = generator.permutation(config.n_items) + 1
    taste = generator.normal(0, config.taste, (config.n_clusters, config.n_items))
    drift = generator.normal(0, config.drift, config.n_items)
    period = np.linspace(-0.5, 0.5, _PERIODS)[:, None, None]
    logits = -config.popularity * np.log(rank) + taste + period * drift
    base = np.exp(logits - logits.max(axis=2, keepdims=True))
    base /= base.sum(axis=2, keepdims=True)
    following = generator.integers(0, config.n_items, (config.n_items, config.successors))
    weight = 0.6 ** np.arange(config.successors)
    return base, following, weight / weight.sum()


def _draw_events(truth: Truth, generator: np.random.Generator) -> None:
    """Fill ``truth.items``, one event of every user at a time."""
    cumulative = np.cumsum(truth.base, axis=2)
    cumulative /= cumulative[:, :, -1:]
    lengths = np.diff(truth.offsets)
    seen = np.zeros((lengths.size, truth.base.shape[2]), bool)
    for step in range(int(lengths.max())):
        users = np.flatnonzero(lengths > step)
        at = truth.offsets[users] + step
        drawn = _proposals(truth, cumulative, users, at, generator)
        again = np.flatnonzero(seen[users, drawn])
        for _ in range(_ROUNDS):
            if not again.size:
                break
            drawn[again] = _proposals(truth, cumulative, users[again], at[again], generator)
            again = again[seen[users[again], drawn[again]]]
        if again.size:  # rejection is exact but slow for those who have drawn most of their likely items
            chance = np.cumsum(truth._probabilities(users[again], at[again]), axis=1)
            drawn[again] = (chance < generator.random((again.size, 1)) * chance[:, -1:]).sum(axis=1)
        seen[users, drawn] = True
        truth.items[at] = drawn


def _proposals(
    truth: Truth,
    cumulative: NDArray[np.float64],
    users: NDArray[np.int64],
    at: NDArray[np.int64],
    generator: np.random.Generator,
) -> NDArray[np.int64]:
    """One draw each from the mixture, seen items not excluded."""
    uniform = generator.random(users.size)
    drawn = np.empty(users.size, np.int64)
    group = truth.period[at] * truth.base.shape[1] + truth.cluster[users]
    table = cumulative.reshape(-1, cumulative.shape[2])
    for key in np.unique(group):
        members = group == key
        drawn[members] = np.searchsorted(table[key], uniform[members], side="right")
    basket = truth.basket_start[at]
    follows = (generator.random(users.size) < truth.follow) & (basket > truth.offsets[users])
    end = basket[follows]
    begin = truth.basket_start[end - 1]
    parent = truth.items[begin + np.floor(generator.random(end.size) * (end - begin)).astype(np.int64)]
    choice = generator.choice(truth.following_weight.size, end.size, p=truth.following_weight)
    drawn[follows] = truth.following[parent, choice]
    return np.asarray(np.minimum(drawn, truth.base.shape[2] - 1))
