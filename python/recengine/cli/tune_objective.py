"""What a trial of ``tune`` does: fit the model at a point and judge it on validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from recengine.cli.inputs import read_for
from recengine.errors import UsageError

if TYPE_CHECKING:
    from recengine.training.progress import Listener, Progress
    from recengine.tuning.stopping import Report

_FREE = ("training.device", "training.checkpoint_every", "evaluation.memory")  # decide no value


@cache
def data_of(model: str, name: str, options: tuple[str, ...]) -> Any:
    """Read once a process: every trial of a worker uses the same data."""
    return read_for(model, name, options)


def items_of(data: Any) -> int:
    """Items of the catalogue; 0 where rows are clicked on instead of items ranked."""
    from recengine.data import Interactions, Split

    if isinstance(data, Split):
        return int(data.train.n_items)
    return int(data.n_items) if isinstance(data, Interactions) else 0


def of_clicks(model: str) -> bool:
    from recengine.hooks import host
    from recengine.training.config import CLICKS

    return host().registries["model"].get(model).extras.get("task") == CLICKS


@dataclass(frozen=True)
class FitObjective:
    """Fits the model at a point and returns the validation metric; the test task is never looked at."""

    model: str
    data: str
    options: tuple[str, ...]
    settings: dict[str, Any]
    metric: str

    def __call__(self, point: Mapping[str, Any], seed: int) -> float:
        return self._fit(point, seed, None)

    def judged(self, point: Mapping[str, Any], seed: int) -> Any:
        """Values of the users, fitted to the training events alone and judged by the last of these: targets
        that no trial was judged by."""
        from recengine.training import fit

        run = fit(self.model, split_of(self).train, settings=self._at(point), seed=seed)
        return run.evaluate().values(self.metric)

    def _at(self, point: Mapping[str, Any]) -> dict[str, Any]:
        settings = {name: dict(section) for name, section in self.settings.items() if section is not None}
        for name, value in point.items():
            section, _, key = name.partition(".")
            settings.setdefault(section, {})[key] = value
        return settings

    def _fit(self, point: Mapping[str, Any], seed: int, progress: Listener | None) -> float:
        from recengine.training import fit

        data = data_of(self.model, self.data, self.options)
        run = fit(self.model, data, settings=self._at(point), seed=seed, progress=progress)
        if run.split.validation is None:
            raise UsageError("tuning needs a validation task", fix="choose a split that has one")
        return float(run.evaluate("validation")[self.metric])


@dataclass(frozen=True)
class WatchedObjective(FitObjective):
    """The same; each epoch's validation is reported, so that a hopeless trial ends early."""

    def watched(self, point: Mapping[str, Any], seed: int, report: Report) -> float:
        told: set[int] = set()

        def listen(event: Progress) -> None:
            if self.metric in event.metrics and event.epoch not in told and event.stage == "train":
                told.add(event.epoch)
                report(event.epoch - 1, event.metrics[self.metric])

        return self._fit(point, seed, listen)


def what_values_depend_on(
    model: str, data: Any, settings: Mapping[str, Any], searched: Sequence[str]
) -> dict[str, str]:
    """What values depend on beside the point: the data and the settings that are not searched."""
    from recengine.settings import flatten

    free = {*searched, *_FREE}
    fixed = {name: str(value) for name, value in flatten(settings).items() if name not in free}
    return {"model": model, "data": _print_of(data), **fixed}


def _print_of(data: Any) -> str:
    """SHA-256 of the data, abridged; of a click log: of its files."""
    import hashlib

    from recengine.data import Interactions
    from recengine.data.clicks import ClickLog
    from recengine.training.checkpoint import digest_of
    from recengine.training.record import fingerprint

    if isinstance(data, Interactions):
        return data.fingerprint()[:16]
    parts = (
        [digest_of(file) for file in data.files] if isinstance(data, ClickLog) else fingerprint(data).values()
    )
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:16]


def metric_of(model: str, asked: str | None, settings: Mapping[str, Any]) -> str:
    """The metric that trials are judged by. Raises UsageError for one that a validation with these settings
    does not measure, or of which less is better: every trial would fail."""
    from recengine.config import did_you_mean
    from recengine.evaluation.clicks import LOWER_IS_BETTER
    from recengine.evaluation.metrics import column_name, resolve_metrics
    from recengine.hooks import host
    from recengine.training import resolve

    if asked in LOWER_IS_BETTER:
        raise UsageError(
            "less of this metric is better", where="--metric", found=asked, expected="auc or gauc"
        )
    if of_clicks(model):
        measured, chosen = ["auc", "gauc"], asked or "auc"
    else:
        config = resolve(model, dict(settings), host()).evaluation
        columns = resolve_metrics(config.metrics or None, config.cutoffs)
        measured, chosen = [column_name(metric, k) for metric, k in columns], asked or "ndcg@10"
    if chosen not in measured:
        near = did_you_mean(chosen, measured)
        raise UsageError(
            "the metric is not measured",
            where="--metric",
            found=chosen,
            expected="one of " + ", ".join(measured),
            fix=f"did you mean '{near}'?" if near else "add it to evaluation.metrics or evaluation.cutoffs",
        )
    return chosen


def split_of(objective: FitObjective) -> Any:
    """The split that every trial fits to and is judged by."""
    from recengine.hooks import host
    from recengine.training import resolve
    from recengine.training.splitting import as_split

    config = resolve(objective.model, objective.settings, host())
    return as_split(data_of(objective.model, objective.data, objective.options), config.split)  # type: ignore[attr-defined]


def check_judgeable(objective: FitObjective) -> None:
    """Raises UsageError, or DataError, where the training events cannot be split once more."""
    from recengine.hooks import host
    from recengine.training import resolve
    from recengine.training.splitting import as_split

    if of_clicks(objective.model):
        raise UsageError(
            "a click model has no earlier targets to judge by", where="--judge", fix="leave it out"
        )
    config = resolve(objective.model, objective.settings, host())
    as_split(split_of(objective).train, config.split)  # type: ignore[attr-defined]
