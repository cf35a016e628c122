"""What is worth knowing of a click split before anything is learned from it."""

from __future__ import annotations

import numpy as np

from recengine.data.clicks.splitting import ClickSplit
from recengine.data.findings import Finding


def audit_clicks(split: ClickSplit) -> list[Finding]:
    """What is worth knowing of a click split: no validation rows though some were wanted, one label only,
    rare clicks, many unknown or constant values."""
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
    for name, column in split.train.columns.items():
        if isinstance(column, np.ndarray) and (column == column[0]).all():
            found.append(
                Finding("constant_feature", "warn", f"the feature '{name}' has one value in training")
            )
    unknown = split.description.get("unknown", {}).get("test", {})
    for name, count in unknown.items():
        if count > 0.2 * len(split.test):
            share = count / len(split.test)
            message = f"{share:.0%} of the test values of '{name}' are unknown to training"
            found.append(Finding("unknown_values", "warn", message, {"share": share}))
    return found


def _without_validation(split: ClickSplit) -> list[Finding]:
    told = split.description
    drawn = told.get("strategy") in ("random", "time") and told["settings"]["validation_share"] > 0
    if split.validation is not None or not drawn:
        return []
    why = "rows of one time stay in one part" if told["strategy"] == "time" else "the rows are too few"
    rows = f"{len(split.train):,} rows train, {len(split.test):,} test"
    return [Finding("no_validation", "warn", f"no row is left for validation ({rows}): {why}")]
