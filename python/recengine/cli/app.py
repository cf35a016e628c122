"""The application: global options, the table of commands, commands that plugins add."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from recengine.cli.failures import explained
from recengine.cli.lazy import Lazy, LazyGroup, as_command

_ROOMS = "recengine.cli"
_WORK, _EVIDENCE = "Fit and evaluate", "Evidence"
_LOOK, _TOOLS = "Look around", "Settings, plugins, machine"


class RootGroup(LazyGroup):
    """The commands of recengine, then those of plugins."""

    table: ClassVar = {
        "quickstart": Lazy(f"{_ROOMS}.quickstart:quickstart", "See it work on real data in minutes.", _WORK),
        "fit": Lazy(f"{_ROOMS}.fit:fit", "Fit a model on data.", _WORK),
        "evaluate": Lazy(f"{_ROOMS}.evaluate:evaluate", "Evaluate a fitted run.", _WORK),
        "recommend": Lazy(f"{_ROOMS}.recommend:recommend", "Recommend items for a user or a history.", _WORK),
        "predict": Lazy(f"{_ROOMS}.predict:predict", "Predict clicks for the rows of a table.", _WORK),
        "export": Lazy(f"{_ROOMS}.export:export", "Write a click model as a program of its own.", _WORK),
        "rerank": Lazy(f"{_ROOMS}.rerank:rerank", "Put what a run retrieves in a better order.", _WORK),
        "compare": Lazy(f"{_ROOMS}.compare:compare", "Which system is better, and is the gain real?", _WORK),
        "tune": Lazy(f"{_ROOMS}.tune:tune", "Search the settings of a model from its defaults.", _WORK),
        "recourse": Lazy(
            f"{_ROOMS}.recourse:recourse", "What has to change for a person to be accepted.", _WORK
        ),
        "reproduce": Lazy(f"{_ROOMS}.reproduce:reproduce", "Fit again what a run.json describes.", _WORK),
        "plan": Lazy(f"{_ROOMS}.plan:plan", "Seeds and users that a claim takes, from a pilot.", _EVIDENCE),
        "reliability": Lazy(
            f"{_ROOMS}.reliability:reliability", "pass@k and its kin for a table of tasks by runs.", _EVIDENCE
        ),
        "data": Lazy(f"{_ROOMS}.data:app", "Describe, convert, split, audit or fetch data.", _LOOK),
        "models": Lazy(f"{_ROOMS}.names:models", "List or show models.", _LOOK),
        "losses": Lazy(f"{_ROOMS}.names:losses", "List or show losses.", _LOOK),
        "metrics": Lazy(f"{_ROOMS}.names:metrics", "List or show metrics.", _LOOK),
        "datasets": Lazy(f"{_ROOMS}.names:datasets", "List or show data sets.", _LOOK),
        "config": Lazy(f"{_ROOMS}.settings:app", "Show, check or compare settings.", _TOOLS),
        "plugins": Lazy(f"{_ROOMS}.plugins:app", "List, show, write or check plugins.", _TOOLS),
        "doctor": Lazy(f"{_ROOMS}.doctor:doctor", "What this installation can do, and why not more.", _TOOLS),
    }

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *_plugin_commands(ctx)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return super().get_command(ctx, cmd_name) or _plugin_commands(ctx).get(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if not args or args[0] in self.table or args[0].startswith("-") or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        from recengine.hooks import host

        commands = host().registries["command"]
        if args[0] not in commands:
            raise _unknown(args[0], self.list_commands(ctx))
        return args[0], as_command(commands.get(args[0]).load(), args[0]), args[1:]

    def invoke(self, ctx: Any) -> Any:
        with explained(as_json="--json" in sys.argv):
            return super().invoke(ctx)


def _plugin_commands(ctx: Any) -> dict[str, Any]:
    """Stand-ins for the commands of plugins. The first-party ones bring none, so that nothing is loaded where
    no other plugin is installed or given: help stays quick."""
    if "recengine.hooks" not in sys.modules and not _others_installed():
        return {}
    from typer.core import TyperCommand

    from recengine.hooks import host

    return {
        entry.name: TyperCommand(
            entry.name, help=entry.summary or f"From plugin {entry.plugin}.", rich_help_panel="Plugins"
        )
        for entry in host().registries["command"]
    }


def _others_installed() -> bool:
    """Whether another distribution than this one has plugins."""
    from importlib.metadata import entry_points

    return any(
        entry.dist is None or entry.dist.name != "recengine" for entry in entry_points(group="recengine")
    )


def _unknown(name: str, known: list[str]) -> Exception:
    from recengine.config import did_you_mean
    from recengine.errors import UsageError

    near = did_you_mean(name, known)
    return UsageError(
        f"there is no command '{name}'",
        fix=f"did you mean '{near}'?" if near else "list them with: recengine --help",
    )


app = typer.Typer(
    cls=RootGroup,
    name="recengine",
    help="A compiled recommender engine that people extend with plugins.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from recengine import __version__

        typer.echo(f"recengine {__version__}")
        raise typer.Exit


def _load_plugin_files(paths: list[Path] | None) -> list[Path]:
    """Loads while options are parsed: the files may bring the command that follows."""
    if not paths:
        return []
    with explained(as_json="--json" in sys.argv):
        from recengine.hooks import host

        for path in paths:
            host().add_file(path)
    return paths


@app.callback()
def root(
    plugin: Annotated[
        list[Path] | None,
        typer.Option(
            "--plugin",
            metavar="FILE.py",
            callback=_load_plugin_files,
            is_eager=True,
            help="Load a one-file plugin (repeatable).",
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Global options; the command that follows does the work."""
