"""Two stages: a model of the catalogue retrieves, a click model puts what it found in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recengine.contracts.batch import HistoryBatch
from recengine.data import Interactions
from recengine.data.clicks import ClickDataConfig, ClickLog
from recengine.errors import UsageError
from recengine.serving.pair_features import Ids, PairFeatures
from recengine.training import ClickRun, Run
from recengine.training.ranking import best
from recengine.training.recommending import known_histories, table

if TYPE_CHECKING:
    import polars as pl

LABEL = "recengine.met"


class SecondStage:
    """The ``top`` best items of ``retriever`` for a user, in the order of the probabilities of ``ranker``;
    equal ones stay in the order of the retriever. It generates lists (recengine.contracts.model.Generates).

    Raises UsageError when ``ranker`` is no click model or ``retriever`` is one, DataError when the features
    lack a column that the ranker needs.
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
        if top < 1:
            raise UsageError("there must be something to put in order", where="top", found=top)
        features.serve(ranker.split.encoder)
        self.retriever, self.ranker, self.features, self.top = retriever, ranker, features, top

    @property
    def name(self) -> str:
        """Both models."""
        return f"{self.retriever.name}, then {self.ranker.name}"

    def order(self, users: Ids, items: Ids) -> tuple[Ids, NDArray[np.float64]]:
        """Items [B, K] (-1: none) of users [B] (rows of the vocabularies), best first, and their
        probabilities (-inf where there is none)."""
        there = items >= 0
        scores = np.full(items.shape, -np.inf)
        if there.any():
            owners = np.broadcast_to(users[:, None], items.shape)[there]
            scores[there] = self.ranker.predict(self.features.pairs(owners, items[there]))
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

        Raises DataError for unknown users and users without features, UsageError for k < 1.
        """
        if k < 1:
            raise UsageError("k must be at least 1", where="recommend", found=k)
        with torch.inference_mode():
            ids, scores = self.generate(known_histories(self.retriever, list(users)), k)
        return table(self.retriever, list(users), ids.numpy(), scores.numpy())


def pairs_log(features: PairFeatures, train: Interactions, *, negatives: int = 4, seed: int = 0) -> ClickLog:
    """A click log to train a second stage on: every pair of ``train`` with the label 1, and for each of them
    ``negatives`` items that the user never met there, drawn evenly, with the label 0. Rows in a drawn order.

    Columns: those of ``features`` and the label; users without features are left out. A user who met
    everything gets no negatives. Raises UsageError for negatives < 1.
    """
    import polars as pl

    if negatives < 1:
        raise UsageError("there must be something that was not met", where="negatives", found=negatives)
    random = np.random.default_rng([seed, 0x2D57])
    kept = features.known[train.user]
    met = np.unique(train.user[kept] * np.int64(train.n_items) + train.item[kept])
    users, items = met // train.n_items, met % train.n_items
    counts = np.bincount(users, minlength=train.n_users)
    owners = np.repeat(users[counts[users] < train.n_items], negatives)
    drawn = random.integers(0, train.n_items, owners.size)
    bad = _among(met, owners * train.n_items + drawn)
    while bad.any():
        drawn[bad] = random.integers(0, train.n_items, int(bad.sum()))
        bad = _among(met, owners * train.n_items + drawn)
    order = random.permutation(users.size + owners.size)
    frame = features.pairs(np.concatenate([users, owners])[order], np.concatenate([items, drawn])[order])
    labels = np.concatenate([np.ones(users.size, np.int8), np.zeros(owners.size, np.int8)])[order]
    about = ClickDataConfig(label=LABEL, group=features.users.columns[0])
    return ClickLog.from_frame(
        frame.with_columns(pl.Series(LABEL, labels)), about, name="pairs that were met"
    )


def _among(sorted_keys: Ids, keys: Ids) -> NDArray[np.bool_]:
    at = np.minimum(np.searchsorted(sorted_keys, keys), sorted_keys.size - 1)
    found: NDArray[np.bool_] = sorted_keys[at] == keys
    return found


def second_stage(
    retriever: Run,
    model: str,
    features: PairFeatures,
    *,
    top: int = 100,
    negatives: int = 4,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    directory: Any = None,
) -> SecondStage:
    """Fit the registered click model ``model`` on what the retriever was trained on (see ``pairs_log``), and
    put it behind the retriever. settings, directory: as of recengine.fit."""
    from recengine.training import fit

    log = pairs_log(features, retriever.split.train, negatives=negatives, seed=seed)
    ranker = fit(model, log, settings=settings, seed=seed, directory=directory)
    return SecondStage(retriever, ranker, features, top=top)
