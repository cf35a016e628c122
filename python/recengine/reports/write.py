"""Putting a report on disk: the page, and the same numbers as JSON and CSV beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recengine.files import write_bytes
from recengine.reports.content import Report
from recengine.reports.gather import report_of
from recengine.reports.page import render
from recengine.reports.tables import to_csv, to_json


def write(runs: Any, path: str | Path, **told: Any) -> Path:
    """Report a run, several runs, or runs by name: ``report_of(runs, **told)`` written to ``path``.

    Returns the path of the page. Raises UsageError as ``report_of`` and ``write_report`` do.
    """
    return write_report(report_of(runs, **told), path)


def write_report(report: Report, path: str | Path) -> Path:
    """Write ``path`` (HTML), and ``.json`` and ``.csv`` of the same name beside it; the path of the page.

    Each file appears whole or not at all. Raises UsageError when jinja2 is not installed.
    """
    return write_files(path, render(report), to_json(report), to_csv(report))


def write_files(path: str | Path, page_text: str, json_text: str, csv_text: str) -> Path:
    """The page at ``path`` ('.html' is added where it lacks), its JSON and CSV beside it, each whole or not
    at all."""
    page = Path(path)
    if page.suffix.lower() not in (".html", ".htm"):
        page = page.with_name(page.name + ".html")
    for target, text in (
        (page, page_text),
        (page.with_suffix(".json"), json_text),
        (page.with_suffix(".csv"), csv_text),
    ):
        write_bytes(target, text.encode())
    return page.resolve()
