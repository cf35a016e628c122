"""The decision for or against the default: level where nothing is gained, power where something is."""

from __future__ import annotations

import numpy as np
import pytest

from recengine.errors import DataError
from recengine.tuning import decide

USERS, SEEDS, TRIALS = 200, 3, 24


def measured(generator: np.random.Generator, gain: float) -> np.ndarray:
    """Values [users, seeds] of one candidate: users differ, a seed moves all of them, the rest is noise."""
    users = generator.normal(0.3, 0.1, (USERS, 1))
    seeds = generator.normal(0.0, 0.01, (1, SEEDS))
    return users + seeds + generator.normal(gain, 0.1, (USERS, SEEDS))


def adopted(gain: float, repeats: int) -> tuple[float, float]:
    """Share of searches that end with a change, decided on fresh measurements, and on those that chose it."""
    fresh, same = 0, 0
    for at in range(repeats):
        generator = np.random.default_rng([at, 5])
        default = measured(generator, 0.0)
        tried = [measured(generator, gain) for _ in range(TRIALS)]
        best = max(tried, key=lambda table: table.mean())
        same += decide(best, default).adopted
        fresh += decide(measured(generator, gain), measured(generator, 0.0)).adopted
    return fresh / repeats, same / repeats


def test_a_noisy_search_without_gain_ends_at_the_default() -> None:
    fresh, same = adopted(0.0, 120)
    assert fresh <= 0.07  # 2.5 % and the error of 120 repeats
    assert same > 0.15  # what the decision is for: on its own trials the best of 24 looks real


def test_a_real_gain_is_adopted() -> None:
    fresh, _ = adopted(0.06, 40)
    assert fresh >= 0.9


def test_equal_candidates_and_worse_ones_are_not_adopted() -> None:
    table = measured(np.random.default_rng(0), 0.0)
    same = decide(table, table)
    assert not same.adopted
    assert same.test.p_value == 1.0
    assert not decide(table - 0.1, table).adopted
    assert decide(table + 0.1, table).adopted


def test_one_seed_is_judged_over_users_and_says_so() -> None:
    table = measured(np.random.default_rng(0), 0.0)[:, :1]
    found = decide(table + np.linspace(0.0, 0.2, USERS)[:, None], table)
    assert found.adopted
    assert "these two runs only" in found.test.method


def test_bad_tables_are_refused() -> None:
    table = measured(np.random.default_rng(0), 0.0)
    with pytest.raises(DataError, match="same users"):
        decide(table, table[1:])
    with pytest.raises(DataError, match="same users"):
        decide(table[:, 0], table[:, 0])
    broken = table.copy()
    broken[3, 1] = np.nan
    with pytest.raises(DataError, match="finite"):
        decide(broken, table)
