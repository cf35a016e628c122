"""Features of pairs of a user and an item: tables of users and items, joined when a pair is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recengine.data import Vocabulary
from recengine.data.clicks import FeatureEncoder
from recengine.data.clicks.coding import as_text
from recengine.data.clicks.log import need_column
from recengine.data.frames import Place
from recengine.errors import DataError

if TYPE_CHECKING:
    import polars as pl

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class PairFeatures:
    """users and items: a row of features for each row of the vocabularies, the id among them. known: bool a
    user, whether the table has them. context: one value a column for every pair."""

    users: pl.DataFrame
    items: pl.DataFrame
    known: NDArray[np.bool_]
    context: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        users: Vocabulary,
        items: Vocabulary,
        *,
        user_table: Any = None,
        item_table: Any = None,
        user_column: str = "user",
        item_column: str = "item",
        context: Mapping[str, Any] | None = None,
    ) -> PairFeatures:
        """From tables (polars, pandas or Arrow) with one row a user and one row an item; None: the id is the
        only feature.

        Raises DataError for a table without the column of ids or with two rows of one id, an item of the
        catalogue without a row, and a column that comes from two places. A user without a row is told when
        that user is asked for.
        """
        of_users, known = _aligned(users, user_table, user_column, "the table of users")
        of_items, held = _aligned(items, item_table, item_column, "the table of items")
        if not held.all():
            absent = items.tokens[~held]
            raise DataError(
                "items that may be recommended have no features",
                where="the table of items",
                found=f"{absent.size:,} of {len(items):,}, such as {', '.join(map(str, absent[:5]))}",
                expected=f"a row for every item of the catalogue, by '{item_column}'",
                fix="add their rows; an empty cell counts as a missing value",
            )
        places = [*of_users.columns, *of_items.columns, *(context or {})]
        twice = sorted({name for name in places if places.count(name) > 1})
        if twice:
            raise DataError(
                "a column comes from two places",
                where="users, items, context",
                found=", ".join(twice),
                fix="rename it, or leave it out of one of them",
            )
        return cls(of_users, of_items, known, dict(context or {}))

    @property
    def columns(self) -> list[str]:
        """Of a pair."""
        return [*self.users.columns, *self.items.columns, *self.context]

    def serve(self, encoder: FeatureEncoder, *others: str) -> None:
        """Raises DataError naming every column that the encoder needs and neither a table nor ``others``
        has."""
        needed = {spec.source(name): None for name, spec in encoder.config.features.items()}
        absent = [column for column in needed if column not in (*self.columns, *others)]
        if absent:
            raise DataError(
                "the ranking model needs features that are in no table",
                where="users, items, context",
                found=", ".join(self.columns),
                expected=", ".join(absent),
                fix="add the columns to the tables of users and items, or give one value for all pairs",
            )

    def pairs(self, users: Ids, items: Ids) -> pl.DataFrame:
        """A row for each pair of rows of the vocabularies. Raises DataError for users without features and
        for people that the vocabulary does not know (-1)."""
        import polars as pl

        unknown = (users < 0) | ~self.known[users]
        if unknown.any() and (len(self.users.columns) > 1 or (users < 0).any()):
            first = int(users[np.argmax(unknown)])
            raise DataError(
                "a user has no features",
                where="the table of users",
                found="somebody new" if first < 0 else repr(self.users.row(first)[0]),
                expected="a row for everybody who is asked for",
                fix="add a row with the id; an empty cell counts as a missing value",
            )
        made = pl.concat([self.users[users], self.items[items]], how="horizontal")
        return made.with_columns(pl.lit(value).alias(name) for name, value in self.context.items())


def _aligned(
    vocabulary: Vocabulary, table: Any, column: str, where: str
) -> tuple[pl.DataFrame, NDArray[np.bool_]]:
    """A row of ``table`` for each token, and whether it has one. The id column comes first."""
    import narwhals.stable.v1 as nw
    import polars as pl

    ids = pl.Series(column, vocabulary.tokens.tolist())
    if table is None:
        return ids.to_frame(), np.ones(len(vocabulary), bool)
    try:
        frame = nw.from_native(table, eager_only=True).to_polars()
    except TypeError:
        raise DataError(
            "this is no table",
            where=where,
            found=type(table).__name__,
            expected="a polars, pandas or Arrow table",
        ) from None
    need_column(frame.columns, column, where)
    keys = as_text(frame[column], Place(where, column))
    if keys.is_duplicated().any():
        raise DataError(
            "one id has two rows",
            where=where,
            found=str(keys.filter(keys.is_duplicated())[0]),
            expected=f"one row for each '{column}'",
            fix=f"frame.unique('{column}', keep='last') keeps the last",
        )
    at = pl.DataFrame({"key": keys, "at": np.arange(frame.height)})
    asked = pl.DataFrame({"key": as_text(ids, Place(where, column))})
    places = asked.join(at, on="key", how="left", maintain_order="left")["at"]
    others = frame.drop(column)[places.fill_null(0)] if frame.height else frame.drop(column)
    return pl.concat([ids.to_frame(), others], how="horizontal"), places.is_not_null().to_numpy()
