"""What the page of a comparison tells of the runs beside their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recengine.cli.inputs import load_run, read_json
from recengine.cli.output import note

if TYPE_CHECKING:
    from recengine.evaluation.systems import System
    from recengine.reports import About
    from recengine.reports.content import Curve

_LISTED = 10
_MOST_USERS = 1000


def about_of(folders: dict[str, list[Path]], systems: Sequence[System], *, stability: bool) -> About:
    """Data, audit, curves, settings and environment from the folders of the runs, by system.

    stability: also ask every run for its lists again, and measure how they overlap.
    """
    from recengine.reports import About
    from recengine.reports.facts import data_facts
    from recengine.reports.pieces import audit_entry, flat
    from recengine.training.config import CLICKS
    from recengine.training.store import load_split

    first = next(iter(folders.values()))[0]
    about = read_json(first / "run.json")
    name = _data_name(first)
    try:
        split = None if about.get("task") == CLICKS else load_split(first / "split")
    except Exception as damaged:  # a page without the data is better than none
        note(f"the page lacks the data: {damaged}")
        split = None
    from recengine.contracts.auditor import Finding

    listed = ", ".join(system.name for system in systems)
    environment = flat(about["environment"])
    environment["seeds"] = "; ".join(
        f"{system.name}: {', '.join(map(str, system.seeds))}" for system in systems
    )
    return About(
        title=f"{listed} on {name}" if name else listed,
        data=None if split is None else data_facts(split, name or "data"),
        audit=tuple(audit_entry(Finding(**finding)) for finding in about["findings"]),
        curves=tuple(pair for system in folders for pair in _curves(system, folders[system][0])),
        configs={system: _settings(paths[0]) for system, paths in folders.items()},
        environment=environment,
        stability=_stability(folders) if stability else {},
    )


def _data_name(folder: Path) -> str:
    source = folder / "source.json"
    if not source.is_file():
        return ""
    path = Path(read_json(source)["data"])
    return f"{path.parent.name}/{path.name}" if path.parent.name else path.name


def _settings(folder: Path) -> dict[str, str]:
    from recengine.reports.pieces import flat

    about = read_json(folder / "run.json")
    trained = (folder / "history.jsonl").stat().st_size > 0
    wanted = ("model", "loss", *(("training",) if trained else ()))
    return flat({name: about["config"][name] for name in wanted if about["config"].get(name)})


def _curves(system: str, folder: Path) -> list[tuple[str, Curve]]:
    import json

    from recengine.reports.pieces import curves_of

    lines = (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()
    training = read_json(folder / "run.json")["config"]["training"]
    return [(system, curve) for curve in curves_of([json.loads(line) for line in lines], training["monitor"])]


def _stability(folders: dict[str, list[Path]]) -> dict[str, Any]:
    """Overlap of the ten best items of up to a thousand users between the runs of each system."""
    import numpy as np

    from recengine.evaluation.statistics import list_stability
    from recengine.reports.gather import some_users, top_rows

    found = {}
    for system, paths in folders.items():
        if len(paths) < 2:
            continue
        runs = [load_run(path) for path in paths]
        users = some_users(runs[0].split.test, _MOST_USERS).users
        lists = np.stack([top_rows(run, users, _LISTED) for run in runs])
        found[system] = list_stability(lists[:, (lists >= 0).all(axis=(0, 2))])
    return found
