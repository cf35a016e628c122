"""The page of a comparison: verdicts, differences with intervals, every run, results by group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recengine.data.groups import HISTORY_BUCKETS
from recengine.evaluation.statistics import crossed_test, nested_test
from recengine.reports import words
from recengine.reports.content import AuditEntry, Curve, DataFacts, Estimate, Slices
from recengine.reports.figures import ForestRow
from recengine.reports.page import filled, parts_of, without_split_settings
from recengine.reports.pieces import flat
from recengine.reports.tables import plain_json, sheet
from recengine.reports.verdict import Tile
from recengine.reports.write import write_files

if TYPE_CHECKING:
    from recengine.evaluation.comparing import Comparison, Pair, Target
    from recengine.evaluation.result import Estimate as Measured
    from recengine.evaluation.systems import System

_DECILES = 10


@dataclass(frozen=True)
class About:
    """What the runs of a comparison have in common, and how they came about: all of it optional.

    stages: what two stages do for the recall (recengine.serving.Stages.summary), in the order of its shares;
    stage_sizes: how many items the first retrieves, and how many are shown.
    curves: system and curve. stability: mean overlap (RBO, Jaccard) of a system's lists between its runs.
    """

    title: str = ""
    data: DataFacts | None = None
    audit: tuple[AuditEntry, ...] | None = None
    curves: tuple[tuple[str, Curve], ...] = ()
    configs: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    stability: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    stages: tuple[Measured, ...] = ()
    stage_sizes: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class ComparisonReport:
    """Everything on the page, in its JSON and in its CSV. means: by system and metric, over users and
    runs."""

    title: str
    headline: str
    comparison: Comparison
    means: dict[str, dict[str, Estimate]]
    seeds: dict[str, tuple[int, ...]]
    slices: tuple[Slices, ...]
    protocol: dict[str, str]
    protocol_hash: str
    about: About
    made: str


def write_comparison(
    comparison: Comparison, systems: Sequence[System], path: str | Path, *, about: About | None = None
) -> Path:
    """Write the page to ``path`` and the same numbers as JSON and CSV beside it; returns the page's path.

    systems: those that were compared. Raises UsageError when jinja2 is not installed.
    """
    report = comparison_report(comparison, systems, about=about or About())
    return write_files(path, render_comparison(report), plain_json(report), comparison_csv(report))


def comparison_report(
    comparison: Comparison, systems: Sequence[System], *, about: About | None = None
) -> ComparisonReport:
    """What ``comparison`` of ``systems`` showed, as plain data."""
    about = about or About()
    metrics = list(dict.fromkeys(pair.metric for pair in comparison.pairs))
    headline = next((name for name in metrics if name.startswith("ndcg")), metrics[0])
    protocol = systems[0].protocol
    means = {
        system.name: {
            metric: one
            for metric in metrics
            if (one := mean_of(system.scores[metric], comparison.target)) is not None
        }
        for system in systems
    }
    return ComparisonReport(
        about.title or words.listing([system.name for system in systems]) + " compared",
        headline,
        comparison,
        means,
        {system.name: system.seeds for system in systems},
        tuple(one for one in (by_history(systems, headline, comparison.target),
                              by_target(systems, headline, comparison.target)) if one is not None),
        flat(protocol.describe()),
        protocol.hash,
        about,
        f"{datetime.now(UTC):%Y-%m-%d}",
    )  # fmt: skip


def mean_of(scores: NDArray[np.float64], target: Target) -> Estimate | None:
    """Mean of a table [users, runs] with its 95 % interval: crossed over users and runs where there are two
    of both, over users where there is one run; None with fewer than two users."""
    table = scores[np.isfinite(scores).all(axis=1)]
    if len(table) < 2:
        return None
    same = table.shape[1] > 1 and not np.ptp(table, axis=1).any()  # a deterministic model, run several times
    one = table.shape[1] == 1 or same
    made = nested_test(table[:, :1]) if one else crossed_test(table, target=target)
    return Estimate(made.difference, made.low, made.high, len(table))


def by_history(systems: Sequence[System], metric: str, target: Target) -> Slices | None:
    """The metric by events in the history, in the buckets of ``evaluation.by_history_length``."""
    lengths = systems[0].groups.get("n_history")
    if lengths is None:
        return None
    code = np.searchsorted([1, 6, 21], lengths, side="right")
    note = f"{words.metric_name(metric)} of users grouped by the number of events in their history."
    return _slices(
        systems,
        metric,
        target,
        code,
        HISTORY_BUCKETS,
        "By length of the history",
        "events in the history",
        note,
    )


def by_target(systems: Sequence[System], metric: str, target: Target) -> Slices | None:
    """The metric by popularity decile of what was to be found; users all of whose targets are cold apart."""
    deciles = systems[0].groups.get("target_decile")
    if deciles is None:
        return None
    code = deciles + 1
    cold, targets = systems[0].groups.get("n_cold"), systems[0].groups.get("n_targets")
    if cold is not None and targets is not None:
        code = np.where((cold == targets) & (targets > 0), 0, code)
    note = (
        f"{words.metric_name(metric)} of users grouped by the popularity of their held-out item (the median "
        "one of several): 1 holds the rarest tenth of the items, 10 the most popular; cold items occur in no "
        "history."
    )
    labels = ("cold", *(str(decile + 1) for decile in range(_DECILES)))
    return _slices(
        systems, metric, target, code, labels, "By popularity of what was to be found",
        "popularity decile of the item", note,
    )  # fmt: skip


def _slices(
    systems: Sequence[System],
    metric: str,
    target: Target,
    code: NDArray[np.int64],
    labels: Sequence[str],
    title: str,
    group: str,
    note: str,
) -> Slices | None:
    """None when all users are in one group."""
    present = [at for at in range(len(labels)) if (code == at).any()]
    if len(present) < 2:
        return None
    return Slices(
        title,
        f"{note} Intervals as above.",
        metric,
        group,
        "users",
        tuple(labels[at] for at in present),
        tuple(int((code == at).sum()) for at in present),
        {
            system.name: tuple(mean_of(system.scores[metric][code == at], target) for at in present)
            for system in systems
        },
    )


# --- the page and the table -------------------------------------------------------------------------


def render_comparison(report: ComparisonReport) -> str:
    """The page as text. Raises UsageError when jinja2 is not installed."""
    found = report.comparison
    shades = {name: at % 8 + 1 for at, name in enumerate(report.means)}
    headline = [pair for pair in found.pairs if pair.metric == report.headline]
    runs = {s.system: s.runs for s in found.standings if s.metric == report.headline}
    metrics = list(dict.fromkeys(pair.metric for pair in found.pairs))
    margins = {pair.equivalence.margin for pair in headline if pair.equivalence is not None}
    return filled(
        "comparison.html.j2",
        {
            "title": report.title,
            "made": report.made,
            "verdict": [lead(report, headline)],
            "tiles": tiles(report),
            "report": report,
            "found": found,
            "metrics": metrics,
            "headline": headline,
            "forest": [forest_row(pair) for pair in headline],
            "margin": max(margins, default=None),
            "runs": {name: values for name, values in runs.items() if np.isfinite(values).all()},
            "noise": {(s.system, s.metric): s.noise for s in found.standings},
            "methods": list(dict.fromkeys(pair.test.method for pair in found.pairs)),
            "shades": shades,
            "parts": parts_of(report.about.data),
            "protocol": without_split_settings(report.protocol),
            "confidence": f"{100 * (1 - found.alpha):.3g} %",
        },
    )


def forest_row(pair: Pair) -> ForestRow:
    test = pair.test
    estimate = Estimate(test.difference, test.low, test.high, test.n_users)
    return ForestRow(pair.first, pair.second, estimate, pair.verdict.outcome)


def lead(report: ComparisonReport, headline: Sequence[Pair]) -> str:
    """The result in a sentence or two: the best by mean, and whether that is decided."""
    name = words.metric_name(report.headline)
    means = {system: row[report.headline] for system, row in report.means.items() if report.headline in row}
    if not means:
        return f"{name} is defined for too few users."
    best = max(means, key=lambda system: means[system].mean)
    said = f"{best} has the highest {name} of {len(means)}: {words.score(means[best].mean)}."
    beaten: list[str] = []
    open_: list[tuple[str, str]] = []
    for pair in headline:
        if best in (pair.first, pair.second):
            other = pair.second if pair.first == best else pair.first
            won = "better" if pair.first == best else "worse"
            if pair.verdict.outcome == won:
                beaten.append(other)
            else:
                open_.append((other, pair.verdict.outcome))
    parts = []
    if beaten:
        parts.append(f"It is better than {words.listing(beaten)}")
    equal = [other for other, outcome in open_ if outcome == "equal"]
    undecided = [other for other, outcome in open_ if outcome != "equal"]
    if equal:
        parts.append(f"equal to {words.listing(equal)} within the margin")
    if undecided:
        parts.append(f"its lead over {words.listing(undecided)} is not decidable with what was run")
    told = "; ".join(parts)
    return f"{said} {told[:1].upper()}{told[1:]}." if told else said


def tiles(report: ComparisonReport) -> list[Tile]:
    """Users, runs, decided comparisons, target of the claims."""
    found = report.comparison
    decided = sum(pair.verdict.outcome != "undecided" for pair in found.pairs)
    runs = sum(len(seeds) for seeds in report.seeds.values())
    whom = "of the same kind" if found.target == "population" else "and other seeds"
    return [
        Tile(
            "Users",
            words.count(found.n_users),
            f"left out: {found.left_out}" if found.left_out else "all compared",
        ),
        Tile("Runs", words.count(runs), f"of {len(report.seeds)} systems"),
        Tile("Decided", f"{decided} of {len(found.pairs)}", f"comparisons, {found.correction} correction"),
        Tile("Claims hold for", "new users" if found.target == "population" else "these users", whom),
    ]


def comparison_csv(report: ComparisonReport) -> str:
    """Long form: means, groups, differences with their tests."""
    rows: list[tuple[Any, ...]] = []
    for system, means in report.means.items():
        rows += [("overall", system, metric, "", *_cells(one)) for metric, one in means.items()]
    for slices in report.slices:
        for system, values in slices.values.items():
            rows += [
                (f"by {slices.group}", system, slices.metric, label, *_cells(one))
                for label, one in zip(slices.labels, values, strict=True)
                if one is not None
            ]
    for pair in report.comparison.pairs:
        test = pair.test
        cells = (test.difference, test.low, test.high, test.n_users, test.p_value, pair.p_adjusted)
        rows.append(
            ("difference", f"{pair.first} - {pair.second}", pair.metric, pair.verdict.outcome, *cells)
        )
    rows += [
        ("stages", "", one.metric, "", one.mean, one.low, one.high, one.n, "", "")
        for one in report.about.stages
    ]
    for standing in report.comparison.standings:
        rows += [
            ("run", standing.system, standing.metric, str(seed), mean, "", "", "", "", "")
            for seed, mean in zip(report.seeds[standing.system], standing.runs, strict=True)
        ]
    columns = ("section", "system", "metric", "group", "mean", "low", "high", "n", "p", "p_adjusted")
    return sheet(columns, rows)


def _cells(one: Estimate) -> tuple[float | int | str, ...]:
    return one.mean, one.low, one.high, one.n, "", ""
