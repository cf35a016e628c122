"""What an evaluation of a click model found: metrics with intervals, bins, slices, every row kept."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recengine.errors import UsageError
from recengine.evaluation.calibration import Bin, bin_numbers, calibration_bins
from recengine.evaluation.clicks import (
    DEFINITIONS,
    auc_interval,
    auc_parts,
    click_metrics,
    group_aucs,
    row_losses,
)
from recengine.evaluation.intervals import t_interval
from recengine.evaluation.off_policy import policy_value
from recengine.evaluation.result import DAMAGES, Estimate, not_whole
from recengine.files import write_json, write_with

if TYPE_CHECKING:
    import polars as pl

FORMAT = 1
KIND = "clicks"
_DRAWS = 200
_NONE = (math.nan, math.nan)  # ends of an interval that does not exist


@dataclass(frozen=True)
class ClickProtocol:
    """How a click model was asked. data: sha256 of the rows. split: the split's description."""

    task: str
    data: str = ""
    split: Mapping[str, Any] = field(default_factory=dict)
    bins: int = 10
    metrics: Mapping[str, str] = field(default_factory=lambda: dict(DEFINITIONS))

    def describe(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return dict(json.loads(json.dumps(asdict(self), default=str)))

    def difference(self, other: ClickProtocol) -> list[str]:
        """Names of the fields in which two protocols differ."""
        mine, theirs = self.describe(), other.describe()
        return [name for name in mine if mine[name] != theirs.get(name)]

    @property
    def hash(self) -> str:
        """First 12 hex digits of the sha256 of the JSON with sorted keys."""
        text = json.dumps(self.describe(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def __str__(self) -> str:
        return f"{self.task}, clicks predicted row by row, natural logarithm, {self.bins} bins [{self.hash}]"


@dataclass(frozen=True)
class ClickEvaluation:
    """rows: label, probability and, where known, group, a row of the part each. estimates: by metric. bins:
    calibration. slices: by feature, a frame with a row a value (value, rows, clicks, predicted, auc,
    log_loss)."""

    protocol: ClickProtocol
    rows: pl.DataFrame
    estimates: dict[str, Estimate]
    bins: list[Bin]
    slices: dict[str, pl.DataFrame] = field(default_factory=dict)

    @property
    def metrics(self) -> list[str]:
        """Names of what was measured."""
        return list(self.estimates)

    def parts(self) -> dict[str, NDArray[np.float64]]:
        """Numbers a row whose means are the AUC (``auc_parts``) and the mean log-likelihood, the negative of
        the log loss: larger is better for both, and two models can be compared row by row."""
        labels, given = self.rows["label"].to_numpy(), self.rows["probability"].to_numpy()
        return {"auc": auc_parts(labels, given), "log_likelihood": -row_losses(labels, given)}

    def summary(self) -> list[Estimate]:
        """Each metric with its 95 % interval (NaN where none exists: an AUC with one click); n is rows, of
        gauc groups."""
        return list(self.estimates.values())

    def __getitem__(self, metric: str) -> float:
        if metric not in self.estimates:
            raise UsageError(
                f"'{metric}' was not measured", where="metric", expected="one of " + ", ".join(self.metrics)
            )
        return self.estimates[metric].mean

    def __str__(self) -> str:
        lines = [
            f"{m:24} {mean:.5f}  [{low:.5f}, {high:.5f}]  {n}"
            if math.isfinite(low)
            else f"{m:24} {mean:.5f}  {n}"
            for m, mean, low, high, n in self.summary()
        ]
        return "\n".join([*lines, f"protocol: {self.protocol}"])

    def write(self, folder: str | Path, *, suffix: str = "") -> None:
        """Write evaluation.json and per_row.parquet, each whole or not at all, the JSON last."""
        place = Path(folder)
        write_with(place / f"per_row{suffix}.parquet", self.rows.write_parquet)
        write_json(
            place / f"evaluation{suffix}.json",
            {
                "format": FORMAT,
                "kind": KIND,
                "protocol": str(self.protocol),
                "protocol_hash": self.protocol.hash,
                "protocol_fields": self.protocol.describe(),
                "summary": [
                    one._asdict() if math.isfinite(one.low) else one._asdict() | {"low": None, "high": None}
                    for one in self.summary()
                ],
                "bins": [asdict(one) for one in self.bins],
                "slices": {name: _plain(frame) for name, frame in self.slices.items()},
            },
        )

    @classmethod
    def read(cls, folder: str | Path, *, suffix: str = "") -> ClickEvaluation:
        """What ``write`` wrote. Raises DataError where a file is missing or damaged."""
        import polars as pl

        place = Path(folder)
        names = [f"evaluation{suffix}.json", f"per_row{suffix}.parquet"]
        path = place / names[0]
        try:
            told = json.loads(path.read_text())
            empty = {"low": math.nan, "high": math.nan}
            estimates = {
                one["metric"]: Estimate(**(one if one["low"] is not None else one | empty))
                for one in told["summary"]
            }
            protocol = ClickProtocol(**told["protocol_fields"])
            bins = [Bin(**one) for one in told["bins"]]
            slices = {name: pl.DataFrame(table) for name, table in told["slices"].items()}
            return cls(protocol, pl.read_parquet(path := place / names[1]), estimates, bins, slices)
        except (*DAMAGES, pl.exceptions.PolarsError) as broken:
            raise not_whole(path, broken, names) from broken


def measure_clicks(
    labels: NDArray[Any],
    probabilities: NDArray[Any],
    protocol: ClickProtocol,
    *,
    groups: NDArray[np.int64] | None = None,
    slices: Mapping[str, tuple[NDArray[Any], list[str]]] | None = None,
    propensities: NDArray[Any] | None = None,
    choices: int = 0,
) -> ClickEvaluation:
    """Everything about these predictions.

    groups: int64 [n], what GAUC groups by (NOBODY: no group). slices: by feature, the code of each row and a
    name a code (-1: in no table). propensities: float [n], chance with which the row was shown, and choices,
    among how many: then the click rate and the log loss of showing every choice equally often stand beside
    the plain ones, by IPS and SNIPS.
    Raises DataError for labels, probabilities or chances out of range.
    """
    import polars as pl

    values = click_metrics(labels, probabilities, groups, protocol.bins)
    intervals = _intervals(labels, probabilities, groups, values, protocol.bins)
    estimates = {
        name: Estimate(name, value, *intervals.get(name, _NONE), _count(name, labels, probabilities, groups))
        for name, value in values.items()
    }
    if propensities is not None and choices:
        estimates |= _corrected(labels, probabilities, propensities, choices)
    columns: dict[str, Any] = {
        "label": np.asarray(labels, np.float32),
        "probability": np.asarray(probabilities, np.float32),
    }
    if groups is not None:
        columns["group"] = groups
    tables = {
        name: _by_value(labels, probabilities, codes, words)
        for name, (codes, words) in (slices or {}).items()
    }
    bins = calibration_bins(labels, probabilities, protocol.bins)
    return ClickEvaluation(protocol, pl.DataFrame(columns), estimates, bins, tables)


def _intervals(
    labels: Any, probabilities: Any, groups: Any, values: Mapping[str, float], bins: int
) -> dict[str, tuple[float, float]]:
    y, p = np.asarray(labels, np.float64), np.asarray(probabilities, np.float64)
    if y.size < 2:
        return {}
    found = {
        "auc": auc_interval(y, p),
        "log_loss": t_interval(row_losses(y, p)),
        "brier": t_interval((p - y) ** 2),
        "ece": _error_interval(y, p, bins),
    }
    if "normalised_entropy" in values:
        scale = values["normalised_entropy"] / values["log_loss"]
        found["normalised_entropy"] = (found["log_loss"][0] * scale, found["log_loss"][1] * scale)
    if "calibration" in values:
        ratio = values["calibration"]
        half = 1.96 * math.sqrt(float(((p - ratio * y) ** 2).sum())) / float(y.sum())
        found["calibration"] = (ratio - half, ratio + half)
    if "gauc" in values:
        each, rows = group_aucs(y, p, groups)
        spread = math.sqrt(float((rows**2 * (each - values["gauc"]) ** 2).sum())) / float(rows.sum())
        half = 1.96 * spread if each.size > 1 else math.nan
        found["gauc"] = (values["gauc"] - half, values["gauc"] + half)
    return {name: ends for name, ends in found.items() if all(map(math.isfinite, ends))}


def _error_interval(y: NDArray[np.float64], p: NDArray[np.float64], bins: int) -> tuple[float, float]:
    """Percentile bootstrap over rows, the bins kept."""
    code = bin_numbers(p, bins)
    random = np.random.default_rng(0)
    gap = p - y
    drawn = []
    for _ in range(_DRAWS):
        weight = random.poisson(1.0, y.size).astype(np.float64)
        sums = np.bincount(code, weight * gap, minlength=bins)
        drawn.append(float(np.abs(sums).sum() / max(1.0, weight.sum())))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def _corrected(labels: Any, probabilities: Any, propensities: Any, choices: int) -> dict[str, Estimate]:
    chance = np.asarray(propensities, np.float64)
    even = np.full(chance.shape, 1.0 / choices)
    found = {}
    for name, values in (("click_rate", labels), ("log_loss", row_losses(labels, probabilities))):
        told = policy_value(values, chance, even)
        if name == "click_rate":
            found[name] = Estimate(name, *told.plain, chance.size)
        found[f"{name}_ips"] = Estimate(f"{name}_ips", *told.ips, chance.size)
        found[f"{name}_snips"] = Estimate(f"{name}_snips", *told.snips, chance.size)
    return found


def _count(name: str, labels: Any, probabilities: Any, groups: Any) -> int:
    return int(group_aucs(labels, probabilities, groups)[1].size) if name == "gauc" else int(np.size(labels))


def _by_value(labels: Any, probabilities: Any, codes: NDArray[Any], words: list[str]) -> pl.DataFrame:
    import polars as pl

    rows = []
    for code, word in enumerate(words):
        chosen = codes == code
        if not chosen.any():
            continue
        y, p = np.asarray(labels)[chosen], np.asarray(probabilities)[chosen]
        found = click_metrics(y, p, None)
        rows.append(
            {
                "value": word,
                "rows": int(chosen.sum()),
                "clicked": float(y.mean()),
                "predicted": float(p.mean()),
                "auc": found.get("auc"),
                "log_loss": found.get("log_loss"),
            }
        )
    kinds = {"value": pl.String, "rows": pl.Int64, "clicked": pl.Float64, "predicted": pl.Float64}
    return pl.DataFrame(rows, schema={**kinds, "auc": pl.Float64, "log_loss": pl.Float64})


def _plain(frame: pl.DataFrame) -> dict[str, list[Any]]:
    return {str(name): values for name, values in frame.to_dict(as_series=False).items()}
