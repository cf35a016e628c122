"""Tables to features and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recengine.errors import ConfigError, DataError
from recengine.recourse import Columns, read_table

TABLE = pl.DataFrame(
    {"age": [20, 30, 40, 50], "income": [1.5, 2.5, 3.0, 9.0], "home": ["own", "rent", "own", "free"]}
)


@pytest.fixture
def columns() -> Columns:
    return Columns.learn(TABLE)


def test_numbers_stay_and_categories_become_indicators(columns: Columns) -> None:
    assert columns.features == ("age", "income", "home=free", "home=own", "home=rent")
    np.testing.assert_array_equal(columns.encode(TABLE)[1], [30, 2.5, 0, 0, 1])
    assert [c.whole for c in columns.columns] == [True, False, False]
    assert columns.owner.tolist() == [0, 1, 2, 2, 2]


def test_changes_are_told_by_column_the_largest_first(columns: Columns) -> None:
    before, after = columns.encode(TABLE)[1], columns.encode(TABLE)[0]
    changes = columns.changes(before, after)
    assert [c.column for c in changes] == ["home", "age", "income"]
    assert (changes[0].before, changes[0].after) == ("rent", "own")
    assert changes[1].by == -10
    assert changes[1].spreads == pytest.approx(-10 / np.std([20, 30, 40, 50]))
    assert columns.changes(before, before) == []
    assert columns.value("home", before) == "rent"


def test_constraints_speak_of_columns(columns: Columns) -> None:
    limits = columns.compile(
        {
            "features": {
                "home": {"allowed": ["own", "rent"], "cost": 3},
                "income": {"direction": "up", "cost": 2},
            }
        }
    )
    assert [group.tolist() for group in limits.groups] == [[2, 3, 4]]
    assert limits.cost[2:].tolist() == [1.5, 1.5, 1.5]
    assert limits.cost[1] == 2
    assert limits.cost[0] == pytest.approx(1 / np.std([20, 30, 40, 50]))
    assert limits.upper[2] == 0
    assert limits.integer.tolist() == [True, False, False, False, False]
    assert limits.labels == ("age: whole numbers", "income: only up", "home: allowed")
    frozen = columns.compile({"features": {"home": {"immutable": True}}}, whole=False)
    assert frozen.immutable.tolist() == [False, False, True, True, True]
    assert frozen.labels == ("home: immutable",)
    assert not frozen.without(["home: immutable"]).immutable.any()


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({"hoem": {"immutable": True}}, "did you mean 'home'"),
        ({"home": {"direction": "up"}}, "no direction"),
        ({"home": {"allowed": ["owm"]}}, "did you mean 'own'"),
        ({"age": {"allowed": ["old"]}}, "numbers as allowed values"),
    ],
)
def test_wrong_rules_are_named(columns: Columns, rules: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        columns.compile({"features": rules})


def test_wrong_tables_are_named(columns: Columns) -> None:
    with pytest.raises(DataError, match=r"row 1, column 'home'.*(.|\n)*did you mean 'own'"):
        columns.encode(TABLE.with_columns(home=pl.Series(["own", "owm", "own", "own"])))
    with pytest.raises(DataError, match="missing or not finite"):
        columns.encode(TABLE.with_columns(income=pl.Series([1.0, None, 2.0, 3.0])))
    with pytest.raises(DataError, match="missing or not finite"):
        columns.encode(TABLE.with_columns(income=pl.Series([1.0, float("nan"), 2.0, 3.0])))
    with pytest.raises(DataError, match="no column 'income'"):
        columns.encode(TABLE.drop("income"))
    with pytest.raises(DataError, match="held numbers"):
        columns.encode(TABLE.with_columns(age=pl.Series(["a", "b", "c", "d"])))
    with pytest.raises(DataError, match=r"(?s)row 2, column 'age'.*'many'"):
        columns.encode(TABLE.with_columns(age=pl.Series(["30", "41", "many", "50"])))
    with pytest.raises(DataError, match="one value only"):
        Columns.learn(TABLE.with_columns(flat=pl.lit(1)))


def test_reading_names_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_table(tmp_path / "none.csv")
    (tmp_path / "bare.csv").write_text("1, a, 7\n2, b, 8\n\n")
    with pytest.raises(DataError, match="header does not fit"):
        read_table(tmp_path / "bare.csv", header=["x"])
    read = read_table(tmp_path / "bare.csv", header=["x", "y", "z"])
    assert read["y"].to_list() == ["a", "b"]
    assert read["z"].to_list() == [7, 8]
    (tmp_path / "empty.csv").write_text("x,y\n")
    with pytest.raises(DataError, match="no rows"):
        read_table(tmp_path / "empty.csv")


def test_columns_round_trip_through_json(columns: Columns) -> None:
    assert Columns.from_dict(columns.as_dict()) == columns
