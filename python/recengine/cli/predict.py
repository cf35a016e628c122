"""``predict``: the probability of a click for rows of a table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from recengine.cli.inputs import RunFolder, load_run
from recengine.cli.output import note
from recengine.errors import UsageError


def predict(
    run: RunFolder,
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="Parquet, CSV or TSV with the features.")],
    out: Annotated[Path, typer.Option(help="Parquet file of the rows with a column 'probability'.")],
    precision: Annotated[
        str, typer.Option(help="32-true; bf16-mixed multiplies matrices in bfloat16.")
    ] = "32-true",
) -> None:
    """Predict a click for every row of TABLE with the click model RUN, a batch at a time."""
    from recengine.data.clicks import ClickLog
    from recengine.data.clicks.place import ROW
    from recengine.data.writing import write_batches
    from recengine.training import ClickRun

    fitted = load_run(run)
    if not isinstance(fitted, ClickRun):
        raise UsageError(f"'{fitted.name}' ranks items", where=str(run), fix="use: recengine recommend")
    log = ClickLog.open(table, fitted.split.encoder.config)
    chosen: Any = precision  # predict checks it
    scored = (  # predict sees the number of each row, for its errors
        frame.drop(ROW).with_columns(probability=fitted.predict(frame, precision=chosen))
        for frame in log.numbered()
    )
    note(f"{write_batches(out, scored):,} rows: {out}")
