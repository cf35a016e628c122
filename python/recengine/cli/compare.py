"""``compare``: systems side by side, each with several seeds, and whether their difference is real."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from recengine.cli.about import about_of
from recengine.cli.inputs import DataOptions, Sets
from recengine.cli.output import Json, emit_json, note, table
from recengine.cli.systems import Fits, collect, complete, folders_by_system
from recengine.errors import UsageError

if TYPE_CHECKING:
    from recengine.evaluation.comparing import Comparison, Pair
    from recengine.evaluation.systems import System
    from recengine.reports import About

_SHOWN = ("hr@", "recall@", "ndcg@", "mrr@")


def compare(
    systems: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN|MODEL...", help="Folders that fit wrote (or of such), or names of models."
        ),
    ],
    data: Annotated[str | None, typer.Option("--data", "-d", help="Data for models that are named.")] = None,
    seeds: Annotated[
        int, typer.Option(min=1, help="Seeds of each named model; what is missing is fitted.")
    ] = 5,
    out: Annotated[Path, typer.Option(help="Where fitted runs go, one folder a model and seed.")] = Path(
        "runs/compare"
    ),
    workers: Annotated[int, typer.Option(min=1, help="Fits side by side, each in a process.")] = 1,
    metric: Annotated[list[str] | None, typer.Option(help="Test these metrics (repeatable).")] = None,
    target: Annotated[
        str, typer.Option(help="population (new users) or fixed (these users).")
    ] = "population",
    margin: Annotated[float | None, typer.Option(help="Differences below this count as equal.")] = None,
    alpha: Annotated[float, typer.Option(help="Chance to claim a difference that is not there.")] = 0.05,
    correction: Annotated[str, typer.Option(help="holm, benjamini-hochberg or none.")] = "holm",
    repeats: Annotated[str, typer.Option(help="What the runs are: seeds, or decoding repeats.")] = "seeds",
    looks: Annotated[
        str | None,
        typer.Option(
            help="Look after so many seeds and stop when all is decided, e.g. 3,5,10 (for --seeds)."
        ),
    ] = None,
    spending: Annotated[
        str, typer.Option(help="How looks spend the level: obrien-fleming or pocock.")
    ] = "obrien-fleming",
    intersect: Annotated[
        bool, typer.Option("--intersect", help="Compare on the users all systems share.")
    ] = False,
    fail_below: Annotated[
        float | None,
        typer.Option(
            min=0, help="Exit 1 if the first system surely loses more than this to another (a CI gate)."
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="HTML page, with JSON and CSV beside it; default: OUT/comparison.html."),
    ] = None,
    stability: Annotated[
        bool, typer.Option("--stability", help="Measure how the lists of a system's runs overlap.")
    ] = False,
    no_report: Annotated[bool, typer.Option("--no-report", help="Write no page.")] = False,
    data_option: DataOptions = None,
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """Compare systems by the crossed test over users and seeds; one sentence for each pair.

    Runs of one model with the same settings and different seeds form a system. Named models are fitted on
    --data for every seed that is missing below --out; run the same command again to go on.
    """
    asked: dict[str, Any] = {
        "target": _one_of(target, "--target", "population", "fixed"),
        "margin": margin,
        "correction": _one_of(correction, "--correction", "holm", "benjamini-hochberg", "none"),
        "repeats": _one_of(repeats, "--repeats", "seeds", "decoding"),
        "intersect": intersect,
    }
    if margin is not None and not margin > 0:
        raise UsageError("the margin of equivalence must be positive", where="--margin", found=margin)
    fits = Fits(data, out, data_option or [], sets or [], workers)
    planned = _looks(looks, seeds, alpha, spending)
    folders, found, result, look = _decide(systems, fits, planned, metric, asked)
    if result is None:
        _single(found[0], as_json)
        return
    about = about_of(folders, found, stability=stability)
    page = None if no_report else _page(found, result, about, report, out)
    if as_json:
        told = {"protocol": found[0].protocol.hash, "look": vars(look), **vars(result)}
        emit_json({**told, "stability": about.stability, "report": page})
    else:
        _print(found, result)
        for name, overlap in about.stability.items():
            note(
                f"lists of two runs of {name}: rank-biased overlap {overlap[0]:.4f}, Jaccard {overlap[1]:.4f}"
            )
        if len(planned) > 1:
            note(str(look))
        if page is not None:
            note(f"report: {page}, and the same numbers as .json and .csv")
    if fail_below is not None:
        _gate(found[0].name, result, fail_below)


@dataclass(frozen=True)
class Look:
    """One of several looks at the growing runs: after ``seeds`` seeds, tested at ``level``."""

    number: int
    of: int
    seeds: int
    level: float

    def __str__(self) -> str:
        return f"look {self.number} of {self.of}: {self.seeds} seeds, each test at level {self.level:.4f}"


def _looks(text: str | None, seeds: int, alpha: float, spending: str) -> list[Look]:
    if not 0 < alpha < 1:
        raise UsageError("a level lies strictly between 0 and 1", where="--alpha", found=alpha)
    if text is None:
        return [Look(1, 1, seeds, alpha)]
    from recengine.evaluation.statistics import look_levels

    numbers = look_numbers(text)
    chosen = _one_of(spending, "--spending", "obrien-fleming", "pocock")
    levels = look_levels(numbers, alpha=alpha, spending=cast("Literal['obrien-fleming', 'pocock']", chosen))
    return [
        Look(at, len(numbers), number, float(level))
        for at, (number, level) in enumerate(zip(numbers, levels, strict=True), start=1)
    ]


def look_numbers(text: str) -> list[int]:
    """'3,5,10' as numbers of seeds; raises UsageError."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(
            "looks are numbers of seeds", where="--looks", found=text, expected="e.g. 3,5,10"
        ) from None


def _decide(
    names: list[str], fits: Fits, planned: list[Look], metrics: list[str] | None, asked: dict[str, Any]
) -> tuple[dict[str, list[Path]], list[System], Comparison | None, Look]:
    """Fit and test look by look, until every pair is decided or the last look is reached."""
    from recengine.evaluation.comparing import compare_systems

    for look in planned:
        paths = complete(names, look.seeds, fits)
        folders = {name: list(runs.values()) for name, runs in folders_by_system(paths).items()}
        found = collect(paths)
        if len(planned) > 1:
            found = [system.first(look.seeds) for system in found]
            folders = {name: runs[: look.seeds] for name, runs in folders.items()}
        if len(found) < 2:
            return folders, found, None, look
        result = compare_systems(found, metrics=metrics or _shown(found), alpha=look.level, **asked)
        if all(pair.verdict.outcome != "undecided" for pair in result.pairs):
            break
    return folders, found, result, look


def _one_of(value: str, where: str, *known: str) -> str:
    from recengine.config import did_you_mean

    if value not in known:
        near = did_you_mean(value, known)
        raise UsageError(
            "not an option",
            where=where,
            found=value,
            expected=" or ".join(known),
            fix=f"did you mean '{near}'?" if near else None,
        )
    return value


def _shown(systems: list[System]) -> list[str]:
    """The usual metrics that all have; one that equals another for every user (recall and hit rate, where one
    item is asked for) is not tested twice."""
    import numpy as np

    common = [name for name in systems[0].scores if all(name in system.scores for system in systems)]
    chosen: list[str] = []
    for name in [name for name in common if name.startswith(_SHOWN)] or common:
        same = next(
            (
                other
                for other in chosen
                if all(np.array_equal(s.scores[name], s.scores[other], equal_nan=True) for s in systems)
            ),
            None,
        )
        if same is None:
            chosen.append(name)
        else:
            note(f"{name} equals {same} for every user here: tested once")
    return chosen


def _single(system: System, as_json: bool) -> None:
    means = {name: float(scores.mean()) for name, scores in system.scores.items()}
    if as_json:
        emit_json({"system": system.name, "seeds": system.seeds, "means": means})
        return
    table(["metric", system.name], list(means.items()), title=f"{len(system.seeds)} seeds")
    note("one system only: name another one to compare with")


def _page(
    found: list[System], result: Comparison, about: About, asked: Path | None, out: Path
) -> Path | None:
    """Write the report. Unasked, a missing jinja2 is no error."""
    from recengine.reports import write_comparison

    try:
        return write_comparison(result, found, asked or out / "comparison.html", about=about)
    except UsageError as missing:
        if asked is not None:
            raise
        note(f"no report: {missing.problem}")
        return None


def _print(systems: list[System], result: Comparison) -> None:
    from recengine.evaluation.click_result import ClickProtocol

    metrics = list(dict.fromkeys(standing.metric for standing in result.standings))
    by_cell = {(standing.system, standing.metric): standing for standing in result.standings}
    table(
        ["system", "seeds", *metrics],
        [
            [
                system.name,
                "any" if system.deterministic else len(system.seeds),
                *(_cell(by_cell[system.name, metric]) for metric in metrics),
            ]
            for system in systems
        ],
        title=f"{result.n_users} users; mean, and standard deviation of the runs",
    )
    interval = f"{100 * (1 - result.alpha):.3g} %"
    columns = ["metric", "difference of", "mean", interval, "relative", "p adjusted", "effect"]
    table(
        [*columns, "detectable", "one seed misleads"],
        [_row(pair) for pair in result.pairs],
    )
    for pair in result.pairs:
        typer.echo(pair.verdict.sentence)
    for method in dict.fromkeys(pair.test.method for pair in result.pairs):
        note(f"{method}, for {_whom(result)}; {result.correction} over {len(result.pairs)} tests")
    for told in result.notes:
        note(told)
    if result.left_out:
        note(f"{result.left_out} users that not all systems scored were left out")
    if isinstance(systems[0].protocol, ClickProtocol):
        note("users are rows of the click log here; log_likelihood is the negative of the log loss")
    note(f"protocol: {systems[0].protocol}")


def _row(pair: Pair) -> list[str | None]:
    test = pair.test
    return [
        pair.metric,
        f"{pair.first} - {pair.second}",
        f"{test.difference:+.4f}",
        f"[{test.low:+.4f}, {test.high:+.4f}]",
        f"{100 * pair.relative:+.1f} %",
        f"{pair.p_adjusted:.3g}",
        f"{pair.effect_size:+.2f}",
        None if pair.detectable is None else f"{pair.detectable:.4f}",
        None if pair.flip is None else f"{100 * pair.flip.share:.0f} %",
    ]


def _whom(result: Comparison) -> str:
    return "new users of the same kind" if result.target == "population" else "these very users"


def _cell(standing: Any) -> str:
    spread = f" ± {standing.noise.sd:.4f}" if standing.noise else ""
    return f"{standing.mean:.4f}{spread}"


def _gate(first: str, result: Comparison, margin: float) -> None:
    """Exit 1 only where the whole interval of a loss of the first system lies beyond the margin."""
    lost = [pair for pair in result.pairs if pair.first == first and pair.test.high < -margin]
    for pair in lost:
        note(f"gate: {pair.first} loses at least {-pair.test.high:.4f} on {pair.metric} to {pair.second}")
    if lost:
        raise typer.Exit(1)
