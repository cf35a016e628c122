"""Two stages: a model of the catalogue retrieves, a click model puts what it found in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recengine.contracts.batch import HistoryBatch
from recengine.data.clicks import ClickDataConfig, ClickLog, FeatureSpec
from recengine.data.clicks.log import guessed
from recengine.errors import DataError, UsageError
from recengine.evaluation.evaluator import hits_of
from recengine.evaluation.lists import positions_of
from recengine.serving.pair_features import Ids, PairFeatures
from recengine.training import ClickRun, Run
from recengine.training.ranking import best
from recengine.training.recommending import known_histories, list_length, several, table

if TYPE_CHECKING:
    import polars as pl

LABEL = "recengine.taken"
PLACE = "recengine.place"  # where the first stage put an item, from 1
BLOCK = 1024


class SecondStage:
    """The ``top`` best items of ``retriever`` for a user, in the order of the probabilities of ``ranker``;
    equal ones stay in the order of the retriever. It generates lists (recengine.contracts.model.Generates).

    Raises UsageError when ``ranker`` is no click model or ``retriever`` is one, and for a ``top`` that is not
    1 to 1000 (one above the catalogue is lowered to it); DataError when the features lack a column that the
    ranker needs.
    """

    def __init__(self, retriever: Run, ranker: Run, features: PairFeatures, *, top: int = 100) -> None:
        if isinstance(retriever, ClickRun):
            raise UsageError(
                f"'{retriever.name}' predicts clicks of rows and retrieves nothing",
                where="the first stage",
                expected="a run that ranks a catalogue",
            )
        if not isinstance(ranker, ClickRun):
            raise UsageError(
                f"'{ranker.name}' predicts no clicks", where="the second stage", expected="a click model"
            )
        top = list_length(top, len(retriever.split.train.items), "top")
        features.serve(ranker.split.encoder, PLACE)
        self.retriever, self.ranker, self.features, self.top = retriever, ranker, features, top

    @property
    def name(self) -> str:
        """Both models."""
        return f"{self.retriever.name}, then {self.ranker.name}"

    @property
    def knows_validation(self) -> bool:
        """Whether the ranker learned from what a first stage found for its validation users
        (``candidates_log``): it cannot be measured on them."""
        return bool(self.ranker.split.encoder.config.label == LABEL)

    def order(self, users: Ids, items: Ids) -> tuple[Ids, NDArray[np.float64]]:
        """Items [B, K] (as retrieved; -1: none) of users [B] (rows of the vocabularies), best first, and
        their probabilities (-inf where there is none)."""
        import polars as pl

        there = items >= 0
        scores = np.full(items.shape, -np.inf)
        if there.any():
            owners = np.broadcast_to(users[:, None], items.shape)[there]
            places = np.broadcast_to(np.arange(1.0, items.shape[1] + 1), items.shape)[there]
            pairs = self.features.pairs(owners, items[there]).with_columns(pl.Series(PLACE, places))
            scores[there] = self.ranker.predict(pairs)
        by = np.argsort(-scores, axis=1, kind="stable")
        return np.take_along_axis(items, by, 1), np.take_along_axis(scores, by, 1)

    def generate(self, histories: HistoryBatch, k: int) -> tuple[Tensor, Tensor]:
        """ids int64 [B, k] (-1 where fewer were retrieved) and probabilities, best first; items of the
        history are left out."""
        ids, _ = best(self.retriever.model.eval(), histories, self.top, exclude_seen=True)
        items, scores = self.order(histories.users.cpu().numpy(), ids.cpu().numpy())
        short = max(0, k - items.shape[1])
        items = np.pad(items[:, :k], ((0, 0), (0, short)), constant_values=-1)
        scores = np.pad(scores[:, :k], ((0, 0), (0, short)), constant_values=-np.inf)
        return torch.from_numpy(items), torch.from_numpy(scores)

    def recommend(self, users: Sequence[Any], k: int = 10) -> pl.DataFrame:
        """The k best items for known users: columns user, rank, item, score (the probability).

        Raises DataError for unknown users and users without features, UsageError for one id in place of
        several and for a k, as ``run.recommend`` does.
        """
        k, labels = list_length(k, len(self.retriever.split.train.items)), several(users)
        with torch.inference_mode():
            ids, scores = self.generate(known_histories(self.retriever, labels), k)
        return table(self.retriever, labels, ids.numpy(), scores.numpy())


def candidates_log(retriever: Run, features: PairFeatures, *, top: int = 100, seed: int = 0) -> ClickLog:
    """A click log to train a second stage on: what the retriever finds for each user of its validation task,
    from the history before it. A row an item, with the label 1 where the user then took it; rows in a drawn
    order. The retriever has not learned from these events, so what it makes of them is what it makes of the
    test; the column PLACE (from 1) says where it put the item.

    Columns: those of ``features``, PLACE and the label; users without features, and users of whose targets
    none was found, are left out. Raises UsageError where the split has no validation task and for a ``top``
    that is not 1 to 1000, DataError where no target was found at all.
    """
    import polars as pl

    top = list_length(top, len(retriever.split.train.items), "top")
    task = retriever.split.validation
    if task is None:
        raise UsageError(
            "a second stage learns from a validation task",
            where="the split of the first stage",
            fix="split with one (leave-two-out, say), or bring a click model that is fitted",
        )
    if len(task) == 0:
        raise DataError("the validation task of the first stage is empty", expected="users with targets")
    model, lists = retriever.model.eval(), []
    with torch.inference_mode():
        for low in range(0, len(task), BLOCK):
            chosen = task.users[low : low + BLOCK]
            batch = HistoryBatch(**task.history.history(chosen).tensors())
            lists.append(best(model, batch, top, exclude_seen=True)[0].cpu().numpy())
    items = np.concatenate(lists)
    hits = hits_of(items, *positions_of(task, 0, len(task)), task.history.n_items)
    teaches: NDArray[np.bool_] = np.asarray(hits.any(axis=1)) & features.known[task.users]
    kept = (items >= 0) & teaches[:, None]
    if not kept.any():
        raise DataError(
            "the first stage finds no target of the validation task",
            found=f"none of {len(task)} users",
            expected="some among what is retrieved",
            fix="retrieve more items, or a better first stage",
        )
    order = np.random.default_rng([seed, 0x2D57]).permutation(int(kept.sum()))
    row, place = (part[order] for part in np.nonzero(kept))
    frame = features.pairs(task.users[row], items[row, place]).with_columns(
        pl.Series(PLACE, place + 1.0), pl.Series(LABEL, hits[row, place].astype(np.int8))
    )
    specs = {
        **guessed(dict(frame.drop(PLACE).schema), ClickDataConfig(label=LABEL)),
        PLACE: FeatureSpec(kind="numeric", transform="log"),
    }
    about = ClickDataConfig(label=LABEL, group=features.users.columns[0], features=specs)
    return ClickLog.from_frame(frame, about, name=f"what {retriever.name} retrieved")


def second_stage(
    retriever: Run,
    model: str,
    features: PairFeatures,
    *,
    top: int = 100,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    directory: Any = None,
) -> SecondStage:
    """Fit the registered click model ``model`` on what the retriever found for its validation users (see
    ``candidates_log``), and put it behind the retriever. settings, directory: as of recengine.fit."""
    from recengine.training import fit

    log = candidates_log(retriever, features, top=top, seed=seed)
    ranker = fit(model, log, settings=settings, seed=seed, directory=directory)
    return SecondStage(retriever, ranker, features, top=top)
