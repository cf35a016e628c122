"""``plugins``: what is installed, one of them, a new one, a check of one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from recengine.cli.output import Json, emit_json, note, table
from recengine.errors import UsageError
from recengine.hooks import KINDS, Broken, Host, host

app = typer.Typer(help="List, show, write or check plugins.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Name of the plugin.")]


def _about(plugins: Host, name: str) -> dict[str, Any]:
    module = plugins.manager.get_plugin(name)
    entries = (entry for registry in plugins.registries.values() for entry in registry)
    return {
        "name": name,
        "from": getattr(module, "__file__", None) or repr(module),
        "hooks": plugins.hooks_of(name),
        "registers": [
            {"kind": entry.kind, "name": entry.name, "summary": entry.summary}
            for entry in entries
            if entry.plugin == name
        ],
    }


@app.command("list")
def list_plugins(
    kind: Annotated[str | None, typer.Option(help="Only what is registered as this kind.")] = None,
    as_json: Json = False,
) -> None:
    """The plugins of this installation; broken ones are named with the reason."""
    plugins = host()
    if kind is not None and kind not in KINDS:
        raise UsageError(f"there is no kind '{kind}'", expected="one of " + ", ".join(KINDS))
    abouts = [_about(plugins, name) for name in plugins.names()]
    if kind is not None:
        for about in abouts:
            about["registers"] = [entry for entry in about["registers"] if entry["kind"] == kind]
        abouts = [about for about in abouts if about["registers"]]
    if as_json:
        emit_json({"plugins": abouts, "broken": plugins.broken})
        return
    if abouts:
        rows = [[about["name"], _listed(about["registers"]), about["from"]] for about in abouts]
        table(["plugin", "registers", "from"], rows)
    else:
        note("no plugin is live")
    for broken in plugins.broken:
        note(f"broken: {broken.name}: {broken.reason}")


def _listed(entries: list[dict[str, str]]) -> str:
    return ", ".join(f"{entry['kind']} {entry['name']}" for entry in entries) or "events only"


@app.command("show")
def show_plugin(name: Name, as_json: Json = False) -> None:
    """One plugin: where it comes from, its hooks, what it registers."""
    plugins = host()
    if name not in plugins.names():
        raise _unknown(plugins, name)
    about = _about(plugins, name)
    if as_json:
        emit_json(about)
        return
    typer.echo(f"{name}\n  from: {about['from']}\n  hooks: {', '.join(about['hooks'])}")
    for entry in about["registers"]:
        typer.echo(f"  {entry['kind']} {entry['name']}: {entry['summary']}")


def _unknown(plugins: Host, name: str) -> UsageError:
    broken: Broken | None = next((one for one in plugins.broken if one.name == name), None)
    if broken is not None:
        return UsageError(f"plugin '{name}' is broken and was skipped", found=broken.reason)
    from recengine.config import did_you_mean

    near = did_you_mean(name, plugins.names())
    return UsageError(
        f"there is no plugin '{name}'",
        expected="one of " + ", ".join(plugins.names()) if plugins.names() else None,
        fix=f"did you mean '{near}'?" if near else "list them with: recengine plugins list",
    )


@app.command()
def new(
    name: Name,
    kind: Annotated[
        str, typer.Option(help="model, loss, metric, dataset, tuner, recourse or command.")
    ] = "model",
    out: Annotated[Path, typer.Option(help="Folder in which the project's folder is made.")] = Path("."),
    as_json: Json = False,
) -> None:
    """Write a complete, installable plugin project that passes its own tests."""
    from recengine.testing.scaffold import write_project

    made = write_project(name, kind, out)
    if as_json:
        emit_json({"project": made.folder, "files": made.files, "package": made.package})
        return
    typer.echo(str(made.folder))
    note(f"next: cd {made.folder} && pip install -e . && python -m pytest")


@app.command()
def check(name: Name, as_json: Json = False) -> None:
    """Run the conformance checks on everything that plugin NAME registers. Exit code 4 when one fails."""
    from recengine.testing.check import check_plugin

    plugins = host()
    if name not in plugins.names():
        raise _unknown(plugins, name)
    results = check_plugin(plugins, name)
    failed = [result for result in results if result.outcome == "failed"]
    if as_json:
        emit_json({"plugin": name, "passed": not failed, "checks": results})
    else:
        rows = [[result.subject, result.check, result.outcome, result.reason] for result in results]
        table(["subject", "check", "outcome", "why"], rows)
        note(f"{len(results) - len(failed)} of {len(results)} checks of plugin '{name}' hold")
    if failed:
        raise typer.Exit(4)
