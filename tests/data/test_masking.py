"""Batches with hidden events."""

from __future__ import annotations

import numpy as np
import pytest

from recengine.data import Interactions, Masking, masked_batches
from recengine.errors import UsageError

ITEMS = 500


def world(users: int = 400, seed: int = 0) -> Interactions:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 30, users)
    return Interactions.from_arrays(
        np.repeat(np.arange(users), lengths),
        rng.integers(0, ITEMS, lengths.sum()),
        np.arange(lengths.sum()),
    )


def drawn(masking: Masking, *, epoch: int = 0, max_length: int = 20) -> list[tuple[np.ndarray, ...]]:
    data = world()
    batches = masked_batches(data, 64, max_length, epoch, 3, masking)
    return [(b.items, b.targets, b.offsets, b.users) for b in batches]


def test_the_newest_events_with_targets_where_hidden() -> None:
    data, met = world(), []
    for items, targets, offsets, users in drawn(Masking(share=0.3)):
        for at, user in enumerate(users):
            low, high = offsets[at], offsets[at + 1]
            begin, end = data.indptr[user : user + 2]
            real = data.item[max(begin, end - 20) : end]
            shown, wanted = items[low:high], targets[low:high]
            assert len(shown) == len(real)
            assert (wanted >= 0).any()
            assert np.array_equal(wanted[wanted >= 0], real[wanted >= 0])
            assert np.array_equal(shown[wanted < 0], real[wanted < 0])
            met.append(user)
    assert sorted(met) == np.flatnonzero(data.lengths() >= 2).tolist()


def test_shares() -> None:
    masking = Masking(share=0.25, random=0.2, kept=0.3)
    every = [drawn(masking, epoch=epoch) for epoch in range(10)]
    items, targets = (np.concatenate([batch[i] for epoch in every for batch in epoch]) for i in (0, 1))
    n_items = world().n_items
    hidden = targets >= 0
    assert abs(hidden.mean() - 0.25) < 0.03  # a little more: one a sequence at least
    shown, wanted = items[hidden], targets[hidden]
    assert abs((shown == n_items).mean() - 0.5) < 0.02
    assert abs((shown == wanted).mean() - 0.3) < 0.02
    assert (items[~hidden] < n_items).all()


def test_the_newest_alone() -> None:
    for _, targets, offsets, _ in drawn(Masking(share=0.5, last=1.0)):
        at = np.flatnonzero(targets >= 0)
        assert np.array_equal(at, offsets[1:] - 1)
    some = drawn(Masking(share=1.0, last=0.5))
    alone = np.concatenate([np.add.reduceat(t >= 0, o[:-1]) == 1 for _, t, o, _ in some])
    assert 0.4 < alone.mean() < 0.6


def test_a_function_of_seed_and_epoch() -> None:
    one, same, other = drawn(Masking()), drawn(Masking()), drawn(Masking(), epoch=1)
    assert all(
        np.array_equal(a, b) for x, y in zip(one, same, strict=True) for a, b in zip(x, y, strict=True)
    )
    assert not np.array_equal(one[0][1], other[0][1])


def test_bad_shares_are_refused() -> None:
    for wrong in ({"share": 0.0}, {"share": 1.5}, {"last": -0.1}, {"random": 0.6, "kept": 0.6}):
        with pytest.raises(UsageError):
            Masking(**wrong)
