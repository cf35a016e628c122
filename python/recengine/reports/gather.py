"""From runs to the content of a report: nothing here is drawn, and nothing is known of any one model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recengine.data import EvalTask
from recengine.errors import UsageError
from recengine.reports import slicing, words
from recengine.reports.clicks import click_report
from recengine.reports.content import (
    Calibration,
    Difference,
    Estimate,
    Example,
    Recommended,
    Report,
    Slices,
    System,
)
from recengine.reports.facts import data_facts
from recengine.reports.pieces import audit_entry, flat, settings_of, summary_of, training_curves
from recengine.training import ClickRun

if TYPE_CHECKING:
    from recengine.evaluation import Evaluation
    from recengine.training import Run

_LISTED = 10  # length of the lists that are looked into
_MOST_USERS = 5000  # users whose lists are looked into
_SHOWN_HISTORY = 8


@dataclass(frozen=True)
class Measured:
    """A run with its evaluation on the test task, under the name it has in the report."""

    name: str
    run: Run
    evaluation: Evaluation


def report_of(
    runs: Run | Mapping[str, Run] | Sequence[Run],
    *,
    title: str | None = None,
    asked: Sequence[str] = (),
    data_name: str = "data",
    headline: str | None = None,
    user: Any = None,
    calibration: Sequence[Calibration] = (),
) -> Report:
    """What a run, or several on the same questions, showed.

    runs: one, several, or by the name to show. Runs without an evaluation on the test task are evaluated.
    title and asked: the head of the page; made from the runs where they are not given. headline: metric of
    the summary; the settings' validation metric where it was measured, else the first. user: original id of
    the user whose recommendations are shown; a user with a handful of targets where none is named.
    calibration: of systems whose scores are probabilities (``calibration_of``); scores of a ranking are none.

    Raises UsageError when there is no run, when the protocols differ, or for a user that was not asked.
    """
    found = named(runs)
    if any(isinstance(run, ClickRun) for run in found.values()):
        return click_report(found, title=title, asked=asked, data_name=data_name, headline=headline)
    measured = [Measured(name, run, _evaluation(run)) for name, run in found.items()]
    protocol = same_protocol(measured)
    headline = headline or headline_of(measured)
    first = measured[0].run
    task = first.split.test
    lists, sampled = ranked_lists(measured, task)
    groups = (by_length(measured, task, headline), slicing.by_popularity(sampled, first.split.train, lists))
    return Report(
        title=title or f"{words.listing([m.name for m in measured])} on {data_name}",
        asked=tuple(asked) or tuple(told_question(first)),
        headline=headline,
        systems=tuple(system_of(one) for one in measured),
        protocol=flat(protocol.describe()) if hasattr(protocol, "describe") else {},
        protocol_hash=hash_of(protocol),
        data=data_facts(first.split, data_name),
        audit=tuple(audit_entry(finding) for finding in first.findings),
        differences=differences(measured, headline),
        slices=tuple(group for group in groups if group is not None),
        examples=(example(measured, task, user),),
        calibration=tuple(calibration),
        environment=flat(first.record) | {"seeds": ", ".join(sorted({str(m.run.seed) for m in measured}))},
        caveats=(
            "Each model was fitted with one seed: the intervals tell of other users, not of other seeds.",
        ),
        made=f"{datetime.now(UTC):%Y-%m-%d}",
    )


def named(runs: Run | Mapping[str, Run] | Sequence[Run]) -> dict[str, Run]:
    """The runs by the name to show: the model's; with a number behind it where a model comes twice."""
    if isinstance(runs, Mapping):
        found = dict(runs)
    else:
        several: Sequence[Run] = runs if isinstance(runs, Sequence) else [runs]
        names = [run.name for run in several]
        found = {
            name if names.count(name) == 1 else f"{name} {names[: at + 1].count(name)}": run
            for at, (name, run) in enumerate(zip(names, several, strict=True))
        }
    if not found:
        raise UsageError("a report needs at least one run", where="reports")
    return found


def same_protocol(measured: Sequence[Measured]) -> Any:
    """The protocol of all of them; raises UsageError when two of them differ."""
    first = measured[0].evaluation.protocol
    for other in measured[1:]:
        if hash_of(other.evaluation.protocol) != hash_of(first):
            raise UsageError(
                f"'{measured[0].name}' and '{other.name}' were not asked the same",
                where="reports",
                found=f"protocol {hash_of(first)} and protocol {hash_of(other.evaluation.protocol)}",
                expected="one protocol",
                fix="evaluate both on the same split with the same metrics",
            )
    return first


def hash_of(protocol: Any) -> str:
    """The protocol's hash, whatever way it is told."""
    found = getattr(protocol, "hash", None)
    return str(found() if callable(found) else found if found is not None else protocol)


def headline_of(measured: Sequence[Measured]) -> str:
    """The metric that picked the epochs, if it was measured; else NDCG; else the first."""
    known = [row[0] for row in measured[0].evaluation.summary()]
    wanted = [measured[0].run.config.training.monitor, *(name for name in known if name.startswith("ndcg"))]
    return next((name for name in wanted if name in known), known[0] if known else "")


def told_question(run: Run) -> list[str]:
    """The question in two sentences, from the split."""
    facts = run.split.description
    users, items = len(run.split.test.users), run.split.train.n_items
    return [
        f"For each of {words.count(users)} users, which of {words.count(items)} items come next? Every item "
        "is ranked, those already in the history are left out, and the held-out ones are looked for.",
        f"The data were split by '{facts.get('strategy', 'a given split')}'; models learn from the training "
        "part, the validation part picks settings and epochs.",
    ]


def system_of(one: Measured) -> System:
    """Numbers, curves and settings of a run."""
    seconds = sum(entry.get("seconds", 0.0) for entry in one.run.history)
    return System(
        one.name,
        summary_of(one.run),
        {
            str(metric): Estimate(float(mean), float(low), float(high), int(n))
            for metric, mean, low, high, n in one.evaluation.summary()
        },
        training_curves(one.run),
        settings_of(one.run),
        float(seconds) or None,
    )


def differences(measured: Sequence[Measured], metric: str) -> tuple[Difference, ...]:
    """Paired differences of ``metric`` between each two systems, the better one first."""
    found = []
    values = {one.name: per_user(one.evaluation, metric) for one in measured}
    for a, b in combinations(values, 2):
        both = values[a] - values[b]
        if np.nanmean(both) < 0:
            a, b, both = b, a, -both
        estimate = slicing.mean_with_interval(both)
        if estimate is not None:
            found.append(Difference(a, b, metric, estimate))
    best = max(values, key=lambda name: float(np.nanmean(values[name])), default="")
    return tuple(sorted(found, key=lambda d: (d.better != best, d.estimate.mean)))


def by_length(measured: Sequence[Measured], task: EvalTask, metric: str) -> Slices | None:
    """The headline metric by length of the history."""
    values = {one.name: per_user(one.evaluation, metric) for one in measured}
    if any(column.shape != task.users.shape for column in values.values()):
        return None
    return slicing.by_history_length(task, values, metric)


def per_user(evaluation: Evaluation, metric: str) -> NDArray[np.float64]:
    """Values of ``metric``, one a user of the task."""
    return np.asarray(evaluation.per_user[metric], np.float64)


def ranked_lists(
    measured: Sequence[Measured], task: EvalTask
) -> tuple[dict[str, NDArray[np.int64]], EvalTask]:
    """The first items of each system for the users of the task (evenly chosen ones where there are very
    many), as item rows [E, 10] with -1 where a list is shorter, and the task of just these users."""
    few = some_users(task, _MOST_USERS)
    return {one.name: top_rows(one.run, few.users) for one in measured}, few


def some_users(task: EvalTask, most: int) -> EvalTask:
    """The task with at most ``most`` of its users, evenly spread."""
    if task.users.size <= most:
        return task
    at = np.unique(np.linspace(0, task.users.size - 1, most).astype(np.int64))
    counts = np.diff(task.indptr)[at]
    targets = [task.targets[task.indptr[i] : task.indptr[i + 1]] for i in at]
    indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    return replace(task, users=task.users[at], indptr=indptr, targets=np.concatenate(targets), times=None)


def top_rows(run: Run, users: NDArray[np.int64], k: int = _LISTED) -> NDArray[np.int64]:
    """Item rows [E, k] that the run recommends to these user rows; -1 where a list is shorter."""
    vocabulary = run.split.train
    tokens = vocabulary.users.tokens[users].tolist()
    table = run.recommend(tokens, k)
    place = {token: at for at, token in enumerate(tokens)}
    rows = np.full((len(tokens), k), -1, np.int64)
    at = np.array([place[token] for token in table["user"].to_list()], np.int64)
    items = vocabulary.items.rows(np.asarray(table["item"].to_list()))
    rows[at, table["rank"].to_numpy() - 1] = items
    return rows


def example(measured: Sequence[Measured], task: EvalTask, user: Any = None) -> Example:
    """Lists of every system for one user, with what was in fact taken up marked."""
    events = measured[0].run.split.train
    at = example_position(task, events.users.tokens, user)
    row = int(task.users[at])
    targets = set(task.targets[task.indptr[at] : task.indptr[at + 1]].tolist())
    history = task.history.item[task.history.indptr[row] : task.history.indptr[row + 1]]
    titles = titles_of(events)
    lists = {
        one.name: tuple(
            Recommended(titles(int(item)), int(item) in targets)
            for item in top_rows(one.run, task.users[at : at + 1])[0]
            if item >= 0
        )
        for one in measured
    }
    return Example(
        f"User {events.users.tokens[row]}",
        tuple(titles(int(item)) for item in history[-_SHOWN_HISTORY:]),
        int(history.size),
        len(targets),
        lists,
    )


def example_position(task: EvalTask, tokens: Any, user: Any = None) -> int:
    """Where in the task the user to show stands. Without a wish: the first user with five to twenty targets
    and a history, else the one with most targets; no list is looked at in choosing."""
    if user is not None:
        asked = [str(tokens[row]) for row in task.users]
        if str(user) not in asked:
            raise UsageError(
                "this user was not asked", where="user", found=user, expected=f"one of {asked[:5]} …"
            )
        return asked.index(str(user))
    counts = np.diff(task.indptr)
    lengths = np.diff(task.history.indptr)[task.users]
    fitting = np.flatnonzero((counts >= 5) & (counts <= 20) & (lengths >= _SHOWN_HISTORY))
    return int(fitting[0]) if fitting.size else int(np.argmax(counts))


def titles_of(events: Any) -> Any:
    """Function from an item row to what a reader is shown: its title, else its original id."""
    titles = getattr(events, "item_titles", None)
    names = events.items.tokens if titles is None else titles
    return lambda row: readable(str(names[row])) or str(events.items.tokens[row])


def readable(title: str) -> str:
    """A title that is all capitals as a sentence would write it; any other as it is."""
    return title.capitalize() if title.isupper() else title


def _evaluation(run: Run) -> Evaluation:
    return run.evaluations.get("test") or run.evaluate("test")
