"""``rerank``: a second stage behind a retrieving run, measured stage by stage."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recengine.cli.inputs import RunFolder, Sets, load_run
from recengine.cli.output import Json, emit_json, note, table
from recengine.cli.sections import given
from recengine.errors import DataError, UsageError

if TYPE_CHECKING:
    from recengine.serving import PairFeatures, SecondStage, Stages
    from recengine.training import Run

Features = Annotated[Path | None, typer.Option(help="Parquet, CSV or TSV: a row of features for each id.")]


def rerank(
    run: RunFolder,
    ranker: Annotated[
        str,
        typer.Argument(
            metavar="RANKER",
            help="Folder of a fitted click model; or the name of one, to be fitted behind RUN.",
        ),
    ],
    users: Features = None,
    items: Features = None,
    user_column: Annotated[
        str, typer.Option(help="Column of the user's id, as the ranker knows it.")
    ] = "user",
    item_column: Annotated[
        str, typer.Option(help="Column of the item's id, as the ranker knows it.")
    ] = "item",
    context: Annotated[
        list[str] | None,
        typer.Option("--context", metavar="a=b", help="A feature with one value for all pairs (repeatable)."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many items are retrieved and put in order.")] = 100,
    k: Annotated[int, typer.Option("-k", min=1, help="How many are shown.")] = 10,
    task: Annotated[
        str, typer.Option(help="test; or validation, which only a ranker fitted elsewhere takes.")
    ] = "test",
    seed: Annotated[int, typer.Option(help="Of that fit.")] = 0,
    sets: Sets = None,
    out: Annotated[Path, typer.Option(help="Folder for results, and for the ranker fitted here.")] = Path(
        "runs/rerank"
    ),
    report: Annotated[
        Path | None, typer.Option(help="HTML page, with JSON and CSV beside it; default: OUT/rerank.html.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Retrieve with RUN, put the best in the order of RANKER, and measure both stages on RUN's test users.

    A named ranker learns which of the items that RUN retrieves for its validation users were taken, from the
    features of the tables and the place that RUN gave them; --set goes to that fit.
    """
    from recengine.serving import measure_stages, stages_protocol
    from recengine.training import ClickRun

    fitted = load_run(run)
    if isinstance(fitted, ClickRun):
        raise UsageError(f"'{fitted.name}' predicts clicks and retrieves nothing", where=str(run))
    stages_protocol(fitted, task, k=k, top=top, knows_validation=not Path(ranker).is_dir())  # before a fit
    features = _features(fitted, users, items, user_column, item_column, context or [])
    stages = _stages(fitted, ranker, features, top, seed, sets or [], out)
    found = measure_stages(stages, task, k=k)
    found.first.write(out / "first")
    found.second.write(out / "second")
    page = _page(stages, found, report or out / "rerank.html")
    rows = [list(row) for row in found.summary()]
    if as_json:
        shares = {name: {"mean": m, "low": a, "high": b, "n": n} for name, m, a, b, n in rows}
        emit_json({"system": stages.name, "top": top, "k": k, "shares": shares, "report": page})
        return
    title = f"{stages.name}: {top} retrieved, {k} shown; shares of a user's targets (95 % intervals)"
    table(["share", "mean", "low", "high", "n"], rows, title=title)
    note(f"report: {page}, and the same numbers as .json and .csv")


def _stages(
    run: Run,
    ranker: str,
    features: PairFeatures,
    top: int,
    seed: int,
    sets: list[str],
    out: Path,
) -> SecondStage:
    from recengine.hooks import host
    from recengine.serving import SecondStage, second_stage
    from recengine.training.config import CLICKS

    if Path(ranker).is_dir():
        if sets:
            raise UsageError("a fitted ranker takes no settings", where="--set", found=", ".join(sets))
        return SecondStage(run, load_run(Path(ranker)), features, top=top)
    entry = host().registries["model"].get(ranker)
    if entry.extras.get("task") != CLICKS:
        known = [one.name for one in host().registries["model"] if one.extras.get("task") == CLICKS]
        raise UsageError(f"'{ranker}' predicts no clicks", where="RANKER", expected=", ".join(known))
    note(f"fitting {ranker} on what {run.name} retrieves for its validation users")
    return second_stage(
        run,
        ranker,
        features,
        top=top,
        settings=given(ranker, None, sets),
        seed=seed,
        directory=out / "ranker",
    )


def _features(
    run: Run, users: Path | None, items: Path | None, user_column: str, item_column: str, context: list[str]
) -> PairFeatures:
    from recengine.serving import PairFeatures
    from recengine.settings import parse_set

    train = run.split.train
    return PairFeatures.of(
        train.users,
        train.items,
        user_table=None if users is None else _table(users, user_column),
        item_table=None if items is None else _table(items, item_column),
        user_column=user_column,
        item_column=item_column,
        context=dict(parse_set(text, "--context", "daytime=evening") for text in context),
    )


def _table(path: Path, id_column: str) -> Any:
    """The whole table; ids of CSV files are kept as the text they are ("003")."""
    import polars as pl

    from recengine.data.clicks import ClickDataConfig, ClickLog, FeatureSpec

    about = ClickDataConfig(features={id_column: FeatureSpec()})
    frames = list(ClickLog.open(path, about).batches())
    if not frames:
        raise DataError("the table has no rows", where=str(path), expected="one for each id")
    return pl.concat(frames)


def _page(stages: SecondStage, found: Stages, path: Path) -> Path:
    from recengine.evaluation.comparing import compare_systems
    from recengine.evaluation.systems import System
    from recengine.reports import About, write_comparison

    seed = stages.retriever.seed
    systems = [
        System.of("two stages", {seed: found.second}),
        System.of(stages.retriever.name, {seed: found.first}),
    ]
    metrics = [f"{name}@{found.k}" for name in ("recall", "ndcg", "mrr")]
    told = About(
        title=f"{stages.retriever.name} retrieves, {stages.ranker.name} puts in order",
        stages=tuple(found.summary()),
        stage_sizes=(found.top, found.k),
    )
    return write_comparison(compare_systems(systems, metrics=metrics), systems, path, about=told)
