"""The split of IR-Benchmark: parts as they came, validation drawn from the training part."""

from __future__ import annotations

import numpy as np
import pytest

from recengine import data
from recengine.data import Interactions
from recengine.data.splitting import TEST, TRAIN, SplitConfig, split
from recengine.errors import DataError


def parted(users: int = 40, seed: int = 0) -> Interactions:
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(users), rng.integers(2, 30, users))
    item = np.concatenate([rng.permutation(60)[: int((user == u).sum())] for u in range(users)])
    part = np.where(rng.random(user.size) < 0.2, TEST, TRAIN).astype(np.int8)
    first = np.flatnonzero(np.diff(user, prepend=-1))
    part[first] = TRAIN  # everybody keeps a training event
    return Interactions.from_arrays(user, item, part=part)


def pairs(events: Interactions) -> set[tuple[int, int]]:
    return set(zip(events.user.tolist(), events.item.tolist(), strict=True))


def test_the_test_part_stays_and_validation_comes_from_training() -> None:
    events = parted()
    given = split(events, SplitConfig(strategy="given"))
    made = split(events, SplitConfig(strategy="given_validated"))
    assert made.validation is not None
    assert made.test.targets.tolist() == given.test.targets.tolist()
    drawn = set(zip(made.validation.target_users().tolist(), made.validation.targets.tolist(), strict=True))
    assert not drawn & pairs(made.train)
    assert drawn | pairs(made.train) == pairs(given.train)
    assert made.test.history is made.train  # validation items are neither learned from nor masked at the test
    assert made.validation.history is made.train


def test_a_share_of_every_user_at_least_one_and_never_all() -> None:
    events = parted()
    lengths = np.bincount(split(events, SplitConfig(strategy="given")).train.user, minlength=40)
    made = split(events, SplitConfig(strategy="given_validated", validation_share=0.1))
    held = np.bincount(made.validation.target_users(), minlength=40)
    wanted = np.minimum(np.maximum(1, lengths // 10), lengths - 1)
    assert held.tolist() == wanted.tolist()


def test_the_seed_decides() -> None:
    events = parted()
    one, again, other = (
        split(events, SplitConfig(strategy="given_validated", seed=seed)).validation.targets.tolist()
        for seed in (0, 0, 1)
    )
    assert one == again != other


def test_data_without_parts_are_refused() -> None:
    plain = Interactions.from_arrays(np.array([0, 0, 1]), np.array([0, 1, 1]))
    with pytest.raises(DataError, match="did not come in parts"):
        split(plain, SplitConfig(strategy="given_validated"))


@pytest.mark.data
@pytest.mark.parametrize("strategy", ["given", "given_validated"])
def test_an_untimed_folder_passes_the_audit_with_a_warning(shared_data, strategy: str) -> None:
    """Files divided by others, without times, promise no order: a step that can be predicted is no leak."""
    events = data.read(shared_data("irbench/iid/amazon2014-beauty"))
    findings = data.audit(split(events, SplitConfig(strategy=strategy)))
    assert {finding.severity for finding in findings} <= {"warn", "info"}
