"""The metric that picks the best epoch: whether a validation measures it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recengine.config import did_you_mean
from recengine.contracts.auditor import Finding
from recengine.data.clicks import ClickTable
from recengine.errors import ConfigError
from recengine.evaluation.clicks import DEFINITIONS, click_metrics
from recengine.evaluation.metrics import column_name, resolve_metrics
from recengine.training.config import EvaluationConfig, RunConfig


def check_measured(name: str, measured: Sequence[str], mend: str = "monitor one of these") -> None:
    """Raises ConfigError, which says how to ``mend`` it, where ``name`` is not among those ``measured``."""
    if name in measured:
        return
    near = did_you_mean(name, measured)
    raise ConfigError(
        "the monitored metric is not measured",
        where="training.monitor",
        found=name,
        expected="one of " + ", ".join(measured),
        fix=f"did you mean '{near}'?" if near else mend,
    )


def check_monitor(name: str, config: EvaluationConfig) -> None:
    """Raises ConfigError where a full ranking by ``config`` does not measure the metric ``name``."""
    columns = resolve_metrics(config.metrics or None, config.cutoffs)
    measured = [column_name(metric, k) for metric, k in columns]
    check_measured(name, measured, "monitor one of these, or add it to evaluation.metrics")


def with_monitor_that_is_measured(config: RunConfig, validation: ClickTable) -> RunConfig:
    """The same settings where the monitored metric is defined for the rows of the validation part; else, when
    nobody set the monitor, with the log loss, which always is. Raises ConfigError for a monitor that was set,
    and for a name that is no metric of clicks."""
    training = config.training
    measured = click_metrics(validation.labels, np.full(len(validation), 0.5), validation.groups)
    if training.monitor in measured:
        return config
    if training.monitor not in DEFINITIONS:
        check_measured(training.monitor, sorted(measured))
    if "monitor" in training.model_fields_set:
        raise ConfigError(
            "the monitored metric is not defined for the validation part",
            where="training.monitor",
            found=f"{training.monitor}, and {_why_undefined(validation)}",
            expected="one of " + ", ".join(sorted(measured)),
            fix="divide the log another way (split.strategy), or set training.monitor to log_loss",
        )
    given = {**training.model_dump(exclude_unset=True), "monitor": "log_loss"}
    return config.model_copy(update={"training": type(training).parse(given)})


def other_monitor(usual: str, taken: str, validation: ClickTable) -> Finding:
    """Says that ``taken`` picks the epoch in place of ``usual``, and why."""
    return Finding(
        "monitor",
        "warn",
        f"{_why_undefined(validation)}: {taken} picks the best epoch in place of {usual} "
        "(set training.monitor to choose)",
    )


def _why_undefined(validation: ClickTable) -> str:
    """Why a metric of clicks is not defined for these rows."""
    if not validation.labels.any():
        return f"the validation part has no clicks in {len(validation):,} rows"
    if validation.labels.all():
        return f"the validation part has nothing but clicks in {len(validation):,} rows"
    if validation.groups is None:
        return "the log has no groups (data.group)"
    return "no group of the validation part has rows with and without a click"
