"""Fit again what a run.json describes, and say whether the same came out."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recengine.data import Interactions, Split
from recengine.data.clicks import ClickLog, ClickSplit
from recengine.hooks import Host
from recengine.training import checkpoint
from recengine.training.fitting import fit
from recengine.training.progress import Listener
from recengine.training.record import environment
from recengine.training.run import Run
from recengine.training.store import load_any_split

EXPLAINS = ("recengine", "python", "packages", "processor", "native")


@dataclass(frozen=True)
class Reproduction:
    """identical: data and weights are the same, bit for bit. differs: what is not, as (recorded, now).
    environment: what differs between the two environments and may explain it. run: the new run."""

    identical: bool
    differs: dict[str, tuple[Any, Any]]
    environment: dict[str, tuple[Any, Any]]
    run: Run = field(repr=False)


def reproduce(
    path: str | Path,
    *,
    data: Interactions | Split | ClickLog | ClickSplit | None = None,
    directory: str | Path | None = None,
    progress: Listener | None = None,
    host: Host | None = None,
) -> Reproduction:
    """Fit again with the settings and seed of a run.json (a file, or the folder that holds it).

    data: what to fit on; by default the split that is kept beside run.json. directory: where the new run
    goes. Raises CheckpointError when the record or the split cannot be read, and what ``fit`` raises.
    """
    record = Path(path)
    record = record / "run.json" if record.is_dir() else record
    about = checkpoint.load_json(record)
    run = fit(
        about["model"],
        load_any_split(record.parent / "split") if data is None else data,
        settings=about["config"],
        seed=about["seed"],
        directory=directory,
        progress=progress,
        host=host,
    )
    new = run.describe(checkpoint.tensors_digest(run.model.state_dict()))
    differs = {key: (about[key], new[key]) for key in ("data", "weights") if about[key] != new[key]}
    before, now = about.get("environment", {}), environment()
    other = {key: (before.get(key), now.get(key)) for key in EXPLAINS if before.get(key) != now.get(key)}
    return Reproduction(not differs, differs, other, run)
