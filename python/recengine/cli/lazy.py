"""A command group whose commands are imported when they run, not when they are listed."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command


@dataclass(frozen=True)
class Lazy:
    """Where a command lives ('package.module:name', a Typer app or a function) and its one line of help."""

    target: str
    help: str
    panel: str = "Commands"


def as_command(found: Any, name: str) -> Any:
    """The command object of a Typer app, a function, or a ready command."""
    if isinstance(found, typer.Typer):
        command = get_command(found)
    elif callable(found) and not hasattr(found, "make_context"):
        app = typer.Typer(add_completion=False)
        app.command(name)(found)
        command = get_command(app)
    else:
        command = found
    command.name = name
    _unwrap(command)
    return command


def _unwrap(command: Any) -> None:
    """Paragraphs of help as one line each, so that they wrap at the terminal's width; indented lines stay."""
    if command.help:
        command.help = re.sub(r"(?<=\S)\n(?=\S)", " ", inspect.cleandoc(command.help))
    for below in getattr(command, "commands", {}).values():
        _unwrap(below)


class LazyGroup(TyperGroup):
    """Lists ``table`` without importing anything; loads a command when it is resolved."""

    table: ClassVar[Mapping[str, Lazy]] = {}

    def list_commands(self, ctx: Any) -> list[str]:
        return [*self.table, *super().list_commands(ctx)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """For listings and completion: a stand-in with the name and the help."""
        lazy = self.table.get(cmd_name)
        if lazy is None:
            return super().get_command(ctx, cmd_name)
        return TyperCommand(cmd_name, help=lazy.help, rich_help_panel=lazy.panel)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """For running: the real command."""
        lazy = self.table.get(args[0]) if args else None
        if lazy is None:
            return super().resolve_command(ctx, args)
        module, _, name = lazy.target.partition(":")
        command = as_command(getattr(import_module(module), name), args[0])
        return args[0], command, args[1:]
