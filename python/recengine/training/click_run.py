"""A fitted click model with everything that belongs to it."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recengine.data.clicks import ClickSplit, ClickTable, serving_rows
from recengine.errors import UsageError
from recengine.training.config import CLICKS, ServingPrecision
from recengine.training.run import SUFFIXES, Run
from recengine.training.validation import probabilities

if TYPE_CHECKING:
    import polars as pl

    from recengine.evaluation.click_result import ClickEvaluation


@dataclass(repr=False)
class ClickRun(Run):
    """A Run over a ClickSplit: it predicts instead of recommending."""

    split: ClickSplit  # type: ignore[assignment]
    evaluations: MutableMapping[str, ClickEvaluation] = field(default_factory=dict)  # type: ignore[assignment]

    def evaluate(self, task: str = "test", **options: Any) -> ClickEvaluation:  # type: ignore[override]
        """Measure on the 'test' or 'validation' part; kept in ``evaluations``, and in the directory if there
        is one.

        Raises UsageError when the split has no such part, or for options, which a click model has none of.
        """
        from recengine.evaluation.click_result import ClickProtocol, measure_clicks

        table = self.split.tables().get(task) if task in SUFFIXES else None
        if table is None:
            raise UsageError("the split has no such task", found=task, expected="test or validation")
        if options:
            raise UsageError(
                "a click model is measured by one set of metrics", where="evaluate", found=", ".join(options)
            )
        chosen: Any = self.config.evaluation
        about = self.split.encoder.config
        protocol = ClickProtocol(task, table.fingerprint(), self.split.description, chosen.bins)
        result = measure_clicks(
            table.labels,
            probabilities(self.model, table),
            protocol,
            groups=table.groups,
            slices={name: self._slice(table, name, chosen.slice_values) for name in about.slices},
            propensities=table.propensities,
            choices=self._choices(),
        )
        self._keep(task, result)
        return result

    def predict(self, frame: Any, *, precision: ServingPrecision = "32-true") -> NDArray[np.float64]:
        """float64 [n]: the probability of a click for each row of a table with the features' columns.

        precision: '32-true', or 'bf16-mixed': matrices are multiplied in bfloat16, logits and probabilities
        stay in float32. The words are those of ``training.precision``.
        Raises DataError where a column is missing or holds something else than in training, UsageError for
        another precision.
        """
        return probabilities(self.model, serving_rows(self.split.encoder, frame), precision=precision)

    def recommend(
        self, users: Sequence[Any] | Mapping[Any, Sequence[Any]], k: int = 10, *, strict: bool = False
    ) -> pl.DataFrame:
        """A click model scores rows: UsageError."""
        raise UsageError(
            f"'{self.name}' predicts clicks of rows and ranks no catalogue", fix="use predict(table)"
        )

    def describe(self, digest: str | None = None) -> dict[str, Any]:
        """What run.json holds."""
        return {**super().describe(digest), "task": CLICKS}

    def _choices(self) -> int:
        """Among how many values the logged choice was made: those of the feature ``data.action``."""
        about = self.split.encoder.config
        return len(self.split.encoder.vocabularies.get(about.action, ())) if about.action else 0

    def _slice(self, table: ClickTable, name: str, most: int) -> tuple[NDArray[np.int64], list[str]]:
        """Codes of the most frequent values of a feature, and the values."""
        column = table.columns[name]
        if not isinstance(column, np.ndarray) or column.dtype.kind != "i":
            raise UsageError("a slice needs a feature with one value a row", where="data.slices", found=name)
        rows, counts = np.unique(column, return_counts=True)
        kept = rows[np.argsort(-counts, kind="stable")][:most]
        codes = np.full(int(rows.max()) + 1, -1, np.int64)
        codes[kept] = np.arange(kept.size)
        return codes[column], [self.split.encoder.value_of(name, int(row)) for row in kept]
