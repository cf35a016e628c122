"""``reproduce``: fit again what a run.json describes, and say whether the same came out."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recengine.cli.inputs import DataOptions, read_for, read_json
from recengine.cli.output import Json, emit_json, note
from recengine.cli.progress import FitProgress
from recengine.errors import UsageError

if TYPE_CHECKING:
    from recengine.data import Interactions, Split
    from recengine.data.clicks import ClickLog, ClickSplit

Record = Annotated[Path, typer.Argument(metavar="RUN.JSON", help="run.json, or the folder it lies in.")]


def reproduce(
    record: Record,
    data: Annotated[
        str | None, typer.Option("--data", "-d", help="Data, where the run's folder does not hold its split.")
    ] = None,
    data_option: DataOptions = None,
    out: Annotated[Path | None, typer.Option(help="Keep the new run in this folder.")] = None,
    as_json: Json = False,
) -> None:
    """Fit again with the settings, the seed and the data of RUN.JSON. Exit code 1 when anything differs."""
    path = record / "run.json" if record.is_dir() else record
    about = read_json(path)
    source = _source(about["model"], path.parent, data, data_option or [])
    from recengine.training import fit

    with tempfile.TemporaryDirectory() as scratch, FitProgress(f"fit {about['model']}") as showing:
        run = fit(
            about["model"],
            source,
            settings=about["config"],
            seed=about["seed"],
            directory=out or Path(scratch) / "run",
            progress=showing.listener,
        )
        assert run.directory is not None
        new = read_json(run.directory / "run.json")
    differs = {
        key: (about.get(key), new.get(key)) for key in ("data", "weights") if about.get(key) != new.get(key)
    }
    versions = _versions(about, new)
    if as_json:
        emit_json({"identical": not differs, "differs": differs, "versions": versions, "run": out})
    else:
        for key, (old, found) in differs.items():
            note(f"{key} differ: {old} in {path}, {found} now")
        for name, (old, found) in versions.items():
            note(f"note: {name} was {old}, is {found}")
        typer.echo("differs" if differs else "identical: data and weights are the same, bit for bit")
    if differs:
        raise typer.Exit(1)


def _source(
    model: str, folder: Path, data: str | None, options: list[str]
) -> Interactions | Split | ClickLog | ClickSplit:
    if data is not None:
        return read_for(model, data, options)
    if (folder / "split").exists():
        from recengine.training.store import load_any_split

        return load_any_split(folder / "split")
    if (folder / "source.json").is_file():
        source = read_json(folder / "source.json")
        return read_for(model, source["data"], source["options"])
    raise UsageError(
        "the run's data is not beside run.json",
        where=str(folder),
        expected="the folder 'split', or --data",
        fix="say where the data is: --data NAME|PATH",
    )


def _versions(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What differs between the two environments and may explain another result."""
    keys = ("recengine", "python", "packages", "processor", "native")
    before, now = old.get("environment", {}), new.get("environment", {})
    return {key: (before.get(key), now.get(key)) for key in keys if before.get(key) != now.get(key)}
