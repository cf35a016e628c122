"""What a click model must know of the features before it sees a row of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from recengine.contracts.model import DataFacts
from recengine.errors import UsageError


@dataclass(frozen=True)
class FeatureFact:
    """One feature of a FeatureBatch.

    kind: 'one' (int64 [B], a row of its table), 'bag' (values and offsets, rows of its table) or 'number'
    (float32 [B]). table: whose table of values it uses; size: rows of that table (0 for a number). Row 0 is a
    missing value, row 1 an unknown one. group: features of one group mean one thing together.
    """

    name: str
    kind: Literal["one", "bag", "number"]
    table: str
    size: int
    group: str


def feature_facts(facts: DataFacts) -> tuple[FeatureFact, ...]:
    """The features of a click log. Raises UsageError when the data is no click log."""
    told = facts.extras.get("features")
    if not told:
        raise UsageError(
            "this model learns from the features of a click log",
            found=f"interactions of {facts.n_users} users and {facts.n_items} items",
            expected="a table with a label column",
        )
    return tuple(FeatureFact(**one) for one in told)


def click_rate(facts: DataFacts) -> float:
    """Share of clicks in training, kept off 0 and 1."""
    return min(max(float(facts.extras.get("click_rate", 0.5)), 1e-6), 1 - 1e-6)
