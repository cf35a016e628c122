"""MovieLens 1M as clicks."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import TYPE_CHECKING

from recengine.data.clicks import ClickDataConfig, ClickLog, FeatureSpec
from recengine_plugins.click_datasets.place import locate

if TYPE_CHECKING:
    import polars as pl

FEATURES = {
    "user": FeatureSpec(group="user"),
    "gender": FeatureSpec(group="person"),
    "age": FeatureSpec(group="person"),
    "occupation": FeatureSpec(group="person"),
    "zip": FeatureSpec(group="home", min_count=10),
    "item": FeatureSpec(group="item"),
    "genres": FeatureSpec(kind="multi", group="film"),
    "year": FeatureSpec(group="film"),
}


class MovieLensClicks:
    """1,000,209 ratings; 4 or more is a click (575,281). Users with gender, age, occupation and the first
    three digits of the zip code; films with genres and year. The copy has no time stamps: rows are divided by
    chance, as the section 'split' says. 616 ratings of films that could not be named have no genres or year.
    """

    name = "ml-1m-clicks"
    summary = "ml-1m with user and film features, rating 4 or more as the click"
    licence = "GroupLens terms: research use, no redistribution without permission, no commercial use"

    def load(self, cache: Path) -> ClickLog:
        """Read it; raises DataError where it is not on this machine."""
        import polars as pl

        folder = locate("restricted/ml-1m", cache)
        with gzip.open(folder / "ratings.csv.gz") as file:
            ratings = pl.read_csv(file.read(), infer_schema=False)
        users = _table(folder / "users.dat.gz", ("user_id", "gender", "age", "occupation", "zip"))
        films = _table(folder / "movies.dat.gz", ("movie_id", "title", "genres"))
        frame = (
            ratings.join(users, on="user_id", how="left", maintain_order="left")
            .join(films, on="movie_id", how="left", maintain_order="left")
            .select(
                pl.col("user_id").alias("user"),
                "gender",
                "age",
                "occupation",
                pl.col("zip").str.head(3),
                pl.col("item_dense").alias("item"),
                "genres",
                pl.col("title").str.extract(r"\((\d{4})\)$").alias("year"),
                pl.col("rating").cast(pl.Int8),
            )
        )
        about = ClickDataConfig(
            label="rating", positive_from=4, group="user", features=FEATURES, slices=("gender", "age")
        )
        return ClickLog.from_frame(frame, about, name=self.name)


def _table(path: Path, names: tuple[str, ...]) -> pl.DataFrame:
    """A polars frame of a file of values divided by '::', in Latin-1."""
    import polars as pl

    with gzip.open(path, "rt", encoding="latin-1") as file:
        rows = [line.rstrip("\n").split("::") for line in file]
    return pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String), orient="row")
