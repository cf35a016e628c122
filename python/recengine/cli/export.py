"""``export``: a click model as a program that needs no Python class of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recengine.cli.inputs import RunFolder, load_run
from recengine.cli.output import note
from recengine.errors import DataError, RecengineError, UsageError

_ROWS = 500  # of the table, that the program is made and checked with
_APART = 1e-5  # largest difference of probabilities; float32 in another order stays below


def export(
    run: RunFolder,
    table: Annotated[
        Path,
        typer.Argument(metavar="TABLE", help="Parquet, CSV or TSV with the features: rows to check with."),
    ],
    out: Annotated[Path, typer.Option(help="File of the program (.pt2).")],
    compiled: Annotated[
        bool,
        typer.Option("--compiled", help="Compile it for this machine (AOTInductor; needs a C++ compiler)."),
    ] = False,
) -> None:
    """Write the click model RUN as a program (torch.export) and score the first rows of TABLE with both.

    Fails, and leaves what lay at --out, where a probability differs by more than 0.00001.
    """
    import numpy as np
    import torch

    from recengine.contracts.batch import FeatureBatch
    from recengine.data.clicks import ClickLog
    from recengine.data.clicks.splitting import serving_rows
    from recengine.files import replacing
    from recengine.serving import rankers
    from recengine.training import ClickRun

    fitted = load_run(run)
    if not isinstance(fitted, ClickRun):
        raise UsageError(
            f"'{fitted.name}' ranks items; only models that predict clicks are exported", where=str(run)
        )
    encoder = fitted.split.encoder
    frame = next(iter(ClickLog.open(table, encoder.config).batches()))[:_ROWS]
    if frame.height < 2:
        raise DataError(
            "a program is made from two rows or more", where=str(table), found=f"{frame.height} rows"
        )
    rows = serving_rows(encoder, frame)
    example = FeatureBatch(**rows.take(np.arange(len(rows))).tensors())
    program = rankers.export_ranker(fitted.model, example)
    save, load = (
        (rankers.save_package, rankers.load_package)
        if compiled
        else (rankers.save_program, rankers.load_program)
    )
    with replacing(out) as unproven, torch.no_grad():
        made = load(save(program, unproven))
        difference = float(np.abs(made(example.features).numpy() - fitted.predict(frame)).max())
        if not difference <= _APART:  # NaN is no match either
            raise RecengineError(
                "the program does not score as the run does; it was not kept",
                where=str(out),
                found=f"a largest difference of {difference:.1e} over {frame.height} rows of {table}",
                expected=f"at most {_APART:.0e}",
                fix="export without --compiled" if compiled else "serve the run itself: recengine predict",
            )
    note(f"{out}: {frame.height} rows of {table} score as the run's to {difference:.1e}")
