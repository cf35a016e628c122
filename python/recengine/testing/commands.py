"""Conformance of commands."""

from __future__ import annotations

from typing import Any

import typer
from typer.testing import CliRunner

from recengine.testing.base import Conformance


class CommandConformance(Conformance):
    """Checks of a command, a Typer app or a function: documented, refuses what it does not know."""

    kind = "command"

    def invoke(self, *arguments: str) -> Any:
        """Run the command with ARGUMENTS in this process; the result of Typer's CliRunner."""
        found = self.entry().load()
        if isinstance(found, typer.Typer):
            return CliRunner().invoke(found, list(arguments))
        app = typer.Typer(add_completion=False)
        app.command(self.name)(found)
        return CliRunner().invoke(app, list(arguments))

    def test_has_help(self) -> None:
        result = self.invoke("--help")
        assert result.exit_code == 0, result.output
        assert "Usage" in result.output

    def test_refuses_unknown_options(self) -> None:
        assert self.invoke("--no-such-option").exit_code == 2
