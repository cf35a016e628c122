"""What the columns of a click log mean: one FeatureSpec a feature, and the log's other columns."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from recengine.config import Config, knob

Kind = Literal["categorical", "multi", "sequence", "numeric"]
Encoding = Literal["vocabulary", "hash"]
Transform = Literal["standard", "log", "none", "buckets"]


class FeatureSpec(Config):
    """One feature.

    categorical: one value a row; multi: several without an order; sequence: several, oldest first; numeric.
    Row 0 of a table of values stands for a missing value, row 1 for one that training did not know (or knew
    in fewer than ``min_count`` rows); with ``encoding='hash'`` every value has a row, some share one.
    """

    kind: Kind = knob("categorical", "what a value is")
    column: str = knob("", "its column; empty: the feature's own name")
    group: str = knob("", "features that mean one thing together (a token of a mixer); empty: its own")
    encoding: Encoding = knob("vocabulary", "values listed in training, or hashed into 'buckets' rows")
    buckets: int = knob(0, "rows of a hashed table, or quantile bins of a number", ge=0)
    min_count: int = knob(
        0, "training rows a value needs for a row of its own; 0: as the data section says", ge=0
    )
    share: str = knob("", "another feature whose table of values, and encoding, this one uses")
    separator: str = knob("|", "between the values of a text (multi, sequence)")
    max_length: int = knob(50, "most recent values kept of a sequence", ge=1)
    transform: Transform = knob(
        "standard", "of a number: (x - mean) / deviation, of log(1 + |x|), raw, or bins"
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        needs_buckets = self.encoding == "hash" or self.transform == "buckets"
        if needs_buckets and self.buckets < 2:
            raise ValueError("a hashed or binned feature needs 'buckets' of 2 or more")
        if self.kind == "numeric" and (self.encoding == "hash" or self.share):
            raise ValueError("a number has no table of values to hash or to share")
        if self.kind != "numeric" and self.transform == "buckets":
            raise ValueError("only numbers are put in quantile bins; hash the values instead")
        return self

    def source(self, name: str) -> str:
        """The column of the feature ``name``."""
        return self.column or name


class ClickDataConfig(Config):
    """Which columns of a click log are what."""

    label: str = knob("label", "column of the label")
    positive_from: float | None = knob(
        None, "the label is 1 where its column is this or more; none: it is 0 or 1"
    )
    group: str = knob("", "column whose values GAUC groups by (users); empty: no GAUC")
    time: str = knob("", "column of the time; empty: none")
    weight: str = knob("", "column of row weights in training; empty: all 1")
    propensity: str = knob("", "column of the chance with which the row was shown; empty: none")
    action: str = knob("", "feature that was chosen with that chance (the item)")
    part: str = knob("", "column that says train, validation or test, for split.strategy = 'given'")
    ignore: tuple[str, ...] = knob((), "columns that are no features")
    min_count: int = knob(1, "training rows a value needs for a row of its own", ge=1)
    keep_negatives: float = knob(
        1.0, "share of training rows without a click that is kept, each weighing 1 / share", gt=0, le=1
    )
    slices: tuple[str, ...] = knob((), "categorical (or binned) features with a table of metrics by value")
    features: dict[str, FeatureSpec] = knob({}, "features by name; empty: every other column, kinds guessed")

    @model_validator(mode="after")
    def _refers(self) -> Self:
        for name, spec in self.features.items():
            shared = self.features.get(spec.share) if spec.share else None
            if spec.share and (shared is None or shared.kind == "numeric" or shared.share):
                raise ValueError(
                    f"feature '{name}' shares the table of '{spec.share}', which has none of its own"
                )
            if shared is not None and spec.encoding == "hash" and shared.encoding != "hash":
                raise ValueError(
                    f"feature '{name}' hashes values for the table of '{spec.share}', which lists them"
                )
        return self

    def table_of(self, spec: FeatureSpec) -> FeatureSpec:
        """The spec whose table of values ``spec`` uses: its own, or the one it shares."""
        return self.features[spec.share] if spec.share else spec

    def over(self, base: ClickDataConfig) -> ClickDataConfig:
        """What is set here, over what is set in ``base`` (a data set's own description)."""
        return ClickDataConfig.parse(
            {**base.model_dump(exclude_unset=True), **self.model_dump(exclude_unset=True)}
        )
