"""``recommend``: the best items for users of a run, or for a history."""

from __future__ import annotations

import csv
import shlex
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from recengine.cli.inputs import RunFolder, load_run
from recengine.cli.output import Json, emit_json, table
from recengine.errors import DataError, UsageError

if TYPE_CHECKING:
    from recengine.data import Vocabulary

Users = Annotated[list[str] | None, typer.Option("--user", "-u", help="Id of a known user (repeatable).")]
History = Annotated[
    str | None,
    typer.Option("--history", help="Item ids of somebody new, oldest first: a,b,\"c, d\" ('' for none)."),
]


def recommend(
    run: RunFolder,
    user: Users = None,
    history: History = None,
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="How many items.")] = 10,
    as_json: Json = False,
) -> None:
    """Recommend K items of RUN, in the ids of the data, best first; what was met before is left out."""
    if bool(user) == (history is not None):
        raise UsageError(
            "say whom to recommend for", expected="either --user ID or --history a,b,c", where="recommend"
        )
    from recengine.training import ClickRun

    fitted = load_run(run)
    if isinstance(fitted, ClickRun):
        raise UsageError(
            f"'{fitted.name}' predicts clicks of rows and ranks no catalogue",
            where=str(run),
            fix=f"use: recengine predict {shlex.quote(str(run))} TABLE --out FILE, or recengine rerank",
        )
    train = fitted.split.train
    asked: Any
    if history is None:
        asked = ids_like(train.users, user or [], "--user")
    else:
        # as in a CSV line: an id that holds a comma stands in quotes
        fields = next(csv.reader([history], skipinitialspace=True), [])
        items = [part.strip() for part in fields if part.strip()]
        asked = {"history": _known_items(train.items, ids_like(train.items, items, "--history"))}
    answers = fitted.recommend(asked, k)
    if as_json:
        emit_json(answers.to_dicts())
    else:
        table(answers.columns, [list(row) for row in answers.iter_rows()])


def ids_like(vocabulary: Vocabulary, texts: list[str], where: str) -> list[Any]:
    """Texts from the command line as ids of the vocabulary's type; raises DataError when one cannot be."""
    if vocabulary.tokens.dtype.kind not in "iu":
        return list(texts)
    try:
        return [int(text) for text in texts]
    except ValueError as wrong:
        raise DataError(
            "the ids of this data are whole numbers", where=where, found=str(wrong), expected="for example 42"
        ) from None


def _known_items(vocabulary: Vocabulary, items: list[Any]) -> list[Any]:
    unknown = [item for item in items if vocabulary.rows(np.asarray([item]))[0] < 0]
    if unknown:
        raise DataError(
            "items that the run does not know",
            where="--history",
            found=", ".join(map(str, unknown[:5])),
            expected="ids of the data the run was fitted on",
            fix="leave them out; --history '' is somebody of whom nothing is known",
        )
    return items
