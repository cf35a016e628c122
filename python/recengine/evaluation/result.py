"""What an evaluation found: one row a user, the means with intervals, the catalogue's share, the protocol."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recengine.contracts.metric import CatalogueMetric
from recengine.errors import DataError, UsageError
from recengine.evaluation.intervals import exact_mean, t_interval
from recengine.evaluation.metrics import built_in_metrics
from recengine.evaluation.protocol import Protocol
from recengine.files import write_with

if TYPE_CHECKING:
    import polars as pl

FORMAT = 1
DAMAGES = (OSError, KeyError, ValueError, TypeError, AttributeError)  # what a damaged file's content leads to
FACTS = ("user", "row", "n_history", "n_targets", "target_decile", "n_cold")
Interval = Callable[[NDArray[np.float64]], tuple[float, float]]


class Estimate(NamedTuple):
    """Mean over the n users for whom the metric is defined, and its 95 % interval."""

    metric: str
    mean: float
    low: float
    high: float
    n: int


def estimate(metric: str, values: NDArray[np.float64], interval: Interval = t_interval) -> Estimate | None:
    """None where no value is defined."""
    defined = values[~np.isnan(values)]
    if not defined.size:
        return None
    return Estimate(metric, exact_mean(defined), *interval(defined), int(defined.size))


@dataclass(frozen=True)
class Evaluation:
    """protocol: what was asked. per_user: a polars frame, one row a user: ``user`` (original id), ``row`` (of
    the vocabulary), ``n_history``, ``n_targets``, ``target_decile``, ``n_cold`` (targets that occur in no
    history), and a column a metric ('ndcg@10', NaN where it is not defined). exposure: int64 [n_items] by
    cut-off, how many users have an item among their first k. catalogue: the metrics of the whole catalogue,
    by column name."""

    protocol: Protocol
    per_user: pl.DataFrame
    exposure: dict[int, NDArray[np.int64]] = field(default_factory=dict)
    catalogue: dict[str, float] = field(default_factory=dict)
    catalogue_metrics: tuple[tuple[CatalogueMetric, int], ...] = field(default=(), repr=False)

    @property
    def metrics(self) -> list[str]:
        """Columns of the per-user metrics."""
        return [name for name in self.per_user.columns if name not in FACTS]

    def values(self, metric: str) -> NDArray[np.float64]:
        """One number a user. Raises UsageError for a metric that was not measured."""
        if metric not in self.metrics:
            raise UsageError(
                f"'{metric}' was not measured", where="metric", expected="one of " + ", ".join(self.metrics)
            )
        return np.asarray(self.per_user[metric].to_numpy(), np.float64)

    def summary(self, interval: Interval = t_interval) -> list[Estimate]:
        """Mean and 95 % interval over users of each per-user metric; Student's t unless another interval
        is given."""
        found = [estimate(name, self.values(name), interval) for name in self.metrics]
        return [one for one in found if one is not None]

    def __getitem__(self, metric: str) -> float:
        """The mean (or the catalogue's figure) of one metric; NaN where it is defined for nobody."""
        if metric in self.catalogue:
            return self.catalogue[metric]
        one = estimate(metric, self.values(metric))
        return math.nan if one is None else one.mean

    def __repr__(self) -> str:
        means = ", ".join(f"{name} {self[name]:.4f}" for name in self.metrics[:4])
        return f"Evaluation({self.protocol.task}, {len(self.per_user):,} users: {means})"

    def __str__(self) -> str:
        lines = [
            f"{m:24} {mean:.4f}  [{low:.4f}, {high:.4f}]  {n} users"
            for m, mean, low, high, n in self.summary()
        ]
        lines += [f"{name:24} {value:.4f}  (all lists together)" for name, value in self.catalogue.items()]
        return "\n".join([*lines, "95 % t intervals over users", f"protocol: {self.protocol}"])

    @classmethod
    def merge(cls, parts: Sequence[Evaluation]) -> Evaluation:
        """The evaluation of all users from evaluations of disjoint shares of them: rows in the order of the
        users, numbers identical to one evaluation of them all (sums are rounded once).

        Raises UsageError when there is nothing to merge, the protocols differ in more than the data, or a
        user occurs twice.
        """
        import polars as pl

        if not parts:
            raise UsageError("nothing to merge", where="Evaluation.merge")
        first = parts[0]
        for other in parts[1:]:
            differing = set(first.protocol.difference(other.protocol)) - {"data"}
            if differing or first.metrics != other.metrics:
                raise UsageError(
                    "these evaluations asked different questions",
                    where="Evaluation.merge",
                    found=", ".join(sorted(differing)) or "different metrics",
                )
        frame = pl.concat([part.per_user for part in parts]).sort("row")
        if frame["row"].is_duplicated().any():
            raise UsageError("a user occurs in two of the parts", where="Evaluation.merge")
        exposure = {k: np.sum([part.exposure[k] for part in parts], axis=0) for k in first.exposure}
        catalogue = {
            f"{metric.name}@{k}": metric.over_catalogue(exposure[k]) for metric, k in first.catalogue_metrics
        }
        return cls(_merged(parts), frame, exposure, catalogue, first.catalogue_metrics)

    def write(self, folder: str | Path, *, suffix: str = "") -> None:
        """Write evaluation.json, per_user.parquet and exposure.parquet, each whole or not at all, the JSON
        last. ``suffix`` goes before the dot."""
        import polars as pl

        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        write_with(place / f"per_user{suffix}.parquet", self.per_user.write_parquet)
        columns = {f"exposure@{k}": counts for k, counts in self.exposure.items()}
        write_with(place / f"exposure{suffix}.parquet", pl.DataFrame(columns).write_parquet)
        told = {
            "format": FORMAT,
            "protocol": str(self.protocol),
            "protocol_hash": self.protocol.hash,
            "protocol_fields": self.protocol.describe(),
            "intervals": "95 %, Student's t over users",
            "summary": [one._asdict() for one in self.summary()],
            "catalogue": {
                name: value if math.isfinite(value) else None for name, value in self.catalogue.items()
            },
        }
        text = json.dumps(told, indent=1, allow_nan=False) + "\n"
        write_with(place / f"evaluation{suffix}.json", lambda path: Path(path).write_text(text))

    @classmethod
    def read(cls, folder: str | Path, *, suffix: str = "") -> Evaluation:
        """What ``write`` wrote. Raises DataError where a file is missing or damaged."""
        import polars as pl

        place = Path(folder)
        names = [f"evaluation{suffix}.json", f"per_user{suffix}.parquet", f"exposure{suffix}.parquet"]
        path = place / names[0]
        try:
            told = json.loads(path.read_text())
            protocol = Protocol.from_description(told["protocol_fields"])
            catalogue = {
                name: math.nan if value is None else float(value) for name, value in told["catalogue"].items()
            }
            frame = pl.read_parquet(path := place / names[1])
            counts = pl.read_parquet(path := place / names[2])
            exposure = {int(name.partition("@")[2]): counts[name].to_numpy() for name in counts.columns}
        except (*DAMAGES, pl.exceptions.PolarsError) as broken:
            raise not_whole(path, broken, names) from broken
        known = built_in_metrics()
        again = []
        for column in catalogue:
            name, _, k = column.partition("@")
            metric = known.get(name)
            if isinstance(metric, CatalogueMetric):
                again.append((metric, int(k)))
        return cls(protocol, frame, exposure, catalogue, tuple(again))


def not_whole(path: Path, broken: Exception, names: Sequence[str]) -> DataError:
    """What is said where ``path``, one of the files ``names`` of an evaluation, is missing or damaged."""
    return DataError(
        "there is no whole evaluation here",
        where=str(path),
        found=f"{type(broken).__name__}: {broken}",
        expected=f"{', '.join(names[:-1])} and {names[-1]} of one evaluation",
        fix="evaluate again, or restore the files from a copy",
    )


def _merged(parts: Sequence[Evaluation]) -> Protocol:
    """The protocol of the merged parts: theirs, with a data hash that names all of them."""
    from dataclasses import replace
    from hashlib import sha256

    hashes = sorted({part.protocol.data for part in parts})
    data = hashes[0] if len(hashes) == 1 else sha256(",".join(hashes).encode()).hexdigest()
    return replace(parts[0].protocol, data=data)
