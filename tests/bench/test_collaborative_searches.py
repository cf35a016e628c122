"""Settings of published rows that are chosen on validation: the held-back part and the stages of a search."""

from __future__ import annotations

import gzip
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench" / "collaborative"))

from bench_published import CELLS
from cells import Cell, Outcome, keep
from searches import SEARCHES, changed, score, settled, trials
from shifted import hold_back, validation_folder

from recengine import data


def long_tailed(users: int = 300, items: int = 80) -> np.ndarray:
    generator = np.random.default_rng(1)
    chance = 1 / np.arange(1, items + 1)
    made = [(u, i) for u in range(users) for i in np.flatnonzero(generator.random(items) < 3 * chance)]
    return np.array(made, np.int64)


def test_a_share_is_held_back_by_item_and_nobody_is_emptied() -> None:
    pairs = long_tailed()
    held = hold_back(pairs, 0.1, seed=0)
    assert held.sum() == int(0.1 * len(pairs))
    for column in (0, 1):
        assert set(pairs[~held, column]) == set(pairs[:, column])
    popularity = np.bincount(pairs[:, 1])[pairs[:, 1]]
    assert popularity[held].mean() < 0.6 * popularity.mean()
    assert np.array_equal(held, hold_back(pairs, 0.1, seed=0))
    assert not np.array_equal(held, hold_back(pairs, 0.1, seed=1))


def test_what_cannot_be_held_back_is_not() -> None:
    pairs = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    held = hold_back(pairs, 1.0, seed=0)
    assert 0 < held.sum() <= 2
    assert set(pairs[~held, 0]) == {0, 1}
    assert set(pairs[~held, 1]) == {0, 1}


def test_the_validation_folder_is_read_as_a_divided_data_set(tmp_path: Path) -> None:
    pairs = long_tailed()
    with gzip.open(tmp_path / "train.tsv.gz", "wt") as out:
        out.write("user_procid\titem_procid\n")
        out.writelines(f"{user}\t{item}\n" for user, item in pairs)
    made = validation_folder(tmp_path, tmp_path / "validation")
    found = data.read(made)
    assert len(found) == len(pairs)
    assert found.part is not None
    assert (found.part == 2).sum() == int(0.1 * len(pairs))


def stored(cell: Cell, value: float, store: Path) -> None:
    shifted = cell.final
    keep(
        Outcome(
            cell=asdict(cell),
            n_users=10,
            asked=5,
            validation=None if shifted else value,
            recall=value if shifted else None,
            ndcg=value if shifted else None,
            deciles={},
            seconds_an_epoch=1.0,
            seconds=1.0,
        ),
        cell,
        store,
    )


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_settles_on_the_best_trial_of_all_stages(name: str, tmp_path: Path) -> None:
    row = CELLS[name]
    seen: list[Cell] = []
    for i, cell in enumerate(trials(row, tmp_path)):
        assert settled(row, tmp_path) is None
        assert cell.data.endswith("-validation") or not cell.final  # never the test part
        stored(cell, 0.5 if i == 1 else 0.1 + 0.01 * i, tmp_path)
        seen.append(cell)
    found = settled(row, tmp_path)
    assert found is not None
    assert (found.name, found.data, found.epochs, found.final) == (row.name, row.data, row.epochs, True)
    best = seen[1]
    assert (found.loss, found.rate, found.decay) == (best.loss, best.rate, best.decay)
    changes = [change for stage in SEARCHES[name][1:] for change in stage]
    for later, change in zip(seen[len(SEARCHES[name][0]) :], changes, strict=True):
        meant = changed(best, change)  # the best of the first stage but for this
        assert (later.loss, later.rate, later.decay) == (meant.loss, meant.rate, meant.decay)
        assert (later.spread, later.batch) == (meant.spread, meant.batch)


def test_a_row_that_is_made_longer_is_tried_longer(tmp_path: Path) -> None:
    row = CELLS["shift-cd"]
    made = []
    for cell in trials(row, tmp_path):
        made.append(cell.epochs)
        stored(cell, 0.1, tmp_path)
    assert made == [8] * 6 + [16]


def test_a_row_without_a_search_is_itself(tmp_path: Path) -> None:
    row = CELLS["electronic-sl"]
    assert settled(row, tmp_path) == row


def test_users_without_a_held_back_item_count_as_zero() -> None:
    row = CELLS["shift-cd"]
    found = Outcome(asdict(row), 10, 5, None, 0.4, 0.2, {}, 1.0, 1.0)
    assert score(found) == pytest.approx(0.1)
