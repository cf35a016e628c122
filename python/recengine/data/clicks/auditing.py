"""What is worth knowing of a click split before anything is learned from it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recengine.data.clicks.coding import Ragged
from recengine.data.clicks.encoder import Column
from recengine.data.clicks.splitting import ClickSplit
from recengine.data.clicks.table import NOBODY
from recengine.data.findings import Finding

_CHANCE = 8  # rows that may agree with a value's label by chance before it is said to tell the label


def audit_clicks(split: ClickSplit) -> list[Finding]:
    """What is worth knowing of a click split: no validation rows though some were wanted, one label only,
    rare clicks, rows without a group, many unknown or constant values, features that tell the label."""
    found = _without_validation(split)
    for name, table in split.tables().items():
        rate = float(table.labels.mean())
        if rate in (0.0, 1.0):
            message = f"all labels of the {name} part are {int(rate)}: AUC is not defined there"
            found.append(Finding("one_label", "warn", message))
        elif min(rate, 1 - rate) < 0.01:
            message = f"{min(rate, 1 - rate):.3%} of the {name} rows have the rarer label"
            evidence = {"rate": rate, "rows": len(table), "rarer": int(min(rate, 1 - rate) * len(table))}
            found.append(Finding("imbalance", "info", message, evidence))
        missing = 0 if table.groups is None else int((table.groups == NOBODY).sum())
        if missing:
            share = f"{missing:,} of the {len(table):,} {name} rows"
            message = f"{share} do not say whose they are: GAUC leaves them out"
            found.append(Finding("missing_group", "info", message, {"part": name, "rows": missing}))
    for name, column in split.train.columns.items():
        if isinstance(column, np.ndarray) and (column == column[0]).all():
            found.append(
                Finding("constant_feature", "warn", f"the feature '{name}' has one value in training")
            )
    for name, column in split.train.columns.items():
        if _determines(column, split.train.labels):
            message = f"the feature '{name}' determines the label in training: is it known before the answer?"
            found.append(Finding("determines_label", "warn", message, {"feature": name}))
    unknown = split.description.get("unknown", {}).get("test", {})
    for name, count in unknown.items():
        if count > 0.2 * len(split.test):
            share = count / len(split.test)
            message = f"{share:.0%} of the test values of '{name}' are unknown to training"
            found.append(Finding("unknown_values", "warn", message, {"share": share}))
    return found


def _determines(column: Column, labels: NDArray[np.float32]) -> bool:
    """Whether the values of one feature tell the label of every training row: each value occurs with one
    label alone, or all numbers of one label lie below those of the other. Of a bag: one of its values is in
    all rows of one label and in none of the other. Values that occur once tell nothing."""
    clicked = labels > 0
    if clicked.all() or not clicked.any():
        return False
    if isinstance(column, Ragged):
        rows = np.repeat(np.arange(len(column)), np.diff(column.offsets))
        value, row = np.divmod(np.unique(column.values.astype(np.int64) * labels.size + rows), labels.size)
        total, with_click = np.bincount(value), np.bincount(value, weights=clicked[row])
        marks_clicks = (with_click == total) & (total == clicked.sum())
        marks_others = (with_click == 0) & (total == (~clicked).sum())
        return bool(((marks_clicks | marks_others) & (total > _CHANCE)).any())
    if column.dtype.kind == "f":
        low, high = column[clicked], column[~clicked]
        apart = low.max() < high.min() or high.max() < low.min()
        if apart and min(low.size, high.size) > _CHANCE:
            return True
    code = column if column.dtype.kind == "i" else np.unique(column, return_inverse=True)[1]
    rows, clicks = np.bincount(code), np.bincount(code, weights=clicked)
    if not ((clicks == 0) | (clicks == rows)).all():
        return False
    again = [int(np.maximum(rows[mine] - 1, 0).sum()) for mine in (clicks == 0, clicks > 0)]
    return min(again) > _CHANCE


def _without_validation(split: ClickSplit) -> list[Finding]:
    told = split.description
    drawn = told.get("strategy") in ("random", "time") and told["settings"]["validation_share"] > 0
    if split.validation is not None or not drawn:
        return []
    why = "rows of one time stay in one part" if told["strategy"] == "time" else "the rows are too few"
    rows = f"{len(split.train):,} rows train, {len(split.test):,} test"
    return [Finding("no_validation", "warn", f"no row is left for validation ({rows}): {why}")]
