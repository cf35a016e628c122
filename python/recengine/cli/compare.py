"""``compare``: runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from recengine.cli.inputs import load_run, read_json
from recengine.cli.output import Json, emit_json, note, table

Runs = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders that fit wrote.")]


def compare(runs: Runs, as_json: Json = False) -> None:
    """A table of runs: test metrics of each (evaluated first where that was not done yet)."""
    rows = [_row(folder) for folder in runs]
    protocols = {row["protocol"] for row in rows}
    if as_json:
        emit_json({"comparable": len(protocols) == 1, "runs": rows})
        return
    names = list(dict.fromkeys(name for row in rows for name in row["metrics"]))
    table(
        ["run", "model", *names],
        [[row["run"], row["model"], *(row["metrics"].get(name) for name in names)] for row in rows],
    )
    if len(protocols) == 1:
        note(f"protocol: {protocols.pop()}")
    else:
        note("warning: these runs were measured by different protocols; their figures do not compare:")
        for row in rows:
            note(f"  {row['run']}: {row['protocol']}")


def _row(folder: Path) -> dict[str, Any]:
    about = read_json(folder / "run.json")
    if not (folder / "evaluation.json").is_file():
        load_run(folder).evaluate()
    measured = read_json(folder / "evaluation.json")
    return {
        "run": str(folder),
        "model": about["model"],
        "seed": about["seed"],
        "protocol": measured["protocol"],
        "metrics": {row["metric"]: row["mean"] for row in measured["summary"]},
    }
