"""``models``, ``losses``, ``metrics``, ``datasets``: list what plugins registered, show one of it."""

from __future__ import annotations

import inspect
from typing import Annotated, Any

import typer

from recengine.cli.output import Json, emit_json, note, shown, table
from recengine.hooks import Entry, host


def fields_of(config: Any) -> list[dict[str, Any]]:
    """The settings of a config class, one dict each."""
    return [
        {
            "key": fact.key,
            "type": fact.type,
            "default": fact.default,
            "limits": fact.limits,
            "search": None if fact.search is None else _search(fact.search),
            "description": fact.description,
        }
        for fact in config.facts()
    ]


def _search(search: Any) -> str:
    told = (
        "{" + ", ".join(map(str, search.choices)) + "}"
        if search.choices is not None
        else f"{search.low:g} .. {search.high:g}{' (log)' if search.log else ''}"
    )
    asked = [f"{other} is {' or '.join(map(str, values))}" for other, values in search.when]
    return f"{told} if {' and '.join(asked)}" if asked else told


def print_fields(fields: list[dict[str, Any]], title: str) -> None:
    """The settings as a table."""
    columns = ["key", "type", "default", "limits", "search", "description"]
    rows = [[repr(f["default"]) if c == "default" else shown(f[c]) for c in columns] for f in fields]
    table(columns, rows, title=title)


def _facts(entry: Entry) -> dict[str, Any]:
    loaded = entry.load()
    config = entry.load_config()
    about = inspect.getdoc(loaded) if isinstance(loaded, type) else inspect.getdoc(type(loaded))
    facts = {
        "name": entry.name,
        "kind": entry.kind,
        "plugin": entry.plugin,
        "summary": entry.summary,
        "target": entry.target if isinstance(entry.target, str) else repr(entry.target),
        "about": about,
        "settings": [] if config is None else fields_of(config),
    }
    for fact in ("definition", "higher_is_better", "licence", "needs"):
        value = getattr(loaded, fact, None)
        if value is not None and not callable(value) and not isinstance(value, property):
            facts[fact] = sorted(value) if isinstance(value, frozenset) else value
    return facts | dict(entry.extras)


def _show(entry: Entry) -> None:
    facts = _facts(entry)
    typer.echo(f"{facts['name']}: {facts['summary']}".rstrip(": "))
    for name, value in facts.items():
        if name not in ("name", "summary", "about", "settings", "kind") and value not in (None, "", []):
            typer.echo(f"  {name}: {', '.join(value) if isinstance(value, list) else value}")
    if facts["about"]:
        typer.echo("\n" + facts["about"])
    if facts["settings"]:
        typer.echo("")
        print_fields(facts["settings"], "settings")


Name = Annotated[str, typer.Argument(help="The name, as the list shows it.")]


def _app_for(kind: str, plural: str) -> typer.Typer:
    made = typer.Typer(help=f"List or show {plural}.", no_args_is_help=True)

    @made.command("list", help=f"All {plural} that plugins registered.")
    def list_names(as_json: Json = False) -> None:
        entries = [
            {"name": entry.name, "summary": entry.summary, "plugin": entry.plugin}
            for entry in host().registries[kind]
        ]
        if as_json:
            emit_json(entries)
        elif entries:
            table(list(entries[0]), [list(entry.values()) for entry in entries])
        else:
            note(f"no {plural}: no plugin registers any (recengine plugins list)")

    @made.command("show", help=f"What one of the {plural} is, and its settings with defaults and ranges.")
    def show_name(name: Name, as_json: Json = False) -> None:
        entry = host().registries[kind].get(name)
        if as_json:
            emit_json(_facts(entry))
        else:
            _show(entry)

    return made


models = _app_for("model", "models")
losses = _app_for("loss", "losses")
metrics = _app_for("metric", "metrics")
datasets = _app_for("dataset", "data sets")
