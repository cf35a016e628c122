"""Parts that every kind of report shares: settings, curves, findings, nested facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from recengine.contracts.auditor import Finding
from recengine.evaluation.clicks import LOWER_IS_BETTER
from recengine.reports import words
from recengine.reports.content import AuditEntry, Curve

if TYPE_CHECKING:
    from recengine.training import Run


def settings_of(run: Run) -> dict[str, Any]:
    """The settings that made this model. The split and the evaluation are in the protocol; a model that
    solves itself has no training loop."""
    sections = run.config.model_dump(mode="json")
    wanted = ("model", "loss", *(("training",) if run.history else ()))
    return flat({name: sections[name] for name in wanted if sections.get(name)}) | {"seed": run.seed}


def summary_of(run: Run) -> str:
    """The model's one line from its registration; empty without a plugin host."""
    if run.host is None:
        return ""
    return str(run.host.registries["model"].get(run.name).summary)


def training_curves(run: Run) -> tuple[Curve, ...]:
    """Loss and validation metric by epoch, as far as the history has them."""
    return curves_of(run.history, run.config.training.monitor)


def curves_of(history: Sequence[Mapping[str, Any]], monitor: str) -> tuple[Curve, ...]:
    """The same from the records of the epochs and the metric that picked one of them."""
    curves = []
    for key, title in (("loss", "training loss"), (monitor, f"{words.metric_name(monitor)} on validation")):
        points = [(float(e["epoch"]), float(e[key])) for e in history if e.get(key) is not None]
        points = [point for point in points if np.isfinite(point[1])]
        if len(points) < 2:
            continue
        x, y = zip(*points, strict=True)
        best = np.argmin if key in LOWER_IS_BETTER else np.argmax
        chosen = x[int(best(y))] if key == monitor else None
        curves.append(Curve(title, "epoch", words.metric_name(key), tuple(x), tuple(y), chosen))
    return tuple(curves)


def audit_entry(finding: Finding) -> AuditEntry:
    """The finding with its evidence as text."""
    evidence = tuple((key.replace("_", " "), _evidence(value)) for key, value in finding.evidence.items())
    return AuditEntry(finding.check.replace("_", " "), finding.severity, finding.message, evidence)


def flat(nested: Any, prefix: str = "") -> dict[str, str]:
    """A nested mapping as one level: keys joined by dots, values as text, empty ones left out."""
    found: dict[str, str] = {}
    for key, value in nested.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            found |= flat(value, f"{name}.")
        elif isinstance(value, list | tuple):
            if value:
                found[name] = ", ".join(map(str, value))
        elif value is not None and value != "":
            found[name] = str(value)
    return found


def _evidence(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return words.count(value) if isinstance(value, int) else words.short(value)
