"""The conformance checks fail where they should: each planted fault is found by the check meant for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ConfigDict
from torch import Tensor, nn

from recengine.config import knob
from recengine.contracts.batch import HistoryBatch, SequenceBatch, StepContext
from recengine.contracts.loss import LossConfig, LossInput
from recengine.contracts.metric import RankedLists
from recengine.contracts.model import DataFacts, Feed, ModelConfig
from recengine.data import Interactions
from recengine.hooks import host
from recengine.testing.check import checks_for, run_checks

Failures = Callable[..., dict[str, str]]


@pytest.fixture
def failures() -> Iterator[Failures]:
    """Registers a thing in a plugin of its own and gives its failed checks; unregistered afterwards."""

    def check(kind: str, target: Any, config: Any = None, only: str = "") -> dict[str, str]:
        registry = host().registries[kind]
        with registry.registering("faulty"):
            registry.add("faulty", target, config=config, summary="faulty on purpose")
        checks = checks_for(registry.get("faulty"))
        results = run_checks(checks, only)
        return {result.check: result.reason for result in results if result.outcome == "failed"}

    yield check
    for registry in host().registries.values():
        registry.forget("faulty")


class SmallConfig(ModelConfig):
    dim: int = knob(8, "length of a vector", ge=1)


class Sound(nn.Module):
    """The mean of the history: conforms."""

    def __init__(self, config: SmallConfig, facts: DataFacts) -> None:
        super().__init__()
        self.items = nn.Embedding(facts.n_items, config.dim)
        nn.init.normal_(self.items.weight, std=0.1)

    def feed(self) -> Feed:
        return Feed("sequences")

    def training_loss(self, batch: SequenceBatch, context: StepContext) -> Tensor:
        scores = self.items(batch.items) @ self.items.weight.T
        return nn.functional.cross_entropy(scores, batch.targets, ignore_index=-1)

    def user_vectors(self, histories: HistoryBatch) -> Tensor:
        return nn.functional.embedding_bag(
            histories.items, self.items.weight, histories.offsets[:-1], mode="mean"
        )

    def item_vectors(self) -> Tensor:
        return self.items.weight

    def item_bias(self) -> Tensor | None:
        return None


class DeadParameter(Sound):
    def __init__(self, config: SmallConfig, facts: DataFacts) -> None:
        super().__init__(config, facts)
        self.unused = nn.Parameter(torch.ones(3))


class BatchDependent(Sound):
    def user_vectors(self, histories: HistoryBatch) -> Tensor:
        vectors = super().user_vectors(histories)
        return vectors - vectors.mean(0)


class EmptyIsNaN(Sound):
    def user_vectors(self, histories: HistoryBatch) -> Tensor:
        return super().user_vectors(histories) / (histories.offsets.diff() > 0)[:, None]


class Fickle(Sound):
    def user_vectors(self, histories: HistoryBatch) -> Tensor:
        vectors = super().user_vectors(histories)
        return vectors + 0.1 * torch.randn(vectors.shape)


class Forgetful(Sound):
    """Keeps what it learned outside of its tensors."""

    def fit_directly(self, train: Interactions, seed: int, progress: Any) -> None:
        self.offset = float(len(train))

    def user_vectors(self, histories: HistoryBatch) -> Tensor:
        return super().user_vectors(histories) + getattr(self, "offset", 0.0)


class Blind(Sound):
    def user_vectors(self, histories: HistoryBatch) -> Tensor:
        return torch.ones(len(histories), self.items.weight.shape[1])


def test_a_sound_model_passes(failures: Failures) -> None:
    assert failures("model", Sound, SmallConfig) == {}


@pytest.mark.parametrize(
    ("model", "only", "reason"),
    [
        (DeadParameter, "gradients_reach", "no gradient reaches ['unused']"),
        (BatchDependent, "depend_on_the_batch", "scores depend on who else is in the batch"),
        (EmptyIsNaN, "an_empty_history_gets", "an empty history gets NaN"),
        (Fickle, "asked_twice", "the answers differ"),
        (Forgetful, "saved_and_loaded", "the answers differ"),
        (Blind, "planted_pattern", "hit rate"),
    ],
)
def test_a_faulty_model_is_caught(failures: Failures, model: type, only: str, reason: str) -> None:
    found = failures("model", model, SmallConfig, only)
    assert len(found) == 1, found
    assert reason in next(iter(found.values()))


class LooseConfig(ModelConfig):
    model_config = ConfigDict(extra="ignore")

    dim: int = knob(8, "", ge=1)


class MisnamingConfig(SmallConfig):
    rate: float = knob(0.1, "a rate", low=0.1, high=0.5, when={"dimm": (8,)})


def test_a_condition_on_no_setting_is_caught(failures: Failures) -> None:
    found = failures("model", Sound, MisnamingConfig, "search_space")
    assert "'rate' is searched beside values of 'dimm'" in found["its search space is valid"]


def test_a_faulty_config_is_caught(failures: Failures) -> None:
    assert (
        "misspelt"
        in failures("model", Sound, LooseConfig, "unknown_settings")["unknown settings are refused"]
    )
    host().registries["model"].forget("faulty")
    found = failures("model", Sound, LooseConfig, "are_described")
    assert found == {"its settings are described": "the setting 'dim' has no description"}


class SoundLoss:
    needs = frozenset({"catalogue"})

    def __init__(self, config: LossConfig) -> None: ...

    def __call__(self, given: LossInput, context: StepContext) -> Tensor:
        return nn.functional.cross_entropy(given.anchors @ given.items.T, given.positives)


class Detached(SoundLoss):
    def __call__(self, given: LossInput, context: StepContext) -> Tensor:
        return super().__call__(replace(given, items=given.items.detach()), context)


class Summed(SoundLoss):
    def __call__(self, given: LossInput, context: StepContext) -> Tensor:
        return super().__call__(given, context) * given.anchors.shape[0]


class UpsideDown(SoundLoss):
    def __call__(self, given: LossInput, context: StepContext) -> Tensor:
        return -super().__call__(given, context)


def test_a_sound_loss_passes(failures: Failures) -> None:
    assert failures("loss", SoundLoss, LossConfig) == {}


@pytest.mark.parametrize(
    ("loss", "check"),
    [
        (Detached, "gradients are right"),
        (Summed, "is a mean over rows"),
        (UpsideDown, "prefers the right item"),
    ],
)
def test_a_faulty_loss_is_caught(failures: Failures, loss: type, check: str) -> None:
    assert check in failures("loss", loss, LossConfig)


class SoundMetric:
    name = "faulty"
    definition = "hits / k"
    higher_is_better = True

    def per_user(self, lists: RankedLists, k: int) -> Any:
        return lists.hits[:, :k].sum(axis=1) / k


class LooksTooFar(SoundMetric):
    def per_user(self, lists: RankedLists, k: int) -> Any:
        return lists.hits.sum(axis=1) / k


class Averaged(SoundMetric):
    def per_user(self, lists: RankedLists, k: int) -> Any:
        return super().per_user(lists, k).sum()


class Reversed(SoundMetric):
    higher_is_better = False


class Nameless(SoundMetric):
    definition = ""


def test_a_sound_metric_passes(failures: Failures) -> None:
    assert failures("metric", SoundMetric) == {}


@pytest.mark.parametrize(
    ("metric", "check"),
    [
        (LooksTooFar, "looks at the first k only"),
        (Averaged, "one number a user"),
        (Reversed, "a better list is no worse"),
        (Nameless, "says what it is"),
    ],
)
def test_a_faulty_metric_is_caught(failures: Failures, metric: type, check: str) -> None:
    assert check in failures("metric", metric)


class SoundData:
    name, summary, licence = "faulty", "made up", "none"

    def load(self, cache: Path) -> Interactions:
        return Interactions.from_arrays(np.array([1, 1, 2]), np.array([5, 6, 5]), np.array([3, 1, 2]))


class Unlicensed(SoundData):
    licence = ""


class Unsteady(SoundData):
    calls = 0

    def load(self, cache: Path) -> Interactions:
        Unsteady.calls += 1
        items = np.array([5, 6, 5 + Unsteady.calls % 2])
        return Interactions.from_arrays(np.array([1, 1, 2]), items, np.array([3, 1, 2]))


class Unsorted(SoundData):
    def load(self, cache: Path) -> Interactions:
        data = super().load(cache)
        return replace(data, time=np.array([9, 1, 2]))


@pytest.mark.parametrize(
    ("source", "check"),
    [
        (SoundData, None),
        (Unlicensed, "says what it is and who may use it"),
        (Unsteady, "is the same again"),
        (Unsorted, "is sorted by time inside users"),
    ],
)
def test_a_faulty_data_set_is_caught(failures: Failures, source: type, check: str | None) -> None:
    found = failures("dataset", source)
    assert found == {} if check is None else check in found


class Careless:
    """Draws anywhere, whatever the limits are, and notes what no file can keep."""

    def __init__(self, config: Any, space: Any, seed: int) -> None:
        self.space, self.seed = space, seed

    def propose(self, history: Any, n: int, pending: Any = ()) -> list[dict[str, Any]]:
        rng = np.random.default_rng([self.seed, len(history)])
        points = [self.space.default] if not history else []
        points += [self.space.decode(rng.random(self.space.width)) for _ in range(n - len(points))]
        return [{**point, "__facts__": {"model": object()}} for point in points]


def test_tuners_that_break_limits_or_note_objects_are_found(failures: Failures) -> None:
    found = failures("tuner", Careless)
    assert "x + y <= 0.6" in found["meets the linear limits"]
    assert "cannot keep this" in found["its notes can be kept"]
