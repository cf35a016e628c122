"""Frappe: which app was used in which context, with sampled rows that were not."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recengine.data.clicks import ClickDataConfig, ClickLog, FeatureSpec
from recengine_plugins.click_datasets.place import locate

if TYPE_CHECKING:
    import polars as pl

CONTEXT = ("daytime", "weekday", "isweekend", "homework", "cost", "weather", "country", "city")
NEGATIVES = 2
SHARES = (7, 2, 1)


class Frappe:
    """96,203 uses by 957 people of 4,082 apps; for each use two apps, drawn evenly from those that the person
    never used in that very context, with the same person and context: 288,609 rows. Rows fall into training,
    validation and test by chance, 7:2:1. Both are drawn from ``seed``.

    Protocol: He and Chua, SIGIR 2017, as FuxiCTR uses it (whose draw is another one).
    Source: Baltrunas et al., arXiv 1505.03014.
    """

    name = "frappe"
    summary = "use of apps in context, two sampled negatives a row, 7:2:1"
    licence = "research only, no redistribution, no commercial use (Frappe 1.0; cite arXiv 1505.03014)"

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def load(self, cache: Path) -> ClickLog:
        """Read it; raises DataError where it is not on this machine."""
        import polars as pl

        with gzip.open(locate("restricted/frappe", cache) / "frappe.tsv.gz") as file:
            uses = pl.read_csv(file.read(), separator="\t", infer_schema=False).drop("cnt")
        features = {"user": FeatureSpec(), "item": FeatureSpec()}
        features |= {name: FeatureSpec(group="place" if name in CONTEXT[5:] else "time") for name in CONTEXT}
        features["cost"] = FeatureSpec(group="item")
        about = ClickDataConfig(group="user", part="part", features=features, slices=("daytime", "cost"))
        return ClickLog.from_frame(with_negatives(uses, self.seed), about, name=f"frappe, seed {self.seed}")


def with_negatives(uses: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Each use and its negatives, with columns label and part; rows in a drawn order."""
    import polars as pl

    random = np.random.default_rng([seed, 0xF4A9])
    keys = uses.select(pl.struct("user", *CONTEXT).rank("dense")).to_series().to_numpy().astype(np.int64)
    names = uses["item"].unique().sort()
    items = uses["item"].replace_strict(names, np.arange(len(names)), return_dtype=pl.Int64).to_numpy()
    owner = np.repeat(np.arange(len(uses)), NEGATIVES)
    drawn = _unused(keys, items, owner, len(names), random)
    positives = uses.with_columns(label=pl.lit(1, pl.Int8))
    negatives = uses[owner].with_columns(item=names[drawn], label=pl.lit(0, pl.Int8))
    rows = pl.concat([positives, negatives])[random.permutation(len(uses) * (1 + NEGATIVES))]
    n, whole = len(rows), sum(SHARES)
    counts = [n * SHARES[0] // whole, 0, n * SHARES[2] // whole]
    counts[0] += (n * SHARES[0] % whole) > 0
    counts[1] = n - counts[0] - counts[2]
    return rows.with_columns(part=pl.Series(np.repeat(["train", "validation", "test"], counts)))


def _unused(
    keys: NDArray[np.int64],
    items: NDArray[np.int64],
    owner: NDArray[np.int64],
    n_items: int,
    random: np.random.Generator,
) -> NDArray[np.int64]:
    """An item for each entry of ``owner`` that its key never occurs with: drawn again until none does."""
    known = np.unique(keys * n_items + items)
    drawn = random.integers(0, n_items, owner.size)
    while True:
        pairs = keys[owner] * n_items + drawn
        at = np.minimum(np.searchsorted(known, pairs), known.size - 1)
        bad = known[at] == pairs
        if not bad.any():
            return drawn
        drawn[bad] = random.integers(0, n_items, int(bad.sum()))
