"""``data``: look at it, convert it, split it, audit it, fetch it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from recengine.cli.inputs import DataArgument, DataOptions, Sets, data_cache, read_data, read_split
from recengine.cli.output import Json, emit_json, note, shown, table
from recengine.errors import UsageError

if TYPE_CHECKING:
    from recengine.data import Interactions, ReadReport, Split

app = typer.Typer(help="Describe, convert, split, audit or fetch data.", no_args_is_help=True)


@app.command()
def describe(data: DataArgument, data_option: DataOptions = None, as_json: Json = False) -> None:
    """What was read, what was guessed about the columns, and how the data looks."""
    from recengine.data import ReadReport

    report = ReadReport()
    interactions = read_data(data, data_option or [], report)
    facts = facts_of(interactions)
    if as_json:
        emit_json({"data": data, "reader": _read_facts(report), **facts})
        return
    for name, value in (_read_facts(report) | facts).items():
        for line in value if isinstance(value, list) else [value]:
            typer.echo(f"{name}: {shown(line)}")


def _read_facts(report: ReadReport) -> dict[str, Any]:
    if not report.layout:
        return {}
    columns = ", ".join(f"{role} = {column}" for role, column in report.columns.items())
    return {"layout": report.layout, "columns": columns, "guessed": report.said, "rows_of_file": report.rows}


def facts_of(data: Interactions) -> dict[str, Any]:
    """Sizes, density, history lengths, concentration, time range, ties."""
    lengths = np.diff(data.indptr)
    lengths = lengths[lengths > 0]
    counts = np.sort(np.bincount(data.item, minlength=data.n_items))[::-1]
    top = max(1, data.n_items // 100)
    pairs = int(np.unique(data.user.astype(np.int64) * data.n_items + data.item).size)
    facts: dict[str, Any] = {
        "users": data.n_users,
        "items": data.n_items,
        "events": len(data),
        "density": pairs / max(1, data.n_users * data.n_items),
        "events_per_user": _quantiles(lengths),
        "events_per_item": _quantiles(counts[counts > 0]),
        "share_of_top_1_percent_items": float(counts[:top].sum() / max(1, len(data))),
        "repeated_pairs": len(data) - pairs,
        "weights": data.weight is not None,
    }
    if data.time is not None and len(data):
        steps = np.diff(data.user) == 0
        tied = np.diff(data.time)[steps] == 0
        facts |= {
            "time_from": int(data.time.min()),
            "time_to": int(data.time.max()),
            "same_time_steps": float(tied.mean()) if tied.size else 0.0,
            "order_inside_ties": data.ties,
        }
    return facts


def _quantiles(values: Any) -> str:
    if not len(values):
        return "none"
    low, middle, high = np.quantile(values, [0.05, 0.5, 0.95])
    return f"min {values.min()}, 5 % {low:g}, median {middle:g}, 95 % {high:g}, max {values.max()}"


@app.command()
def convert(
    data: DataArgument,
    out: Annotated[Path, typer.Argument(help="New file: .parquet, .csv or .tsv; no suffix: a fast store.")],
    data_option: DataOptions = None,
    as_json: Json = False,
) -> None:
    """Write data with columns user, item, time, weight (where there are any), in original ids."""
    if out.suffix not in ("", ".parquet", ".csv", ".tsv"):
        raise UsageError(
            "no such format", where=str(out), found=out.suffix, expected=".parquet, .csv, .tsv or no suffix"
        )
    interactions = read_data(data, data_option or [])
    if out.suffix:
        _write_table(interactions, out)
    else:
        interactions.save(out)
    if as_json:
        emit_json({"file": out, "events": len(interactions)})
    else:
        typer.echo(str(out))


def _write_table(data: Interactions, out: Path) -> None:
    import polars as pl

    from recengine.files import write_with

    # in the order of the source: reading the file shuffles ties by row, and shuffling twice may undo itself
    rows = np.argsort(data.source, kind="stable")
    columns: dict[str, Any] = {
        "user": data.users.tokens[data.user[rows]].tolist(),
        "item": data.items.tokens[data.item[rows]].tolist(),
    }
    if data.time is not None:
        columns["time"] = data.time[rows]
    if data.weight is not None:
        columns["weight"] = data.weight[rows]
    frame = pl.DataFrame(columns)
    if out.suffix == ".parquet":
        write_with(out, frame.write_parquet)
    else:
        write_with(out, lambda path: frame.write_csv(path, separator="\t" if out.suffix == ".tsv" else ","))


def _divide(data: str, options: Sequence[str], sets: Sequence[str]) -> Split:
    """The split of the data by the settings of the section 'split'."""
    from recengine.data import Interactions, SplitConfig, split
    from recengine.settings import layer_over

    source = read_split(data, options)
    if isinstance(source, Interactions):
        return split(source, layer_over(SplitConfig, None, [text.removeprefix("split.") for text in sets]))
    if sets:
        raise UsageError("this data is split already", where=data, found="--set " + " --set ".join(sets))
    return source


@app.command("split")
def split_data(
    data: DataArgument,
    out: Annotated[Path, typer.Option(help="Folder to write; use it as --data afterwards.")],
    sets: Sets = None,
    data_option: DataOptions = None,
    as_json: Json = False,
) -> None:
    """Split data into training, validation and test, e.g. --set strategy=time_point, and keep it."""
    from recengine.training.store import save_split

    made = _divide(data, data_option or [], sets or [])
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        raise UsageError(
            "there is something in this place already", where=str(out), fix="choose another --out"
        )
    save_split(out, made)
    facts: dict[str, Any] = {"folder": out, "training_events": len(made.train)}
    for task in (made.validation, made.test):
        if task is not None:
            facts |= {f"{task.name}_users": len(task.users), f"{task.name}_targets": len(task.targets)}
    facts["description"] = made.description
    if as_json:
        emit_json(facts)
        return
    typer.echo(str(out))
    for name, value in facts.items():
        if name != "folder":
            note(f"  {name}: {value}")


@app.command()
def audit(
    data: DataArgument, sets: Sets = None, data_option: DataOptions = None, as_json: Json = False
) -> None:
    """Look for held-out data that training could see. Exit code 3 when that would stop a fit."""
    from recengine.data import audit as look

    findings = look(_divide(data, data_option or [], sets or []))
    failed = any(finding.severity == "fail" for finding in findings)
    if as_json:
        emit_json({"ok": not failed, "findings": findings})
    elif findings:
        rows = [[finding.severity, finding.check, finding.message] for finding in findings]
        table(["severity", "check", "finding"], rows)
    else:
        typer.echo("nothing was found")
    if failed:
        raise typer.Exit(3)


@app.command()
def fetch(
    name: Annotated[str | None, typer.Argument(help="Public data set; without it: the list.")] = None,
    base_url: Annotated[str | None, typer.Option(help="A mirror instead of the publisher's address.")] = None,
    as_json: Json = False,
) -> None:
    """Fetch a public data set into the cache: licence shown first, checksum verified, transfers resume."""
    from recengine.data.fetching import PUBLIC_SETS, is_fetched
    from recengine.data.fetching import fetch as bring

    if name is None:
        known = [
            {
                "name": one.name,
                "here": is_fetched(one, data_cache()),
                "summary": one.summary,
                "licence": one.licence,
            }
            for one in PUBLIC_SETS
        ]
        if as_json:
            emit_json(known)
        else:
            table(
                list(known[0]),
                [["yes" if v is True else "" if v is False else v for v in k.values()] for k in known],
            )
        return
    folder = bring(name, data_cache(), base_url=base_url, tell=note)
    if as_json:
        emit_json({"name": name, "folder": folder})
    else:
        typer.echo(str(folder))
