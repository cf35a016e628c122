"""``compare``: systems side by side, each with several seeds, and whether their difference is real."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from recengine.cli.inputs import DataOptions, Sets
from recengine.cli.output import Json, emit_json, note, table
from recengine.cli.systems import collect, complete
from recengine.errors import UsageError

if TYPE_CHECKING:
    from recengine.evaluation.comparing import Comparison, System

_SHOWN = ("hr@", "recall@", "ndcg@", "mrr@")


def compare(
    systems: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN|MODEL...", help="Folders that fit wrote (or of such), or names of models."
        ),
    ],
    data: Annotated[str | None, typer.Option("--data", "-d", help="Data for models that are named.")] = None,
    seeds: Annotated[int, typer.Option(help="Seeds of each named model; what is missing is fitted.")] = 5,
    out: Annotated[Path, typer.Option(help="Where fitted runs go, one folder a model and seed.")] = Path(
        "runs/compare"
    ),
    metric: Annotated[list[str] | None, typer.Option(help="Test these metrics (repeatable).")] = None,
    target: Annotated[
        str, typer.Option(help="population (new users) or fixed (these users).")
    ] = "population",
    margin: Annotated[float | None, typer.Option(help="Differences below this count as equal.")] = None,
    correction: Annotated[str, typer.Option(help="holm, benjamini-hochberg or none.")] = "holm",
    repeats: Annotated[str, typer.Option(help="What the runs are: seeds, or decoding repeats.")] = "seeds",
    intersect: Annotated[
        bool, typer.Option("--intersect", help="Compare on the users all systems share.")
    ] = False,
    fail_below: Annotated[
        float | None,
        typer.Option(help="Exit 1 if the first system surely loses more than this to another (a CI gate)."),
    ] = None,
    data_option: DataOptions = None,
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """Compare systems by the crossed test over users and seeds; one sentence for each pair.

    Runs of one model with the same settings and different seeds form a system. Named models are fitted on
    --data for every seed that is missing below --out; run the same command again to go on.
    """
    from recengine.evaluation.comparing import compare_systems

    folders = complete(systems, data, seeds, out, data_option or [], sets or [])
    found = collect(folders)
    if len(found) < 2:
        _single(found[0], as_json)
        return
    result = compare_systems(
        found,
        metrics=metric or _shown(found),
        target=cast("Literal['population', 'fixed']", _one_of(target, "--target", "population", "fixed")),
        margin=margin,
        correction=cast(
            "Literal['holm', 'benjamini-hochberg', 'none']",
            _one_of(correction, "--correction", "holm", "benjamini-hochberg", "none"),
        ),
        repeats=cast("Literal['seeds', 'decoding']", _one_of(repeats, "--repeats", "seeds", "decoding")),
        intersect=intersect,
    )
    if as_json:
        emit_json({"protocol": found[0].protocol.hash, **vars(result)})
    else:
        _print(found, result)
    if fail_below is not None:
        _gate(found[0].name, result, fail_below)


def _one_of(value: str, where: str, *known: str) -> str:
    if value not in known:
        raise UsageError("not an option", where=where, found=value, expected=" or ".join(known))
    return value


def _shown(systems: list[System]) -> list[str]:
    common = [name for name in systems[0].scores if all(name in system.scores for system in systems)]
    return [name for name in common if name.startswith(_SHOWN)] or common


def _single(system: System, as_json: bool) -> None:
    means = {name: float(scores.mean()) for name, scores in system.scores.items()}
    if as_json:
        emit_json({"system": system.name, "seeds": system.seeds, "means": means})
        return
    table(["metric", system.name], list(means.items()), title=f"{len(system.seeds)} seeds")
    note("one system only: name another one to compare with")


def _print(systems: list[System], result: Comparison) -> None:
    metrics = list(dict.fromkeys(standing.metric for standing in result.standings))
    by_cell = {(standing.system, standing.metric): standing for standing in result.standings}
    table(
        ["system", "seeds", *metrics],
        [
            [system.name, len(system.seeds), *(_cell(by_cell[system.name, metric]) for metric in metrics)]
            for system in systems
        ],
        title=f"{result.n_users} users; mean, and standard deviation of the runs",
    )
    table(
        ["metric", "difference of", "mean", "95 %", "relative", "p adjusted", "effect", "detectable"],
        [
            [
                pair.metric,
                f"{pair.first} - {pair.second}",
                f"{pair.test.difference:+.4f}",
                f"[{pair.test.low:+.4f}, {pair.test.high:+.4f}]",
                f"{100 * pair.relative:+.1f} %",
                f"{pair.p_adjusted:.3g}",
                f"{pair.effect_size:+.2f}",
                None if pair.detectable is None else f"{pair.detectable:.4f}",
            ]
            for pair in result.pairs
        ],
    )
    for pair in result.pairs:
        typer.echo(pair.verdict.sentence)
    method = result.pairs[0].test.method
    note(f"{method}, for {_whom(result)}; {result.correction} over {len(result.pairs)} tests")
    if result.left_out:
        note(f"{result.left_out} users that not all systems scored were left out")
    note(f"protocol: {systems[0].protocol}")


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
