"""Conformance of models."""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from recengine.contracts.batch import HistoryBatch, StepContext
from recengine.contracts.model import (
    DataFacts,
    DirectFit,
    Generates,
    PredictsClicks,
    Represents,
    ScoresItems,
    Trainable,
)
from recengine.errors import DataWarning
from recengine.testing.base import Conformance, skip
from recengine.testing.shared import check_gradients
from recengine.testing.worlds import World, planted
from recengine.training import Run, fit, load
from recengine.training.build import build_model
from recengine.training.feeding import make_feeder
from recengine.training.fitting import user_items
from recengine.training.recommending import best


class ModelConformance(Conformance):
    """Checks of a model: config, gradients, saving, determinism, strangers, batches, and that it learns.

    settings: of the whole fit, by section ('model', 'loss', 'training'). learns: False for a model that is
    not meant to find out tastes (a baseline); the plugin says so as well by ``registry.add(...,
    learns=False)``. margin: how far above chance (0: popularity, 1: knows the groups) its hit rate must be.
    """

    kind = "model"
    learns: ClassVar[bool] = True
    margin: ClassVar[float] = 0.5
    epochs: ClassVar[int] = 30

    @classmethod
    def fit_settings(cls, epochs: int) -> dict[str, Any]:
        """``settings`` over a short, lively training."""
        merged = {"training": {"epochs": epochs, "learning_rate": 0.01, "batch_size": 16, "device": "cpu"}}
        for section, values in {**cls.entry().extras.get("check", {}), **cls.settings}.items():
            merged[section] = {**merged.get(section, {}), **values}
        return merged

    @classmethod
    def world(cls) -> World:
        """The data that is learned."""
        return planted()

    @classmethod
    def fitted(cls) -> Run:
        """Fitted once a class on ``world()``."""
        cache: dict[type, Run] = ModelConformance.__dict__["_fitted"]
        if cls not in cache:
            cache[cls] = cls.fit(cls.epochs)
        return cache[cls]

    _fitted: ClassVar[dict[type, Run]] = {}

    @classmethod
    def fit(cls, epochs: int, *, seed: int = 0, directory: Path | None = None) -> Run:
        """A fresh fit."""
        split = cls.world().split
        host = cls.host()
        settings = cls.fit_settings(epochs)
        return fit(cls.name, split, settings=settings, seed=seed, directory=directory, host=host)

    @classmethod
    def built(cls) -> Any:
        """The model with its loss, before any training."""
        from recengine.training import resolve

        train = cls.world().split.train
        config = resolve(cls.name, cls.fit_settings(1), cls.host())
        facts = DataFacts(train.n_users, train.n_items)
        return build_model(cls.name, config, facts, 0, cls.host(), train=train)

    @classmethod
    def own_settings(cls) -> dict[str, Any]:
        return dict(cls.settings.get("model", {}))

    def test_keeps_to_the_contract(self) -> None:
        model = self.built()
        assert isinstance(model, torch.nn.Module), "a model is a torch.nn.Module"
        assert isinstance(model, Trainable | DirectFit), "it has neither training_loss nor fit_directly"
        answers = (Represents, ScoresItems, Generates, PredictsClicks)
        assert isinstance(model, answers), "it has none of user_vectors, score_items, generate, predict"

    def test_gradients_reach_every_parameter(self) -> None:
        model = self._trainable()
        if not any(p.requires_grad for p in model.parameters()):
            skip("it has no parameters")
        source = make_feeder(self.world().split.train, model.feed(), 16, 0, self.host())
        steps = enumerate(islice(source.epoch(0), 6))
        check_gradients(model, ((batch, _context(self.world(), step)) for step, batch in steps))

    def test_training_lowers_the_loss(self) -> None:
        self._trainable()
        history = self.fitted().history
        assert history[-1]["loss"] < history[0]["loss"], f"the loss went {[e['loss'] for e in history]}"

    def test_saved_and_loaded_it_is_the_same(self) -> None:
        run = self.fit(2)
        with tempfile.TemporaryDirectory() as folder:
            run.save(Path(folder) / "run")
            again = load(Path(folder) / "run", host=self.host())
        _same_state(run.model, again.model)
        self._same_answers(run.model, again.model)

    def test_one_seed_gives_one_model(self) -> None:
        one, other = self.fit(2, seed=7), self.fit(2, seed=7)
        _same_state(one.model, other.model)

    def test_asked_twice_it_answers_the_same(self) -> None:
        model = self.fitted().model
        self._same_answers(model, model)

    def test_answers_do_not_depend_on_the_batch(self) -> None:
        model, users = self.fitted().model, self.world().split.test.users[:16]
        shuffled = np.random.default_rng(0).permutation(users.size)
        whole = self.scores(model, self.histories(users))
        _close(self.scores(model, self.histories(users[shuffled])), whole[shuffled], "the order of a batch")
        alone = torch.cat(
            [self.scores(model, self.histories(users[at : at + 1])) for at in range(users.size)]
        )
        _close(alone, whole, "who else is in the batch")

    def test_a_new_user_with_a_history_gets_an_answer(self) -> None:
        known = self.histories(self.world().split.test.users[:5])
        stranger = replace(known, users=torch.full_like(known.users, -1))
        scores = self.scores(self.fitted().model, stranger)
        assert torch.isfinite(scores).all(), "a new user (users == -1) gets NaN or infinity"

    def test_an_empty_history_gets_an_answer(self) -> None:
        none = torch.zeros(0, dtype=torch.int64)
        nobody = HistoryBatch(torch.tensor([-1, 0]), none, torch.zeros(3, dtype=torch.int64), none)
        assert torch.isfinite(self.scores(self.fitted().model, nobody)).all(), "an empty history gets NaN"

    def test_an_empty_history_changes_nobody_else(self) -> None:
        model, users = self.fitted().model, self.world().split.test.users[:3]
        full = self.histories(users)
        at = full.offsets[1]
        mixed = HistoryBatch(
            torch.cat([full.users[:1], torch.tensor([-1]), full.users[1:]]),
            full.items,
            torch.cat([full.offsets[:2], at[None], full.offsets[2:]]),
            full.times,
        )
        kept = torch.tensor([0, 2, 3])
        _close(self.scores(model, mixed)[kept], self.scores(model, full), "an empty history beside them")

    def test_unknown_items_are_passed_over(self) -> None:
        self._ranks_items()
        run = self.fitted()
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            answer = run.recommend({"somebody": [0, 10**9, 1]}, 5)
        assert any(issubclass(one.category, DataWarning) for one in told), (
            "nothing is said of the unknown item"
        )
        assert len(answer) == 5
        assert not set(answer["item"]) & {0, 1}, "it recommends what was in the history"

    def test_k_different_unseen_items(self) -> None:
        self._ranks_items()
        task = self.world().split.test
        ids, scores = best(self.fitted().model, self.histories(task.users), 5, True)
        for user, row in zip(task.users, ids.numpy(), strict=True):
            low, high = task.history.indptr[user : user + 2]
            assert len(set(row.tolist())) == 5, f"user {user}: {row} repeats an item"
            assert not set(row.tolist()) & set(task.history.item[low:high].tolist()), (
                f"user {user}: seen item"
            )
        assert bool((scores.diff(dim=1) <= 0).all()), "the best item does not come first"

    def test_learns_a_planted_pattern(self) -> None:
        if not (self.learns and self.entry().extras.get("learns", True)):
            skip("it is not meant to learn tastes")
        self._ranks_items()
        world = self.world()
        ids, _ = best(self.fitted().model, self.histories(world.split.test.users), world.k, True)
        rate = float((ids.numpy() == world.split.test.targets[:, None]).any(1).mean())
        bar = world.chance + self.margin * (1 - world.chance)
        assert rate >= bar, f"hit rate {rate:.2f} @ {world.k}; popularity has about {world.chance:.2f}"

    def histories(self, users: Any) -> HistoryBatch:
        """What users of the world had done before the test."""
        return HistoryBatch(**self.world().split.test.history.history(users).tensors())

    def scores(self, model: Any, histories: HistoryBatch) -> Tensor:
        """float [B, n_items] whatever the model offers; ranks stand for scores where it writes ids."""
        self._ranks_items(model)
        model.eval()
        with torch.inference_mode():
            if isinstance(model, Represents):
                scores = model.user_vectors(histories) @ model.item_vectors().T
                bias = model.item_bias()
                return scores if bias is None else scores + bias
            if isinstance(model, ScoresItems):
                return model.score_items(histories)
            ids, _ = model.generate(histories, 5)
            scores = torch.zeros(len(histories), self.world().split.train.n_items)
            places = torch.arange(5, 0, -1, dtype=scores.dtype).expand(ids.shape)
            return scores.scatter_add(1, ids.clamp_min(0), places * (ids >= 0))

    def _trainable(self) -> Any:
        model = self.built()
        if not isinstance(model, Trainable):
            skip("it is not trained by gradient steps")
        if model.feed().kind == "features":
            skip("it learns from features, not from interactions")
        assert isinstance(model, torch.nn.Module)
        return model.train()

    def _ranks_items(self, model: Any = None) -> None:
        model = self.fitted().model if model is None else model
        if not isinstance(model, Represents | ScoresItems | Generates):
            skip("it predicts clicks and ranks nothing")

    def _same_answers(self, one: Any, other: Any) -> None:
        histories = self.histories(self.world().split.test.users[:16])
        assert torch.equal(self.scores(one, histories), self.scores(other, histories)), "the answers differ"


def _context(world: World, step: int) -> StepContext:
    popularity = torch.from_numpy(np.bincount(world.split.train.item, minlength=world.split.train.n_items))
    extras = {"popularity": popularity.to(torch.float32), "user_items": user_items(world.split.train)}
    return StepContext(0, step, 1, 8, extras)


def _same_state(one: torch.nn.Module, other: torch.nn.Module) -> None:
    left, right = one.state_dict(), other.state_dict()
    assert left.keys() == right.keys(), f"other tensors: {left.keys() ^ right.keys()}"
    differing = [name for name in left if not torch.equal(left[name], right[name])]
    assert not differing, f"tensors that differ: {differing}"


def _close(found: Tensor, expected: Tensor, what: str) -> None:
    worst = float((found - expected).abs().max())
    scale = max(1.0, float(expected.abs().max()))
    assert worst <= 1e-4 * scale, f"scores depend on {what} (by {worst:.2g})"
