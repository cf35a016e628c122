"""Batches and negatives: everything once, nothing padded, the same every time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recengine.contracts.batch import PairBatch, SequenceBatch
from recengine.data import Interactions, batching, sampling
from recengine.errors import DataError


@pytest.fixture(scope="module")
def train() -> Interactions:
    rng = np.random.default_rng(3)
    user = np.repeat(np.arange(40), rng.integers(1, 15, 40))
    return Interactions.from_arrays(user, rng.zipf(1.6, user.size) % 60, np.arange(user.size))


def test_sequences_hold_the_latest_steps(train):
    met = {}
    for batch in batching.sequence_batches(train, 7, 5, epoch=0, seed=1):
        for place, user in enumerate(batch.users.tolist()):
            span = slice(*batch.offsets[place : place + 2])
            history = train.item[slice(*train.indptr[user : user + 2])]
            assert batch.items[span].tolist() == history[:-1][-5:].tolist()
            assert batch.targets[span].tolist() == history[1:][-5:].tolist()
            assert np.array_equal(
                batch.times[span], train.time[slice(*train.indptr[user : user + 2])][:-1][-5:]
            )
            met[user] = met.get(user, 0) + 1
    assert met == dict.fromkeys(np.flatnonzero(train.lengths() >= 2).tolist(), 1)
    assert batching.n_sequence_batches(train, 7) == -(-len(met) // 7)


@pytest.mark.parametrize("bucket_batches", [1, 3])
def test_order_is_a_function_of_seed_and_epoch(train, bucket_batches):
    def run(epoch, seed):
        batches = batching.sequence_batches(train, 7, 5, epoch, seed, bucket_batches=bucket_batches)
        return np.concatenate([batch.users for batch in batches])

    assert np.array_equal(run(0, 1), run(0, 1))
    assert not np.array_equal(run(0, 1), run(1, 1))
    assert not np.array_equal(run(0, 1), run(0, 2))
    assert sorted(run(0, 1)) == sorted(run(5, 9))


def test_buckets_are_about_equally_long(train):
    spread = [
        np.ptp(np.diff(batch.offsets))
        for batch in batching.sequence_batches(train, 5, 50, 0, 0, bucket_batches=100)
    ]
    assert max(spread) <= 4


def test_pairs_come_once(train):
    sampler = sampling.UniformSampler(train)
    batches = list(batching.pair_batches(train, 16, 0, 0, negatives=batching.Negatives(sampler, 3)))
    assert len(batches) == batching.n_pair_batches(train, 16)
    got = sorted((u, i) for b in batches for u, i in zip(b.users.tolist(), b.items.tolist(), strict=True))
    assert got == sorted(zip(train.user.tolist(), train.item.tolist(), strict=True))
    assert all(batch.negatives.shape == (len(batch), 3) for batch in batches)


def test_batches_become_the_contract(train):
    sampler = sampling.PopularitySampler(train, 0.75)
    negatives = batching.Negatives(sampler, 4, shared=True)
    batch = SequenceBatch(**next(batching.sequence_batches(train, 8, 9, 0, 0, negatives=negatives)).tensors())
    assert batch.items.dtype == torch.int64
    assert batch.negatives.shape == batch.log_q.shape == (4,)
    pair = PairBatch(**next(batching.pair_batches(train, 8, 0, 0)).tensors())
    assert pair.negatives is None


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=40).filter(lambda w: sum(w) > 1e-3))
def test_alias_table_has_the_asked_probabilities(weights):
    w = np.array(weights)
    table = sampling.AliasTable(w)
    assert np.allclose(table.probabilities(), w / w.sum(), atol=1e-9)
    assert set(table.draw(200, np.random.default_rng(0)).tolist()) <= set(np.flatnonzero(w > 0).tolist())


@pytest.mark.parametrize("weights", [[0.0, 0.0], [1.0, -1.0], [np.nan, 1.0]])
def test_alias_table_refuses(weights):
    with pytest.raises(DataError):
        sampling.AliasTable(np.array(weights))


def test_popularity_is_drawn_as_asked(train):
    sampler = sampling.PopularitySampler(train, 0.5)
    drawn, log_p = sampler.sample_shared(200_000, np.random.default_rng(0))
    expected = train.popularity() ** 0.5
    expected = expected / expected.sum()
    assert np.abs(np.bincount(drawn, minlength=train.n_items) / drawn.size - expected).max() < 0.005
    assert np.allclose(np.exp(log_p), expected[drawn])


@pytest.mark.parametrize("make", [sampling.UniformSampler, sampling.PopularitySampler])
def test_training_items_are_rejected(train, make):
    users = np.repeat(np.arange(train.n_users), 5)
    drawn, _ = make(train).sample(users, 10, np.random.default_rng(0))
    seen = sampling.SeenPairs(train)
    assert drawn.shape == (users.size, 10)
    assert not seen.met(np.repeat(users, 10), drawn.ravel()).any()
    again, _ = make(train).sample(users, 10, np.random.default_rng(0))
    assert np.array_equal(drawn, again)


def test_popularity_rejection_keeps_the_shares_and_draws_nothing_without_one():
    users, items = [*range(400), 0, 1, 2, 3, 4], [0] * 400 + [1, 2, 2, 2, 3]
    made = Interactions.from_arrays(users, items)
    train = made.select(made.item != 3)  # that item has no training event
    sampler = sampling.PopularitySampler(train)
    drawn, log_p = sampler.sample(np.full(4000, 9), 5, np.random.default_rng(1))
    assert np.abs(np.bincount(drawn.ravel(), minlength=4) / drawn.size - [0, 0.25, 0.75, 0]).max() < 0.015
    assert np.isfinite(log_p).all()


def test_uniform_rejection_stays_uniform():
    made = Interactions.from_arrays(np.repeat([0, 1], [15, 20]), [*range(15), *range(20)])
    drawn, _ = sampling.UniformSampler(made).sample(np.zeros(5000, np.int64), 4, np.random.default_rng(1))
    counts = np.bincount(drawn.ravel(), minlength=20)
    assert counts[:15].sum() == 0
    assert np.abs(counts[15:] / drawn.size - 0.2).max() < 0.015
    everything, _ = sampling.UniformSampler(made).sample(np.ones(3, np.int64), 2, np.random.default_rng(1))
    assert everything.shape == (3, 2)  # who met everything still gets an answer
    assert (0, 3) in sampling.SeenPairs(made)
    assert (0, 17) not in sampling.SeenPairs(made)
