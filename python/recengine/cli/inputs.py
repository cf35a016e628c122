"""What commands share: options, data by name or path, runs, folders for results."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recengine.cli.output import note
from recengine.config import did_you_mean
from recengine.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from recengine.data import Interactions, ReadReport, Split
    from recengine.data.clicks import ClickLog, ClickSplit
    from recengine.training import Run

Model = Annotated[str, typer.Argument(help="Name of a registered model (recengine models list).")]
Data = Annotated[str, typer.Option("--data", "-d", help="Name of a data set, or a path.")]
DataArgument = Annotated[str, typer.Argument(metavar="DATA", help="Name of a data set, or a path.")]
DataOptions = Annotated[
    list[str] | None,
    typer.Option("--data-option", metavar="a=b", help="An option of the reader, e.g. time=ts (repeatable)."),
]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="a.b=c", help="One setting (repeatable).")]
ConfigFile = Annotated[Path | None, typer.Option("--config", "-c", help="TOML or YAML file of settings.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder that fit wrote.")]


def data_cache() -> Path:
    """Where fetched data lies: $RECENGINE_CACHE, else the user's cache folder."""
    named = os.environ.get("RECENGINE_CACHE")
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(named) if named else (Path(base) if base else Path.home() / ".cache") / "recengine"


def reader_options(given: Sequence[str]) -> dict[str, Any]:
    """``a=b`` texts as keyword arguments."""
    from recengine.settings import parse_set

    return dict(parse_set(text, "--data-option", "time=ts") for text in given)


def read_data(name: str, options: Sequence[str] = (), report: ReadReport | None = None) -> Interactions:
    """The registered data set ``name``, else what lies at that path. Raises UsageError for neither."""
    from recengine.hooks import host

    sources = host().registries["dataset"]
    if name in sources:
        if options:
            raise UsageError(f"the data set '{name}' takes no --data-option", found=", ".join(options))
        found = sources.get(name).load()
        source = found() if isinstance(found, type) else found
        interactions: Interactions = source.load(data_cache())
        return interactions
    path = Path(name).expanduser()
    if not path.exists():
        near = did_you_mean(name, [entry.name for entry in sources])
        raise UsageError(
            "there is no such file, folder or data set",
            where=name,
            expected="a path, or one of " + ", ".join(entry.name for entry in sources),
            fix=f"did you mean '{near}'?" if near else "list them with: recengine datasets list",
        )
    from recengine.data import ReadReport, read

    told = ReadReport() if report is None else report
    events = read(path, readers=_readers(), report=told, **reader_options(options))
    if report is None and multiprocessing.parent_process() is None:  # workers read what was told of already
        _tell(told)
    return events


def _tell(report: ReadReport) -> None:
    """One line on what was taken for what, so that a guess does not go unnoticed."""
    from recengine.data.columns import ROLES

    if not report.columns:
        return
    taken = [f"{role} = {report.columns[role]}" for role in ROLES if role in report.columns]
    unused = [sentence for sentence in report.said if sentence.startswith("columns not used")]
    if "time" not in report.columns:
        taken.append("no time" + (" (--data-option time=COLUMN names it)" if unused else ""))
    note(f"{report.path}: " + "; ".join([", ".join(taken), *unused]))


def read_split(name: str, options: Sequence[str] = ()) -> Interactions | Split:
    """Like ``read_data``; a folder that ``recengine data split`` wrote is taken as the split it is."""
    if (Path(name).expanduser() / "split.json").is_file():
        from recengine.training.store import load_split

        return load_split(Path(name).expanduser())
    return read_data(name, options)


def read_for(
    model: str, name: str, options: Sequence[str] = ()
) -> Interactions | Split | ClickLog | ClickSplit:
    """What the registered ``model`` learns from: a click log for one that predicts clicks, else interactions
    or a split. Raises UsageError where there is no such data."""
    from recengine.hooks import host
    from recengine.training.config import CLICKS

    if host().registries["model"].get(model).extras.get("task") != CLICKS:
        return read_split(name, options)
    if options:
        raise UsageError(
            "a click log takes no --data-option",
            found=", ".join(options),
            fix="describe columns by --set data.…",
        )
    return read_clicks(name)


def read_clicks(name: str) -> ClickLog | ClickSplit:
    """The registered data set ``name``, else the file, folder of parts or prepared split at that path."""
    from recengine.data.clicks import ClickLog, ClickSplit, is_click_split
    from recengine.hooks import host
    from recengine.training.config import CLICKS

    sources = host().registries["dataset"]
    path = Path(name).expanduser()
    if name in sources and not path.exists():
        found = sources.get(name).load()
        source = found() if isinstance(found, type) else found
        log: ClickLog = source.load(data_cache())
        return log
    if not path.exists():
        known = [entry.name for entry in sources if entry.extras.get("task") == CLICKS]
        near = did_you_mean(name, known)
        raise UsageError(
            "there is no such file, folder or data set of clicks",
            where=name,
            expected="a Parquet, CSV or TSV file, or one of " + ", ".join(known),
            fix=f"did you mean '{near}'?" if near else None,
        )
    return ClickSplit.load(path) if is_click_split(path) else ClickLog.open(path)


def _readers() -> list[Any]:
    """Readers of plugins first (they know more particular layouts), then the engine's own in their order."""
    from recengine.data.reading import built_in
    from recengine.hooks import host

    own = built_in()
    known = {reader.name for reader in own}
    added = [entry.load() for entry in host().registries["reader"] if entry.name not in known]
    return [reader() if isinstance(reader, type) else reader for reader in added] + own


def load_run(folder: Path) -> Run:
    """The finished run in ``folder`` (or of a run.json in it)."""
    from recengine.training import load

    return load(folder.parent if folder.name == "run.json" else folder)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a run folder; raises CheckpointError when it is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as broken:
        raise CheckpointError(
            "cannot be read",
            where=str(path),
            found=str(broken),
            fix="name the folder that recengine fit printed",
        ) from None
    if not isinstance(content, dict):
        raise CheckpointError("is not a JSON object", where=str(path), found=type(content).__name__)
    return content
