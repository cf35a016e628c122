"""From interactions, or a click log, to a checked split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from recengine import data
from recengine.config import Config
from recengine.contracts.auditor import Finding
from recengine.contracts.loss import LossConfig
from recengine.contracts.model import DataFacts, Feed
from recengine.data import Interactions, Split
from recengine.data.clicks import ClickLog, ClickSplit, ClickSplitConfig, audit_clicks, prepare
from recengine.data.matrix import pair_matrix
from recengine.errors import LeakageError, UsageError
from recengine.training.config import RunConfig
from recengine.training.feeding import SAMPLERS
from recengine.training.monitor import other_monitor, with_monitor_that_is_measured


@dataclass(frozen=True)
class Material:
    """What a fit works on: the split, what a model must know of it, what the audit said of it and the
    settings of themselves, the settings with what the data added to them."""

    split: Split | ClickSplit
    facts: DataFacts
    findings: list[Finding]
    config: RunConfig

    def interactions(self) -> Interactions | None:
        """What is learned from, where it is interactions."""
        return None if isinstance(self.split, ClickSplit) else self.split.train


def prepared(given: Any, config: RunConfig, *, clicks: bool) -> Material:
    """The material for a model that predicts clicks, or for one that ranks items.

    Raises UsageError for data of the other kind, DataError, LeakageError.
    """
    sections: Any = config
    if not clicks:
        split = as_split(given, sections.split)
        facts, findings = DataFacts(split.train.n_users, split.train.n_items), audited(split)
        lowered = with_negatives_that_exist(config, facts.n_items)
        if lowered is not config:
            findings.append(_fewer_negatives(config, facts.n_items))
        if isinstance(config.loss, LossConfig):
            idle = config.loss.idle(config.training.epochs)
            findings += [Finding("loss", "warn", said) for said in idle]
            findings += without_any_negative(config.loss, split.train)
        return Material(split, facts, findings, lowered)
    rows = as_click_split(given, sections.data, sections.split)
    findings = audit_clicks(rows)
    made = {"data": rows.encoder.config, "split": _divided_as(rows, sections.split)}
    settled = config.model_copy(update=made)
    if rows.validation is not None:
        watching = with_monitor_that_is_measured(settled, rows.validation)
        if watching is not settled:
            findings.append(
                other_monitor(settled.training.monitor, watching.training.monitor, rows.validation)
            )
        settled = watching
    return Material(rows, DataFacts(0, 0, rows.extras()), findings, settled)


def with_negatives_that_exist(config: RunConfig, n_items: int) -> RunConfig:
    """The same settings where a row can have as many negatives as they say; else, when nobody set their
    number, with as many as there are items. A number that was set stays: the feeder refuses it. Negatives out
    of the batch, or of a sampler that is not the engine's, are not bound to the catalogue."""
    loss = config.loss
    if loss is None or "negatives" in loss.model_fields_set or not bound_to_catalogue(loss):
        return config
    if not 0 < n_items < getattr(loss, "negatives", 0):
        return config
    given = {**loss.model_dump(exclude_unset=True), "negatives": n_items}
    return config.model_copy(update={"loss": type(loss).parse(given)})


def without_any_negative(loss: Config, train: Interactions) -> list[Finding]:
    """A warning where the loss rejects every shared item for somebody: those rows have a loss of zero."""
    if not (getattr(loss, "shared", False) and getattr(loss, "reject", False)):
        return []
    full = np.flatnonzero(np.diff(pair_matrix(train).indptr) >= train.n_items)
    if not len(full):
        return []
    return [
        Finding(
            "negatives",
            "warn",
            f"{len(full)} of {train.n_users} users (the first: {train.users.tokens[full[0]]}) met all "
            f"{train.n_items} items: with loss.reject they have no negative, and their rows add nothing to "
            "the loss (leave such users out of the training data, or set loss.reject = false)",
            {"users": len(full)},
        )
    ]


def bound_to_catalogue(loss: Config) -> bool:
    """Whether a row can have no more negatives of this loss than there are items."""
    return getattr(loss, "sampler", "uniform") in {*SAMPLERS} - {"in_batch"}


def _fewer_negatives(config: RunConfig, n_items: int) -> Finding:
    usual = getattr(config.loss, "negatives", 0)
    return Finding(
        "negatives",
        "warn",
        f"the default of {usual} negatives a row is more than the {n_items} items of the catalogue; "
        f"{n_items} are taken (set loss.negatives to choose)",
    )


def without_order(split: Split, feed: Feed) -> list[Finding]:
    """A warning where the newest events are asked for and the data do not say which those are. A feed of
    whole histories, without a longest, may be of a model that does not read their order."""
    if feed.kind != "sequences" or feed.max_length is None or split.train.is_ordered:
        return []
    return [
        Finding(
            "order",
            "warn",
            "the model learns from the order of events, and these data have none (if the rows are in time "
            "order, say so when reading them: --data-option ties=rows, in Python ties='rows')",
        )
    ]


def as_click_split(given: Any, about: Any, config: Any) -> ClickSplit:
    """A click split as it is; a click log divided and encoded as the sections 'data' and 'split' say.

    Raises UsageError for settings of these sections that the split was not made with.
    """
    if isinstance(given, ClickSplit):
        _made_with("data", about, given.encoder.config)
        _made_with("split", config, _divided_as(given, config))
        return given
    if not isinstance(given, ClickLog):
        raise UsageError(
            "a model that predicts clicks needs a click log",
            found=type(given).__name__,
            fix="open a file with recengine.data.clicks.ClickLog.open, a table with ClickLog.from_frame",
        )
    return prepare(given, about, config)


def _divided_as(split: ClickSplit, otherwise: Config) -> Config:
    """The settings that a click split was divided by, where it tells."""
    told = split.description.get("settings")
    return otherwise if told is None else ClickSplitConfig.parse(told)


def _made_with(section: str, asked: Config, made: Config) -> None:
    """Raises UsageError for a setting that was given, is not the default, and is not the split's own."""
    wanted, has, usual = (one.model_dump(mode="json") for one in (asked, made, type(asked)()))
    for name in sorted(asked.model_fields_set):
        if wanted[name] not in (has[name], usual[name]):
            raise UsageError(
                "the split was made before, with another setting",
                where=f"{section}.{name}",
                found=wanted[name],
                expected=has[name],
                fix="leave the setting out, or prepare the log again with it",
            )


def as_split(given: Interactions | Split, config: Config) -> Split:
    """A given split as it is; interactions split as ``config`` says."""
    if isinstance(given, Split):
        return given
    if not isinstance(given, Interactions):
        raise UsageError(
            "data must be interactions or a split",
            found=type(given).__name__,
            fix="read it with recengine.data.read, or from a table with recengine.data.read_table",
        )
    return data.split(given, cast(data.SplitConfig, config))


def audited(split: Split) -> list[Finding]:
    """What the leakage audit found; raises LeakageError when a finding has severity 'fail'."""
    findings: list[Finding] = data.audit(split)
    failed = [finding for finding in findings if finding.severity == "fail"]
    if failed:
        raise LeakageError(
            "held-out data can be seen in training",
            where="leakage audit",
            found="; ".join(f"{finding.check}: {finding.message}" for finding in failed),
            fix="mend the data or the split; recengine data audit shows the evidence",
        )
    return findings
