"""``plan``: how many seeds and users a claim takes, from a pilot."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from recengine.cli.output import Json, emit_json, note, table


def plan(
    delta: Annotated[float, typer.Option(help="The difference to be found, in the metric's own unit.")],
    pilot: Annotated[
        list[Path], typer.Option(help="A fitted run of the pilot; repeat it, or name a folder of runs.")
    ],
    metric: Annotated[str, typer.Option(help="The metric that the claim is about.")] = "ndcg@10",
    power: Annotated[float, typer.Option(help="Chance to find the difference if it is there.")] = 0.8,
    alpha: Annotated[float, typer.Option(help="Chance to claim one that is not there.")] = 0.05,
    users: Annotated[int | None, typer.Option(help="Users to plan for; default: the pilot's.")] = None,
    target: Annotated[
        str, typer.Option(help="population (new users) or fixed (these users).")
    ] = "population",
    cost: Annotated[float | None, typer.Option(help="Cost of one run, in any unit.")] = None,
    looks: Annotated[
        str | None, typer.Option(help="Print the level of looks after so many seeds, e.g. 3,5,10.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Seeds, users and cost for a claim of --delta, from the variance of a pilot.

    A pilot of one system gives the variance of its runs; the difference of two such systems, seeds not
    shared, has twice the variance of seeds and of the rest, and the variance between users is taken as that
    of the rest (a claim about another user population needs a pilot of both systems: run compare).
    """
    from recengine.cli.systems import collect
    from recengine.errors import UsageError
    from recengine.evaluation.pairs import tables_of
    from recengine.evaluation.statistics import plan as make_plan
    from recengine.evaluation.statistics import variance_components

    checked: Literal["population", "fixed"]
    if target == "population":
        checked = "population"
    elif target == "fixed":
        checked = "fixed"
    else:
        raise UsageError("not a target", where="--target", found=target, expected="population or fixed")
    systems = collect(pilot)
    if len(systems) == 1:
        (system,) = systems
        parts = _doubled(variance_components(_scores(system, metric)))
        source = f"{system.name}, {len(system.seeds)} seeds"
    elif len(systems) == 2 and _paired(systems):
        first, second = systems
        for system in systems:
            _scores(system, metric)
        tables = tables_of(first, second, metric)
        parts = variance_components(tables.first - tables.second)
        source = f"{first.name} - {second.name}, {tables.first.shape[1]} seeds"
    else:
        raise UsageError(
            "a pilot is one system, or two with the same seeds (or one of them deterministic)",
            found=", ".join(f"{system.name} with seeds {list(system.seeds)}" for system in systems),
        )
    levels = _levels(looks, alpha)
    made = make_plan(parts, delta, users=users, power=power, alpha=alpha, target=checked, cost_per_run=cost)
    if as_json:
        told = {"pilot": source, "metric": metric, "components": parts, "plan": made}
        emit_json({**told, "looks": levels})
        return
    typer.echo(made.reason)
    if made.cost is not None:
        typer.echo(f"cost of both systems: {made.cost:g}")
    if made.users_needed is not None:
        typer.echo(f"with 5 seeds a system it would take about {made.users_needed:,} users")
    table(
        ["seeds", "power", "smallest difference found"],
        [[seeds, reached, least] for seeds, reached, least in made.curve],
        title=f"{metric}, difference {delta:g}, {made.users} users, pilot: {source}",
    )
    for seeds, level in levels.items():
        note(f"look after {seeds} seeds: claim a difference when p < {level:.2g}")
    spread = [f"{name} {value**0.5:.4g}" for name, value in _spread(parts)]
    note("standard deviations: " + ", ".join(spread))


def _paired(systems: Any) -> bool:
    return systems[0].seeds == systems[1].seeds or any(system.deterministic for system in systems)


def _levels(looks: str | None, alpha: float) -> dict[int, float]:
    from recengine.cli.compare import look_numbers
    from recengine.evaluation.statistics import look_levels

    numbers = [] if looks is None else look_numbers(looks)
    return dict(zip(numbers, look_levels(numbers, alpha=alpha).tolist(), strict=True)) if numbers else {}


def _scores(system: Any, metric: str) -> Any:
    from recengine.errors import UsageError

    if metric not in system.scores:
        raise UsageError("the pilot was not measured on it", where=metric, expected=", ".join(system.scores))
    return system.scores[metric]


def _spread(parts: Any) -> list[tuple[str, float]]:
    return [("seed", parts.run), ("user", parts.unit), ("rest", parts.error)]


def _doubled(parts: Any) -> Any:
    """Components of the difference of two systems that vary alike, seeds not shared."""
    from dataclasses import replace

    return replace(parts, unit=parts.error, run=2 * parts.run, error=2 * parts.error)
