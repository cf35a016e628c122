"""The click data sets: counts as published, protocols as described. Real data only where it is."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recengine.data.clicks import ClickSplitConfig, prepare
from recengine.errors import DataError
from recengine.hooks import host
from recengine_plugins.click_datasets import bandit, movielens
from recengine_plugins.click_datasets.bandit import OpenBandit
from recengine_plugins.click_datasets.frappe import CONTEXT, Frappe, with_negatives
from recengine_plugins.click_datasets.movielens import MovieLensClicks


def uses() -> pl.DataFrame:
    random = np.random.default_rng(0)
    columns = {name: ["a", "b"] for name in CONTEXT}
    frame = {name: [values[i] for i in random.integers(0, 2, 300)] for name, values in columns.items()}
    frame |= {
        "user": [f"u{i}" for i in random.integers(0, 4, 300)],
        "item": [f"i{i}" for i in random.integers(0, 9, 300)],
    }
    return pl.DataFrame(frame).select("user", "item", *CONTEXT)


def test_negatives_were_never_used_in_their_context_and_two_go_with_each_use() -> None:
    rows = with_negatives(uses(), 0)
    known = set(uses().iter_rows())
    given = {1: 0, 0: 0}
    for row in rows.iter_rows(named=True):
        key = tuple(row[name] for name in ("user", "item", *CONTEXT))
        assert (key in known) == bool(row["label"])
        given[row["label"]] += 1
    assert given == {1: 300, 0: 600}
    assert rows["part"].value_counts().sort("part")["count"].to_list() == [90, 630, 180]
    assert with_negatives(uses(), 0).equals(rows)
    assert not with_negatives(uses(), 1).equals(rows)


def test_page_and_card_tell_of_every_set() -> None:
    root = Path(__file__).resolve().parents[3]
    page = (root / "docs" / "click-datasets.md").read_text(encoding="utf-8")
    card = (root / "plugins" / "recengine_plugins" / "click_datasets" / "MODEL_CARD.md").read_text(
        encoding="utf-8"
    )
    sets = [entry for entry in host().registries["dataset"] if entry.extras.get("task") == "clicks"]
    assert len(sets) == 4
    for entry in sets:
        assert f"`{entry.name}`" in page
        assert f"`{entry.name}`" in card
        licence = re.split(r"[:;,(]", entry.load().licence)[0].strip()
        assert licence in page
        assert licence in card
    fields = {*CONTEXT, *movielens.FEATURES, *(name for name in bandit.FEATURES if not name[-1].isdigit())}
    assert [name for name in fields if name not in page] == []


def test_what_is_not_here_says_where_it_should_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECENGINE_DATA", str(tmp_path))
    for source in (Frappe(), MovieLensClicks(), OpenBandit("random")):
        with pytest.raises(DataError, match="RECENGINE_DATA"):
            source.load(tmp_path)


@pytest.mark.data
def test_frappe_has_the_published_size(shared_data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECENGINE_DATA", str(shared_data("restricted/frappe").parents[1]))
    log = Frappe().load(Path())
    frame = log.frames[0]
    assert (len(frame), frame["user"].n_unique(), frame["item"].n_unique()) == (288_609, 957, 4_082)
    split = prepare(log)
    assert (len(split.train), len(split.validation), len(split.test)) == (202_027, 57_722, 28_860)
    assert split.train.labels.mean() == pytest.approx(1 / 3, abs=0.005)
    assert len(split.encoder.facts()) == 10
    assert sum(fact["size"] for fact in split.encoder.facts()) < 5_382 + 20 + 1  # the published 5,382 values


@pytest.mark.data
def test_ml_1m_has_the_published_counts(shared_data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECENGINE_DATA", str(shared_data("restricted/ml-1m").parents[1]))
    log = MovieLensClicks().load(Path())
    frame = log.frames[0]
    assert (len(frame), frame["user"].n_unique(), frame["item"].n_unique()) == (1_000_209, 6_040, 3_706)
    assert (frame["rating"] >= 4).sum() == 348_971 + 226_310
    assert frame["gender"].null_count() == 0
    assert frame["genres"].null_count() == 616


@pytest.mark.data
@pytest.mark.parametrize(("policy", "clicks"), [("random", 38), ("bts", 42)])
def test_open_bandit_has_its_clicks_and_chances(shared_data, monkeypatch, policy: str, clicks: int) -> None:
    monkeypatch.setenv("RECENGINE_DATA", str(shared_data("ctr_obd").parent))
    split = prepare(OpenBandit(policy).load(Path()), None, ClickSplitConfig())
    tables = split.tables().values()
    assert sum(float(table.labels.sum()) for table in tables) == clicks
    assert sum(len(table) for table in tables) == 10_000
    assert split.description["strategy"] == "time"
    chances = np.concatenate([table.propensities for table in tables])
    assert np.allclose(chances, 0.0125) == (policy == "random")
