"""Conformance of models that predict clicks, and of click data sets; a planted click log."""

from __future__ import annotations

import tempfile
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from recengine.contracts.batch import FeatureBatch, StepContext
from recengine.contracts.model import DataFacts, PredictsClicks, Trainable
from recengine.data.clicks import ClickDataConfig, ClickLog, ClickSplit, FeatureSpec, prepare
from recengine.errors import DataError
from recengine.evaluation.clicks import auc
from recengine.testing.base import Conformance, skip
from recengine.testing.shared import SourceConformance, check_gradients
from recengine.training import ClickRun, fit, load, resolve
from recengine.training.build import build_model
from recengine.training.feeding import make_click_feeder


def planted_clicks(rows: int = 4000, seed: int = 0) -> ClickLog:
    """Clicks whose log-odds are a taste of the user for the item's kind, the place on the page and a number:
    2 if taste and kind agree, else -2; +1 at the top, -1 at the bottom; + price. All kinds of features."""
    import polars as pl

    random = np.random.default_rng(seed)
    user, item = random.integers(0, 40, rows), random.integers(0, 30, rows)
    place, price = random.integers(0, 3, rows), random.normal(size=rows)
    agree = (user % 3) == (item % 3)
    odds = np.where(agree, 2.0, -2.0) + 1.0 - place + price
    frame = pl.DataFrame(
        {
            "user": [f"u{one}" for one in user],
            "item": item,
            "tags": [[f"t{one % 3}", f"t{one % 5 + 3}"] for one in item],
            "seen": [[int((one + 3 * step) % 30) for step in range(1 + one % 3)] for one in user],
            "place": place,
            "price": price,
            "label": (random.random(rows) < 1 / (1 + np.exp(-odds))).astype(np.int8),
        }
    )
    features = {
        "user": FeatureSpec(group="person"),
        "seen": FeatureSpec(kind="sequence", share="item", max_length=4, group="person"),
        "item": FeatureSpec(group="item"),
        "tags": FeatureSpec(kind="multi", group="item"),
        "place": FeatureSpec(),
        "price": FeatureSpec(kind="numeric"),
    }
    about = ClickDataConfig(group="user", slices=("place",), features=features)
    return ClickLog.from_frame(frame, about, name="planted clicks")


class ClickModelConformance(Conformance):
    """Checks of a model that predicts clicks: config, gradients, saving, determinism, strangers, batches, and
    that it learns.

    settings: of the whole fit, by section. bar: AUC on the planted log that it must reach (the linear part
    alone gives about 0.68, everything about 0.92).
    """

    kind = "model"
    bar: ClassVar[float] = 0.62
    epochs: ClassVar[int] = 6
    _split: ClassVar[ClickSplit | None] = None
    _fitted: ClassVar[dict[type, ClickRun]] = {}

    @classmethod
    def split(cls) -> ClickSplit:
        """The planted log, prepared once."""
        if ClickModelConformance._split is None:
            ClickModelConformance._split = prepare(planted_clicks())
        return ClickModelConformance._split

    @classmethod
    def fit_settings(cls, epochs: int) -> dict[str, Any]:
        """``settings`` over a short, lively training."""
        merged = {"training": {"epochs": epochs, "learning_rate": 0.01, "batch_size": 256, "device": "cpu"}}
        for section, values in {**cls.entry().extras.get("check", {}), **cls.settings}.items():
            merged[section] = {**merged.get(section, {}), **values}
        return merged

    @classmethod
    def own_settings(cls) -> dict[str, Any]:
        return dict(cls.settings.get("model", {}))

    @classmethod
    def fit(cls, epochs: int, *, seed: int = 0, **more: Any) -> ClickRun:
        """A fresh fit; ``more``: settings of the training."""
        settings = cls.fit_settings(epochs)
        settings["training"] = {**settings["training"], **more}
        run = fit(cls.name, cls.split(), settings=settings, seed=seed, host=cls.host())
        assert isinstance(run, ClickRun)
        return run

    @classmethod
    def fitted(cls) -> ClickRun:
        """Fitted once a class."""
        if cls not in cls._fitted:
            cls._fitted[cls] = cls.fit(cls.epochs)
        return cls._fitted[cls]

    @classmethod
    def built(cls) -> Any:
        """The model before any training."""
        config = resolve(cls.name, cls.fit_settings(1), cls.host())
        return build_model(cls.name, config, DataFacts(0, 0, cls.split().extras()), 0, cls.host())

    @classmethod
    def rows(cls, at: NDArray[np.int64]) -> FeatureBatch:
        """Rows of the test part."""
        return FeatureBatch(**cls.split().test.take(at).tensors())

    def probabilities(self, model: Any, at: NDArray[np.int64]) -> NDArray[np.float64]:
        """float64: what it predicts for these rows of the test part."""
        model.eval()
        with torch.inference_mode():
            found = model.predict(self.rows(at))
        assert found.shape == (at.size,), f"{at.size} rows got predictions of shape {tuple(found.shape)}"
        return np.asarray(found.double().numpy(), np.float64)

    def test_keeps_to_the_contract(self) -> None:
        model = self.built()
        assert isinstance(model, torch.nn.Module), "a model is a torch.nn.Module"
        assert isinstance(model, Trainable), "it has no training_loss"
        assert isinstance(model, PredictsClicks), "it has no predict"
        assert model.feed().kind == "features", "it is not fed features"

    def test_gradients_reach_every_parameter(self) -> None:
        model = self.built().train()
        feeder = make_click_feeder(self.split().train, model.feed(), 256, 0)
        steps = enumerate(islice(feeder.epoch(0), 6))
        check_gradients(model, ((batch, StepContext(0, step, 1, 6)) for step, batch in steps))

    def test_training_lowers_the_loss(self) -> None:
        history = self.fitted().history
        assert history[-1]["loss"] < history[0]["loss"], f"the loss went {[e['loss'] for e in history]}"

    def test_predictions_are_probabilities(self) -> None:
        found = self.probabilities(self.fitted().model, np.arange(200))
        assert ((found >= 0) & (found <= 1)).all(), f"predictions from {found.min()} to {found.max()}"
        assert found.std() > 0, "every row gets the same prediction"

    def test_learns_a_planted_pattern(self) -> None:
        table = self.split().test
        reached = auc(table.labels, self.probabilities(self.fitted().model, np.arange(len(table))))
        assert reached >= self.bar, f"AUC {reached:.3f} on the planted log, expected {self.bar}"

    def test_saved_and_loaded_it_is_the_same(self) -> None:
        run = self.fit(1)
        with tempfile.TemporaryDirectory() as folder:
            run.save(Path(folder) / "run")
            again = load(Path(folder) / "run", host=self.host())
            assert isinstance(again, ClickRun), f"a {type(again).__name__} came back"
            at = np.arange(100)
            assert np.array_equal(self.probabilities(run.model, at), self.probabilities(again.model, at))

    def test_one_seed_gives_one_model(self) -> None:
        one, other = self.fit(1, seed=7), self.fit(1, seed=7)
        left, right = one.model.state_dict(), other.model.state_dict()
        differing = [name for name in left if not torch.equal(left[name], right[name])]
        assert not differing, f"tensors that differ: {differing}"

    def test_tables_can_be_learned_row_by_row(self) -> None:
        run = self.fit(2, table_optimizer="rowwise_adagrad")
        assert run.history[-1]["loss"] < run.history[0]["loss"], f"the loss went {run.history}"

    def test_answers_do_not_depend_on_the_batch(self) -> None:
        model, at = self.fitted().model, np.arange(64)
        whole = self.probabilities(model, at)
        shuffled = np.random.default_rng(0).permutation(64)
        assert np.allclose(self.probabilities(model, shuffled), whole[shuffled], atol=1e-5), "order matters"
        alone = np.concatenate([self.probabilities(model, at[row : row + 1]) for row in range(16)])
        assert np.allclose(alone, whole[:16], atol=1e-5), "who else is in the batch matters"

    def test_missing_and_unknown_values_get_an_answer(self) -> None:
        import polars as pl

        frame = pl.DataFrame(
            {
                "user": ["nobody", None],
                "item": [10**9, None],
                "tags": [["new"], []],
                "seen": [[10**9], None],
                "place": [99, None],
                "price": [1.0, None],
            },
            schema_overrides={"tags": pl.List(pl.String), "seen": pl.List(pl.Int64)},
        )
        assert np.isfinite(self.fitted().predict(frame)).all(), "a new or missing value gets NaN"


class ClickDatasetConformance(SourceConformance):
    """Checks of a click data set: licence, columns, both labels. What is not here is skipped."""

    _loaded: ClassVar[dict[type, ClickLog]] = {}

    def data(self) -> ClickLog:
        """Loaded once a class; skips where the data is not on this machine."""
        if type(self) not in self._loaded:
            try:
                with tempfile.TemporaryDirectory() as empty:
                    self._loaded[type(self)] = self.source().load(Path(empty))
            except DataError as missing:
                skip(f"not here: {missing.problem}")
        return self._loaded[type(self)]

    def test_its_columns_are_there(self) -> None:
        log = self.data()
        assert isinstance(log, ClickLog), f"load gives a {type(log).__name__}, not a ClickLog"
        settled = log.with_config(ClickDataConfig())
        assert settled.config.features, "it declares no features"

    def test_it_can_be_prepared(self) -> None:
        split = prepare(self.data())
        for name, table in split.tables().items():
            rate = float(table.labels.mean())
            assert 0 < rate < 1, f"the {name} part has one label"
