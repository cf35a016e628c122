"""``config``: the settings of a model, shown, as a schema, checked, compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from recengine.cli.inputs import ConfigFile, Model, Sets
from recengine.cli.names import fields_of, print_fields
from recengine.cli.output import Json, emit_json, note, table
from recengine.cli.sections import effective, given, sections_of
from recengine.errors import ConfigError
from recengine.settings import Difference, json_schema, read_file, to_toml
from recengine.settings import diff as differences

app = typer.Typer(help="Show, check or compare settings.", no_args_is_help=True)


@app.command()
def show(
    model: Model,
    config: ConfigFile = None,
    sets: Sets = None,
    fields: Annotated[bool, typer.Option("--fields", help="Types, ranges and descriptions instead.")] = False,
    as_json: Json = False,
) -> None:
    """The effective settings of a fit of MODEL, as TOML: defaults < file < command line."""
    if fields:
        of_loss = sections_of(model, given(model, config, sets or []))
        described = {name: fields_of(section) for name, section in of_loss.items()}
        if as_json:
            emit_json(described)
            return
        for name, rows in described.items():
            print_fields(rows, name)
        return
    settings = effective(model, config, sets or [])
    if as_json:
        emit_json(settings)
    else:
        typer.echo(to_toml(settings), nl=False)


@app.command()
def schema(model: Model) -> None:
    """JSON Schema of the settings file of MODEL, for editors."""
    parts = {name: json_schema(section) for name, section in sections_of(model, {}).items()}
    for part in parts.values():
        part.pop("$schema", None)
    emit_json(
        {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": f"Settings of a fit of {model}",
            "type": "object",
            "properties": parts,
            "additionalProperties": False,
        }
    )


@app.command()
def check(
    model: Model,
    file: Annotated[Path | None, typer.Argument(help="Settings file.")] = None,
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """Check a settings file (and --set) for MODEL; exit code 2 names the file, the line and the key."""
    effective(model, file, sets or [])
    if as_json:
        emit_json({"ok": True, "model": model, "file": file})
    else:
        note(f"the settings fit {model}")


@app.command()
def diff(
    left: Annotated[Path, typer.Argument(help="Settings file, run.json or run directory.")],
    right: Annotated[Path, typer.Argument(help="Settings file, run.json or run directory.")],
    as_json: Json = False,
) -> None:
    """What differs between two settings files or runs. Exit code 1 when something does."""
    found = differences(_tree(left), _tree(right))
    if as_json:
        emit_json([{"key": one.key, "left": one.left, "right": one.right} for one in found])
    elif found:
        rows = [
            [
                one.key,
                *(
                    repr(v) if there else "-"
                    for v, there in zip((one.left, one.right), one.present, strict=True)
                ),
            ]
            for one in found
        ]
        table(["setting", str(left), str(right)], rows)
    if found:
        raise typer.Exit(1)


def _sides(one: Difference) -> list[str]:
    sides = zip((one.left, one.right), one.present, strict=True)
    return [one.key, *(repr(value) if there else "-" for value, there in sides)]


def _tree(path: Path) -> dict[str, Any]:
    if path.is_dir():
        path = path / "config.toml"
    if path.suffix != ".json":
        return read_file(path)[0]
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as wrong:
        raise ConfigError("not valid JSON", where=str(path), found=str(wrong)) from None
    settings = run.get("config", run) if isinstance(run, dict) else None
    if not isinstance(settings, dict):
        raise ConfigError("holds no settings", where=str(path), expected="a run.json or a table of settings")
    return settings
