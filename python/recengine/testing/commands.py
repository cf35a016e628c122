"""Conformance of commands."""

from __future__ import annotations

from typing import Any

from recengine.testing.base import Conformance


class CommandConformance(Conformance):
    """Checks of a command: mounted under its name, documented, refuses what it does not know."""

    kind = "command"

    def invoke(self, *arguments: str) -> Any:
        """Run ``recengine NAME ARGUMENTS...`` in this process; the result of Typer's CliRunner."""
        from typer.testing import CliRunner

        from recengine.cli.app import app

        self.host()
        return CliRunner().invoke(app, [self.name, *arguments])

    def test_takes_no_built_in_name(self) -> None:
        from recengine.cli.app import RootGroup

        assert self.name not in RootGroup.table, f"'{self.name}' is a command of recengine itself"

    def test_has_help(self) -> None:
        result = self.invoke("--help")
        assert result.exit_code == 0, result.output
        assert "Usage" in result.output

    def test_refuses_unknown_options(self) -> None:
        assert self.invoke("--no-such-option").exit_code == 2
