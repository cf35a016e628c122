"""Cells of the sequential quality benchmark that outlive the machine."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench" / "sequential"))

import kept_cells


def test_places_come_back_from_ndcg() -> None:
    place = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10], dtype=np.uint8)
    ndcg = np.where(place > 0, 1.0 / np.log2(1.0 + np.maximum(place, 1)), 0.0)
    assert np.array_equal(kept_cells.places(ndcg), place)
    assert np.allclose(kept_cells.scores(place)["recall@10"], [0] + [1] * 10)


def test_ndcg_of_several_targets_is_refused() -> None:
    with pytest.raises(ValueError, match="one target"):
        kept_cells.places(np.array([0.9, 0.0]))


def test_a_cell_comes_back_from_its_file(tmp_path: Path) -> None:
    ndcg = np.array([1.0, 0.0, 0.5])
    kept_cells.write(tmp_path / "made" / "cell.npz", ndcg, {"data": "toy", "seed": 3})
    scores, told = kept_cells.read(tmp_path / "made" / "cell.npz")
    assert np.allclose(scores["ndcg@10"], ndcg)
    assert told == {"data": "toy", "seed": 3}
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["cell.npz"]
