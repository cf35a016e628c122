"""The leakage audit: can training see what will be asked, by pair, by time, by feature or by order?

Severities: what lets training see an answer fails; what may mislead is a warning; what is a matter of
the protocol that was chosen (training events younger than a test target under leave-last-out) is kept
as information.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recengine.data.findings import Finding, Severity
from recengine.data.interactions import Interactions
from recengine.data.ordering import common, distinct
from recengine.data.split import EvalTask, Split
from recengine.data.tie_order import Steps, held_out_steps, tie_report

# Splits that do not promise an order in time, and why an answer from the future is no failure there.
_OUT_OF_TIME: dict[str, tuple[Severity, str]] = {
    "ratio_random": ("info", " (the split is random, by choice)"),
    "given": ("warn", " (the data came divided so)"),
    "given_validated": ("warn", " (the data came divided so)"),
}


@dataclass(frozen=True)
class View:
    """Something else that training reads, such as a graph or a sequence file of its own; ids are compared
    through its vocabularies."""

    name: str
    interactions: Interactions


@dataclass(frozen=True)
class FeatureFit:
    """A feature table's declaration of the rows of the file (``Interactions.source``) it was fitted on."""

    name: str
    rows: NDArray[np.int64]


def audit(split: Split, *, views: Sequence[View] = (), features: Sequence[FeatureFit] = ()) -> list[Finding]:
    """Everything found, worst first; no warning and no failure on clean data."""
    tasks = [task for task in (split.validation, split.test) if task is not None]
    found: list[Finding] = []
    for task in tasks:
        found += _overlaps(split, task, views)
        found += _time_order(split, task)
        found += _repeated_targets(task)
        found += _step_into_target(task, str(split.description.get("strategy")))
    found += _tasks_overlap(split)
    found += _time_point(split)
    found += _repeated_pairs(split)
    found += _later_training(split)
    found += _inside_ties(split.train)
    found += _without_training(split.train)
    found += [finding for feature in features for finding in _feature(split, feature)]
    return sorted(found, key=lambda finding: ("fail", "warn", "info").index(finding.severity))


def failures(findings: Sequence[Finding]) -> list[Finding]:
    """The findings that stop a fit."""
    return [finding for finding in findings if finding.severity == "fail"]


def _overlaps(split: Split, task: EvalTask, views: Sequence[View]) -> Iterator[Finding]:
    sources = [View("training events", split.train), View("history of the task", task.history), *views]
    asked = _keys(task.target_users(), task.targets, split.train.n_items)
    for view in sources:
        shared = common(asked, _view_keys(view.interactions, split.train))
        if not shared.size:
            continue
        severity: Severity = "warn" if _repeats_are_asked(split) else "fail"
        yield Finding(
            "overlap",
            severity,
            f"{view.name}: {shared.size} of {asked.size} held-out {task.name} pairs can be seen",
            {
                "view": view.name,
                "task": task.name,
                "pairs": int(shared.size),
                "of": int(asked.size),
                "example": _example(split.train, int(shared[0])),
            },
        )


def _tasks_overlap(split: Split) -> Iterator[Finding]:
    if split.validation is None:
        return
    n_items = split.train.n_items
    both = common(
        _keys(split.validation.target_users(), split.validation.targets, n_items),
        _keys(split.test.target_users(), split.test.targets, n_items),
    )
    if both.size:
        severity: Severity = "warn" if _repeats_are_asked(split) else "fail"
        yield Finding(
            "overlap",
            severity,
            f"{both.size} pairs are asked both in validation and in the test",
            {"view": "validation targets", "task": "test", "pairs": int(both.size)},
        )


def _time_order(split: Split, task: EvalTask) -> Iterator[Finding]:
    history = task.history
    if history.time is None or task.times is None or not len(task):
        return
    filled = (history.lengths()[task.users] > 0) & (np.diff(task.indptr) > 0)
    last = history.time[history.indptr[1:][task.users[filled]] - 1]
    earliest = np.minimum.reduceat(task.times, task.indptr[:-1][np.diff(task.indptr) > 0])
    earliest = earliest[filled[np.diff(task.indptr) > 0]]
    wrong = int((last > earliest).sum())
    if wrong:
        strategy = str(split.description.get("strategy"))
        severity, because = _OUT_OF_TIME.get(strategy, ("fail", ""))
        yield Finding(
            "time order",
            severity,
            f"{wrong} of {len(task)} {task.name} users are answered from events later than a target{because}",
            {"task": task.name, "users": wrong, "of": len(task)},
        )


def _time_point(split: Split) -> Iterator[Finding]:
    bounds = [split.description.get(name) for name in ("validation_from", "test_from")]
    cuts = [bound for bound in bounds if isinstance(bound, int)]
    if split.description.get("strategy") != "time_point" or not cuts or split.train.time is None:
        return
    late = int((split.train.time >= min(cuts)).sum())
    if late:
        yield Finding(
            "time order",
            "fail",
            f"{late} training events happen after the time point of the split",
            {"events": late, "from": min(cuts)},
        )


def _later_training(split: Split) -> Iterator[Finding]:
    if split.train.time is None or split.test.times is None or not len(split.train):
        return
    share = float((split.test.times < split.train.time.max()).mean()) if split.test.times.size else 0.0
    if share and split.description.get("strategy") != "time_point":
        yield Finding(
            "later training events",
            "info",
            f"{share:.0%} of the test targets are older than the latest training event of somebody else; "
            "only a split at a time point avoids this",
            {"share": share},
        )


def _repeated_pairs(split: Split) -> Iterator[Finding]:
    keys = _keys(split.train.user, split.train.item, split.train.n_items)
    repeated = keys.size - distinct(keys).size
    if repeated:
        kept = _setting(split, "repeats") == "keep"
        yield Finding(
            "duplicated pairs",
            "info" if kept else "warn",
            f"{repeated} of {keys.size} training events repeat a pair that was there before",
            {"events": int(repeated), "of": int(keys.size)},
        )


def _without_training(train: Interactions) -> Iterator[Finding]:
    users, items = int((train.lengths() == 0).sum()), int((train.popularity() == 0).sum())
    if users or items:
        yield Finding(
            "no training events",
            "info",
            f"{users} of {train.n_users} users and {items} of {train.n_items} items have no training event",
            {"users": users, "items": items},
        )


def _repeated_targets(task: EvalTask) -> Iterator[Finding]:
    keys = _keys(task.target_users(), task.targets, task.history.n_items)
    repeated = keys.size - distinct(keys).size
    if repeated:
        yield Finding(
            "duplicated pairs",
            "warn",
            f"{repeated} {task.name} targets are asked of their user more than once",
            {"task": task.name, "targets": int(repeated)},
        )


def _feature(split: Split, feature: FeatureFit) -> Iterator[Finding]:
    rows = distinct(np.asarray(feature.rows, np.int64))
    outside = np.setdiff1d(rows, common(rows, split.train.source), assume_unique=True)
    if outside.size:
        yield Finding(
            "feature fitted on held-out rows",
            "fail",
            f"feature '{feature.name}' was fitted on {outside.size} rows that are not training events",
            {"feature": feature.name, "rows": int(outside.size), "example": int(outside[0])},
        )


def _inside_ties(train: Interactions) -> Iterator[Finding]:
    report = tie_report(train)
    vouched, timed = train.ties == "rows", train.time is not None
    if vouched:
        if report.used_ids.predictable:
            yield _tie_finding(
                "tie order",
                "fail" if timed else "warn",
                "inside ties the order of the rows" if timed else "the order that was vouched for",
                "item id",
                report.used_ids,
                " and it is used as the order: a model can learn it" if timed else " (no times to check it)",
            )
        return
    for name, steps in (("item id", report.used_ids), ("row number", report.used_rows)):
        if steps.predictable:
            yield _tie_finding(
                "tie order", "fail", "inside ties the order in use", name, steps, ": ties are not shuffled"
            )
    if timed and report.file_ids.predictable:
        yield _tie_finding(
            "tie order",
            "warn",
            "inside ties the file's rows",
            "item id",
            report.file_ids,
            "; they are shuffled here (seeded hash), so nothing can be learned from it",
        )


def _step_into_target(task: EvalTask, strategy: str) -> Iterator[Finding]:
    """Without times only a split that promises an order can be failed for a step that can be predicted."""
    history = task.history
    vouched, timed = history.ties == "rows", history.time is not None and task.times is not None
    by_id, by_row = held_out_steps(task)
    measured = [("item id", by_id)] if vouched else [("item id", by_id), ("row number", by_row)]
    for name, steps in measured:
        if steps.predictable:
            what = f"the step into the {task.name} target" + (" inside a tie" if timed else "")
            severity: Severity = "fail" if timed or not vouched else "warn"
            if not timed and strategy in _OUT_OF_TIME:
                severity = _OUT_OF_TIME[strategy][0]
            yield _tie_finding(
                "tie order", severity, what, name, steps, "" if timed else " (no times to check it)"
            )


def _tie_finding(
    check: str, severity: Severity, what: str, key: str, steps: Steps, consequence: str
) -> Finding:
    return Finding(
        check,
        severity,
        f"{what} can be predicted: {steps.share:.1%} of {steps.steps} steps ascend in the {key}{consequence}",
        {"by": key, "where": what, **steps.evidence()},
    )


def _keys(users: NDArray[Any], items: NDArray[Any], n_items: int) -> NDArray[np.int64]:
    return np.asarray(users.astype(np.int64) * max(n_items, 1) + items)


def _view_keys(view: Interactions, train: Interactions) -> NDArray[np.int64]:
    """Keys of a view's pairs in the rows of the training vocabularies; unknown ids cannot overlap."""
    if view.users is train.users and view.items is train.items:
        return _keys(view.user, view.item, train.n_items)
    user = train.users.rows(view.users.tokens)[view.user]
    item = train.items.rows(view.items.tokens)[view.item]
    known = (user >= 0) & (item >= 0)
    return _keys(user[known], item[known], train.n_items)


def _example(train: Interactions, key: int) -> str:
    user, item = divmod(key, max(train.n_items, 1))
    return f"user {train.users.tokens[user]}, item {train.items.tokens[item]}"


def _setting(split: Split, name: str) -> object:
    settings = split.description.get("settings")
    return settings.get(name) if isinstance(settings, dict) else None


def _repeats_are_asked(split: Split) -> bool:
    """Whether the protocol itself asks for items that the user had met before."""
    return _setting(split, "repeats") == "keep" and _setting(split, "targets") == "all"
