"""``recourse``: what has to change for a person to be accepted, also by a retrained model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recengine.cli.output import Json, emit_json, note, table
from recengine.cli.recourse_model import Asked, Ready, ready
from recengine.errors import UsageError

if TYPE_CHECKING:
    from recengine.recourse import Constraints
    from recengine.recourse.telling import Told

_SINGLY = 5  # so many people get the long answer


def recourse(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="logistic or mlp (fitted here), or a folder that --save wrote."),
    ],
    data: Annotated[Path, typer.Option("--data", "-d", help="CSV or Parquet table of the people who ask.")],
    row: Annotated[list[int] | None, typer.Option(help="Row of the person, from 0 (repeatable).")] = None,
    everybody: Annotated[bool, typer.Option("--all", help="Every refused row.")] = False,
    target: Annotated[str | None, typer.Option(help="Column that says who was accepted.")] = None,
    accept: Annotated[str | None, typer.Option(help="The class that people want.")] = None,
    train: Annotated[Path | None, typer.Option(help="Table to fit on; default: --data.")] = None,
    header: Annotated[
        str | None, typer.Option(metavar="a,b,c", help="Column names of a file without a header line.")
    ] = None,
    drop: Annotated[list[str] | None, typer.Option(help="A column to leave out (repeatable).")] = None,
    category: Annotated[
        list[str] | None, typer.Option(help="A column of numbers that are categories (repeatable).")
    ] = None,
    constraints: Annotated[
        Path | None, typer.Option("--constraints", "-c", help="TOML or YAML file: what may change, and how.")
    ] = None,
    eps: Annotated[
        str | None,
        typer.Option(help="Excess loss to survive: 0.01, 5% of the loss, or a level as chi2:0.95."),
    ] = None,
    guarantee: Annotated[str, typer.Option(help="ellipsoid, exact or sampled.")] = "ellipsoid",
    cost: Annotated[str, typer.Option(help="l2, l1 or changes (fewest).")] = "l2",
    plausible: Annotated[
        float | None,
        typer.Option(help="Stay as near to the accepted rows as this share of them, e.g. 0.95."),
    ] = None,
    ways: Annotated[int, typer.Option(help="So many different answers a person.")] = 1,
    supported: Annotated[bool, typer.Option(help="Only go where a real training row is.")] = False,
    fractions: Annotated[
        bool, typer.Option("--fractions", help="Whole-number columns may take fractions.")
    ] = False,
    method: Annotated[str, typer.Option(help="Name of a registered recourse method.")] = "ellice",
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="a=b", help="A setting of the method (repeatable).")
    ] = None,
    hidden: Annotated[str, typer.Option(help="Widths of the hidden layers of mlp.")] = "32,32",
    seed: Annotated[int, typer.Option(help="Seed of mlp.")] = 0,
    refits: Annotated[
        int, typer.Option(help="mlp: so many whole refits on bootstrap rows have to accept, too (e.g. 80).")
    ] = 0,
    plot: Annotated[Path | None, typer.Option(help="SVG of the margin against eps (one row).")] = None,
    out: Annotated[Path | None, typer.Option(help="CSV or Parquet table of all answers.")] = None,
    save: Annotated[Path | None, typer.Option(help="Folder to save the fitted model in.")] = None,
    as_json: Json = False,
) -> None:
    """What has to change for a person to be accepted, such that near-optimal retrained models accept too.

    Exit code 1 when somebody who asked has no recourse under the constraints.
    """
    from recengine.hooks import host
    from recengine.recourse import read_table

    entry = host().registries["recourse"].get(method)
    config = _config(entry, eps, guarantee, cost, plausible, sets or [])
    names = None if header is None else tuple(name.strip() for name in header.split(","))
    asked = Asked(
        model,
        train,
        data,
        names,
        target,
        accept,
        tuple(drop or ()),
        tuple(category or ()),
        _widths(hidden),
        seed,
        refits,
    )
    made = ready(asked, entry, config)
    limits = _limits(made, constraints, whole=not fractions)
    if save is not None:
        _save(made, save)
        note(f"saved: {save}")
    rows, people = _asking(row, everybody, made, read_table(data, header=names))
    if not rows and not everybody:
        if save is None:
            raise UsageError("nobody asked", expected="--row N (repeatable), or --all for every refused row")
        return
    from recengine.cli.recourse_answers import answer

    told = answer(made, people, rows, limits, ways=ways, supported=supported, long=len(rows) <= _SINGLY)
    if plot is not None:
        _plot(plot, made, people, told, limits)
    if out is not None:
        _write(out, told)
    if as_json:
        emit_json({"model": _about(made), "answers": told})
    else:
        _print(made, told, config)
    if any(one.cost is None for one in told):
        raise typer.Exit(1)


def _config(
    entry: Any, eps: str | None, guarantee: str, cost: str, plausible: float | None, sets: list[str]
) -> Any:
    from recengine.settings import parse_set

    given: dict[str, Any] = {"guarantee": guarantee, "cost": cost}
    if plausible is not None:
        given["plausible"] = plausible
    if eps is not None:
        given |= _eps(eps)
    given |= dict(parse_set(text) for text in sets)
    kind = entry.load_config()
    return None if kind is None else kind.parse(given, where="options")


def _eps(text: str) -> dict[str, Any]:
    """'0.01', '5%', 'chi2:0.95' or 'chi2-1:0.95' (one person's score) as settings."""
    head, colon, level = text.partition(":")
    try:
        if text.endswith("%"):
            given: dict[str, Any] = {"percent_of_loss": float(text[:-1])}
        elif colon and head in ("chi2", "chi2-1"):
            given = {"level": float(level), "joint": head == "chi2"}
        else:
            given = {"eps": float(text)}
    except ValueError:
        raise UsageError(
            "not an eps", where="--eps", found=text, expected="0.01, 5%, chi2:0.95 or chi2-1:0.95"
        ) from None
    value = next(iter(given.values()))
    if not 0 < value < (1 if "level" in given else float("inf")):
        expected = "a level between 0 and 1" if "level" in given else "more than 0"
        raise UsageError("an eps that is none", where="--eps", found=text, expected=expected)
    return given


def _widths(text: str) -> tuple[int, ...]:
    try:
        widths = tuple(int(part) for part in text.split(","))
    except ValueError:
        widths = ()
    if not widths or min(widths) < 1:
        raise UsageError("not widths of layers", where="--hidden", found=text, expected="like 32,32")
    return widths


def _limits(made: Ready, path: Path | None, *, whole: bool) -> Constraints:
    from recengine.recourse import constraint_table

    given = {} if path is None else constraint_table(path)
    return made.columns.compile(given, where="constraints" if path is None else str(path), whole=whole)


def _asking(row: list[int] | None, everybody: bool, made: Ready, table: Any) -> tuple[list[int], Any]:
    """The rows that ask, and their features; what other rows hold is looked at for --all only."""
    if everybody:
        if row:
            raise UsageError("--all and --row exclude each other")
        people = made.columns.encode(table)
        worst = made.method.margin(people, made.method.radius.eps)
        rows = [int(i) for i in (worst < made.method.config.margin).nonzero()[0]]
        return rows, people[rows]
    rows = list(row or [])
    for one in rows:
        if not 0 <= one < table.height:
            raise UsageError(
                "there is no such row", where="--row", found=one, expected=f"0 .. {table.height - 1}"
            )
    return rows, made.columns.encode(table, rows)


def _save(made: Ready, folder: Path) -> None:
    from recengine.recourse import SavedModel, save_model

    method = made.method
    saved = SavedModel(method.classifier, made.columns, made.target, made.label, method.state(), made.refits)
    save_model(saved, folder)


def _about(made: Ready) -> dict[str, Any]:
    method = made.method
    return {
        "source": made.source,
        "wanted": made.wanted,
        "guarantee": method.config.guarantee,
        "guarantee_means": method.guarantee,
        "cost": method.config.cost,
        "eps": method.radius.eps,
        "eps_origin": method.radius.origin,
        "largest_eps": method.radius.largest,
        "eps_share": method.radius.share,
        "moved_by_refit": method.moved_by_refit,
    }


def _print(made: Ready, told: list[Told], config: Any) -> None:
    from recengine.recourse.telling import in_words

    radius = made.method.radius
    units = {"l2": "(squared spreads)", "l1": "(spreads)", "changes": "(squared spreads)"}[config.cost]
    if len(told) <= _SINGLY:
        for one in told:
            typer.echo("\n".join(in_words(one, made.wanted, units)))
            typer.echo("")
    else:
        _table(told)
    typer.echo(f"guarantee: {made.method.config.guarantee}: {made.method.guarantee}")
    typer.echo(
        f"eps: {radius.eps:.4g} ({radius.origin}), {100 * radius.share:.3g} % of eps* = "
        f"{radius.largest:.4g}, beyond which nobody has robust recourse"
    )
    note(f"model: {made.source}; wanted: {made.wanted}")
    moved = made.method.moved_by_refit
    if moved is not None and moved > 0.01:
        note(f"the refit of the last layer moved scores by up to {moved:.2g}")


def _table(told: list[Told]) -> None:
    rows = [
        [
            one.row,
            one.status,
            one.cost,
            len(one.changes),
            one.worst_after,
            ", ".join(change.column for change in one.changes[:3]) + (" ..." if len(one.changes) > 3 else ""),
        ]
        for one in told
    ]
    table(["row", "status", "cost", "changes", "margin", "what"], rows)
    from recengine.recourse.telling import GAP

    found = sum(one.cost is not None for one in told)
    typer.echo(f"{found} of {len(told)} have an answer")
    open_gaps = [one.gap for one in told if one.gap is not None and one.gap > GAP]
    if open_gaps:
        typer.echo(
            f"{len(open_gaps)} of these may not be the cheapest: the search was cut short with at most "
            f"{100 * max(open_gaps):.2g} % left (setting nodes, column gap of --out)"
        )


def _write(path: Path, told: list[Told]) -> None:
    import polars as pl

    frame = pl.DataFrame(
        [
            {
                "row": one.row,
                "status": one.status,
                "cost": one.cost,
                "certified": one.certified,
                "gap": one.gap,
                "score": one.score,
                "worst": one.worst,
                "score_after": one.score_after,
                "worst_after": one.worst_after,
                "changes": "; ".join(f"{c.column}: {c.before} -> {c.after}" for c in one.changes),
            }
            for one in told
        ],
        infer_schema_length=None,
    )
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        frame.write_parquet(temporary) if path.suffix == ".parquet" else frame.write_csv(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _plot(path: Path, made: Ready, people: Any, told: list[Told], limits: Constraints) -> None:
    from recengine.cli.recourse_answers import curves
    from recengine.reports.figures import margin_figure

    if len(people) != 1:
        raise UsageError("a plot is of one person", where="--plot", found=f"{len(people)} rows")
    drawn = margin_figure(curves(made, people[0], told[0], limits))
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(drawn, encoding="utf-8")
    temporary.replace(path)
    note(f"plot: {path}")
