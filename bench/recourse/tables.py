"""The nine tables of the recourse benchmarks: features as float64, label 1 for the outcome one wants.

Rows keep the order of their file (compas: of the screening date), so that a split in time is a split of rows.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[np.float64]

NAMES = ("german", "adult", "compas", "pima", "banknote", "wine", "australian", "cancer", "ionosphere")
DATED = ("compas",)
"""Tables whose rows carry a date; elsewhere 'by row' is the order of the file and nothing more."""


@dataclass(frozen=True)
class Table:
    """X [n, d]; y [n] in {0, 1}; groups: index arrays of columns of which exactly one is 1."""

    name: str
    X: Array
    y: NDArray[np.int64]
    columns: tuple[str, ...]
    groups: tuple[NDArray[np.int64], ...] = ()

    def rows(self, index: NDArray[np.int64]) -> Table:
        return replace(self, X=self.X[index], y=self.y[index])


def folder() -> Path:
    """$RECENGINE_DATA/tabular, else shared/data/tabular beside the checkout."""
    root = os.environ.get("RECENGINE_DATA")
    return (Path(root) if root else Path(__file__).resolve().parents[3] / "shared" / "data") / "tabular"


def load(name: str, most_rows: int | None = None) -> Table:
    """One table, or an evenly spaced ``most_rows`` of it (order kept)."""
    table = _READERS[name]()
    if most_rows is not None and len(table.y) > most_rows:
        table = table.rows(np.linspace(0, len(table.y) - 1, most_rows).round().astype(np.int64))
    kept = np.flatnonzero(np.ptp(table.X, axis=0) > 0)
    place = {int(old): new for new, old in enumerate(kept)}
    groups = tuple(
        np.array([place[int(j)] for j in group if int(j) in place], dtype=np.int64) for group in table.groups
    )
    return Table(
        name,
        np.ascontiguousarray(table.X[:, kept]),
        table.y,
        tuple(table.columns[j] for j in kept),
        tuple(group for group in groups if len(group) > 1),
    )


def folds(table: Table, seed: int, count: int = 4) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """(train, test) rows of a stratified split; both in row order."""
    generator = np.random.default_rng([seed, 17])
    part = np.empty(len(table.y), np.int64)
    for label in (0, 1):
        rows = generator.permutation(np.flatnonzero(table.y == label))
        part[rows] = np.arange(len(rows)) % count
    for fold in range(count):
        yield np.flatnonzero(part != fold), np.flatnonzero(part == fold)


@dataclass(frozen=True)
class Scale:
    """Columns with more than two values get mean 0 and deviation 1 (of the rows it was fitted on)."""

    mean: Array
    deviation: Array

    @classmethod
    def of(cls, X: Array) -> Scale:
        many = np.array([np.unique(column).size > 2 for column in X.T])
        deviation = np.where(many, X.std(axis=0), 1.0)
        return cls(np.where(many, X.mean(axis=0), 0.0), np.where(deviation > 0, deviation, 1.0))

    def __call__(self, X: Array) -> Array:
        return (X - self.mean) / self.deviation


def _csv(name: str, **options: object) -> pd.DataFrame:
    return pd.read_csv(folder() / f"{name}.csv.gz", **options)  # type: ignore[call-overload]


def _numeric(name: str, frame: pd.DataFrame, label: NDArray[np.bool_]) -> Table:
    X = frame.to_numpy(dtype=np.float64)
    return Table(name, X, label.astype(np.int64), tuple(map(str, frame.columns)))


def _onehot(name: str, frame: pd.DataFrame, label: NDArray[np.bool_], categories: list[str]) -> Table:
    wide = pd.get_dummies(frame, columns=categories, dtype=float)
    table = _numeric(name, wide, label)
    return replace(table, groups=_groups(table.columns, categories))


def _groups(columns: tuple[str, ...], stems: list[str]) -> tuple[NDArray[np.int64], ...]:
    found = [
        np.array([j for j, column in enumerate(columns) if column.startswith(f"{stem}_")]) for stem in stems
    ]
    return tuple(group for group in found if group.size > 1)


def _german() -> Table:
    frame = _csv("german_credit_onehot", index_col=0)
    label = frame.pop("y").to_numpy() == 0  # 1 marks bad credit there
    stems = sorted({column.partition("_")[0] for column in frame.columns if "_" in column})
    table = _numeric("german", frame, label)
    return replace(table, groups=_groups(table.columns, stems))


def _australian() -> Table:
    frame = _csv("australian_credit_onehot", index_col=0)
    label = frame.pop("y").to_numpy() == 1
    table = _numeric("australian", frame, label)
    return replace(table, groups=_groups(table.columns, ["A4", "A12"]))


def _adult() -> Table:
    columns = ["age", "work", "weight", "education", "years", "marital", "job", "relation", "race", "sex"]
    columns += ["gain", "loss", "hours", "country", "income"]
    options = {"header": None, "names": columns, "skipinitialspace": True}
    frame = pd.concat([_csv("adult_train", **options), _csv("adult_test", **options)], ignore_index=True)
    frame = frame.dropna()
    label = frame.pop("income").str.startswith(">50K").to_numpy()
    frame["gain"], frame["loss"] = np.log1p(frame["gain"]), np.log1p(frame["loss"])
    frame["male"] = (frame.pop("sex") == "Male").astype(float)
    frame["native"] = (frame.pop("country") == "United-States").astype(float)
    frame = frame.drop(columns=["weight", "education"])  # sampling weight; years say the same
    return _onehot("adult", frame, label, ["work", "marital", "job", "relation", "race"])


def _compas() -> Table:
    frame = _csv("compas_two_years_noname").sort_values(
        ["compas_screening_date", "id"], kind="stable", ignore_index=True
    )
    label = frame["two_year_recid"].to_numpy() == 0
    counts = ["age", "juv_fel_count", "juv_misd_count", "juv_other_count", "priors_count"]
    used = frame[counts].astype(float)
    used["male"] = (frame["sex"] == "Male").astype(float)
    used["african_american"] = (frame["race"] == "African-American").astype(float)
    used["felony"] = (frame["c_charge_degree"] == "F").astype(float)
    return _numeric("compas", used, label)


def _pima() -> Table:
    frame = _csv("pima_diabetes", header=None)
    return _numeric("pima", frame.iloc[:, :-1], frame.iloc[:, -1].to_numpy() == 0)


def _banknote() -> Table:
    frame = _csv("banknote_authentication", header=None)
    return _numeric("banknote", frame.iloc[:, :-1], frame.iloc[:, -1].to_numpy() == 0)


def _wine() -> Table:
    red, white = (_csv(f"winequality_{colour}", header=None) for colour in ("red", "white"))
    frame = pd.concat([red, white], ignore_index=True)
    order = np.argsort(np.r_[np.linspace(0, 1, len(red)), np.linspace(0, 1, len(white))], kind="stable")
    frame = frame.iloc[order].reset_index(drop=True)  # both colours in every stretch of rows
    return _numeric("wine", frame.iloc[:, :-1], frame.iloc[:, -1].to_numpy() >= 6)


def _cancer() -> Table:
    frame = _csv("breast_cancer_wisconsin", header=None, na_values="?").dropna()
    return _numeric("cancer", frame.iloc[:, :-1], frame.iloc[:, -1].to_numpy() == 2)


def _ionosphere() -> Table:
    frame = _csv("ionosphere", header=None)
    return _numeric("ionosphere", frame.iloc[:, :-1], frame.iloc[:, -1].to_numpy() == "g")


_READERS = {
    "german": _german,
    "adult": _adult,
    "compas": _compas,
    "pima": _pima,
    "banknote": _banknote,
    "wine": _wine,
    "australian": _australian,
    "cancer": _cancer,
    "ionosphere": _ionosphere,
}
