"""The command line. ``main`` is the entry point; nothing heavy is imported before a command needs it."""

from __future__ import annotations


def main() -> None:
    from recengine.cli.app import app

    app()
