"""``predict``: the probability of a click for rows of a table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recengine.cli.inputs import RunFolder, load_run
from recengine.cli.output import note
from recengine.errors import UsageError


def predict(
    run: RunFolder,
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="Parquet, CSV or TSV with the features.")],
    out: Annotated[Path, typer.Option(help="Parquet file of the rows with a column 'probability'.")],
) -> None:
    """Predict a click for every row of TABLE with the click model RUN, a batch at a time."""
    import polars as pl

    from recengine.data.clicks import ClickLog
    from recengine.files import write_with
    from recengine.training import ClickRun

    fitted = load_run(run)
    if not isinstance(fitted, ClickRun):
        raise UsageError(f"'{fitted.name}' ranks items", where=str(run), fix="use: recengine recommend")
    log = ClickLog.open(table, fitted.split.encoder.config)
    made = [frame.with_columns(probability=fitted.predict(frame)) for frame in log.batches()]
    write_with(out, pl.concat(made).write_parquet)
    note(f"{sum(frame.height for frame in made):,} rows: {out}")
