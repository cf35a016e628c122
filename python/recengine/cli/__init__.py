"""The command line. ``main`` is the entry point; nothing heavy is imported before a command needs it."""

from __future__ import annotations


def main() -> None:
    """Run ``recengine`` with the arguments of this process."""
    from typer.main import get_command

    from recengine.cli.app import app

    get_command(app)(prog_name="recengine")
