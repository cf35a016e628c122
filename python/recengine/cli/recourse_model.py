"""From the MODEL argument of ``recourse`` to a method that answers: fitted from a table, or loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recengine.config import did_you_mean
from recengine.errors import DataError, UsageError

if TYPE_CHECKING:
    import polars as pl

    from recengine.contracts.recourse import Classifier
    from recengine.recourse import Columns

FITTED_HERE = ("logistic", "mlp")


@dataclass(frozen=True)
class Asked:
    """What the options say about the model."""

    model: str
    train: Path | None
    data: Path
    header: tuple[str, ...] | None
    label: str | None
    accept: str | None
    drop: tuple[str, ...]
    categories: tuple[str, ...]
    hidden: tuple[int, ...]
    seed: int
    refits: int = 0


@dataclass(frozen=True)
class Ready:
    """A method, the columns it reads, the class that people want, where it came from, its whole refits."""

    method: Any
    columns: Columns
    wanted: str
    target: int
    label: str | None
    source: str
    refits: tuple[Classifier, ...] = ()


def ready(asked: Asked, entry: Any, config: Any) -> Ready:
    """Fit or load. Raises UsageError for a MODEL that is neither."""
    folder = Path(asked.model).expanduser()
    if asked.refits and asked.model != "mlp":
        raise UsageError(
            "refits are of nets fitted here", where="--refits", found=asked.model, expected="mlp",
            fix="for a linear model the ellipsoid is the set of its refits already",
        )  # fmt: skip
    if asked.model in FITTED_HERE:
        return _fitted(asked, entry.load(), config)
    if (folder / "run.json").exists():
        raise UsageError(
            "this run ranks items; it does not accept or refuse people",
            where=asked.model,
            fix="item recourse is a Python function: see docs/recourse.md",
        )
    if folder.is_dir():
        return _loaded(asked, folder, entry.load(), config)
    near = did_you_mean(asked.model, FITTED_HERE)
    raise UsageError(
        "MODEL is neither a kind of model nor a saved folder",
        where="MODEL",
        found=asked.model,
        expected="logistic, mlp, or a folder that --save wrote",
        fix=f"did you mean '{near}'?" if near else None,
    )


def _fitted(asked: Asked, method: Any, config: Any) -> Ready:
    from recengine.recourse import Columns, fit_net, linear_classifier, refitted

    table, label = _training(asked)
    classes, target = _classes(table, label, asked.accept)
    features = table.drop([label, *[name for name in asked.drop if name in table.columns]])
    columns = Columns.learn(features, categories=asked.categories)
    X, y = columns.encode(features), _codes(table, label, classes)
    centre, scale, names = columns.centre, columns.scale, columns.features
    again: dict[str, Any] = {}
    if asked.model == "mlp":

        def fit(rows: Any, labels: Any, seed: int) -> Any:
            return fit_net(
                rows,
                labels,
                names,
                centre=centre,
                scale=scale,
                classes=classes,
                hidden=asked.hidden,
                seed=seed,
            )

        classifier = fit(X, y, asked.seed)
        if asked.refits:
            again["refits"] = refitted(fit, X, y, asked.refits, seed=asked.seed)
    else:
        classifier = linear_classifier(names, centre=centre, scale=scale, classes=classes)
    made = _of(method)(classifier, X, y, config, target=target, **again)
    source = f"{asked.model} fitted on {len(X)} rows, {len(columns.columns)} columns"
    return Ready(made, columns, classes[target], target, label, source, tuple(again.get("refits", ())))


def _loaded(asked: Asked, folder: Path, method: Any, config: Any) -> Ready:
    from recengine.recourse import load_model

    saved = load_model(folder)
    if saved.columns is None:
        raise UsageError("the saved model reads no table", where=str(folder), fix="use it from Python")
    classes = [str(one) for one in saved.classifier.classes]
    target = (
        saved.target if asked.accept is None else _accepted(classes, asked.accept, saved.label or "label")
    )
    label = asked.label or saved.label
    again: dict[str, Any] = {"refits": saved.refits} if saved.refits else {}
    if asked.train is None:
        if not hasattr(method, "restored"):
            raise UsageError("this method needs the training rows", fix="give --train TABLE")
        made = method.restored(saved.classifier, saved.state, config, target=target, **again)
        source = f"saved model {folder}"
    else:
        table, label = _training(asked, label)
        unknown = sorted(set(map(str, table[label].unique())) - set(classes))
        if unknown:
            raise DataError("labels that the model does not know", where=f"column '{label}'", found=unknown)
        X, y = saved.columns.encode(table), _codes(table, label, classes)
        made = _of(method)(saved.classifier, X, y, config, target=target, **again)
        source = f"saved model {folder}, refitted on {len(X)} rows"
    return Ready(made, saved.columns, classes[target], target, label, source, saved.refits)


def _of(method: Any) -> Any:
    if not hasattr(method, "of"):
        raise UsageError(
            "the recourse method takes no classifier", found=method.__name__, fix="use it from Python"
        )
    return method.of


def _training(asked: Asked, label: str | None = None) -> tuple[pl.DataFrame, str]:
    from recengine.recourse import read_table

    path = asked.train or asked.data
    table = read_table(path, header=asked.header)
    label = asked.label or label
    if label is None:
        raise UsageError(
            "which column says who was accepted?",
            fix="give --target COLUMN",
            expected="one of " + ", ".join(table.columns),
        )
    for name in (label, *asked.drop, *asked.categories):
        if name not in table.columns:
            near = did_you_mean(name, table.columns)
            raise UsageError(
                f"there is no column '{name}'",
                where=str(path),
                expected="one of " + ", ".join(table.columns),
                fix=f"did you mean '{near}'?" if near else None,
            )
    return table, label


def _classes(table: pl.DataFrame, label: str, accept: str | None) -> tuple[list[str], int]:
    if int(table[label].null_count()):
        raise DataError("labels are missing", where=f"column '{label}'", fix="drop those rows")
    classes = sorted({str(value) for value in table[label].to_list()})
    if len(classes) < 2:
        raise DataError(
            "only one class occurs: there is nothing to separate", where=f"column '{label}'", found=classes
        )
    if len(classes) > 50:
        raise UsageError(
            "that is no class label", where=f"column '{label}'", found=f"{len(classes)} distinct values"
        )
    if accept is None and classes == ["0", "1"]:
        return classes, 1
    return classes, _accepted(classes, accept, label)


def _accepted(classes: list[str], accept: str | None, label: str) -> int:
    if accept is None:
        raise UsageError(
            "which class do people want?", fix="give --accept CLASS", expected="one of " + ", ".join(classes)
        )
    if accept not in classes:
        near = did_you_mean(accept, classes)
        raise UsageError(
            f"'{label}' has no class '{accept}'",
            expected="one of " + ", ".join(classes),
            fix=f"did you mean '{near}'?" if near else None,
        )
    return classes.index(accept)


def _codes(table: pl.DataFrame, label: str, classes: list[str]) -> Any:
    import numpy as np

    at = {name: code for code, name in enumerate(classes)}
    return np.array([at[str(value)] for value in table[label].to_list()], dtype=np.int64)
