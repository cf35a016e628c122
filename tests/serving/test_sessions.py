"""Events one at a time give what the whole history gives."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recengine.contracts.batch import HistoryBatch
from recengine.errors import DataError, DataWarning, UsageError
from recengine.serving import Sessions
from recengine.testing.worlds import planted
from recengine.training import Run, fit

CAUSAL = {"direction": "causal", "objective": "next", "positions": "first"}
MODELS: dict[str, dict[str, Any]] = {
    "cotten4rec": CAUSAL,
    "cotten4rec key prefix": {**CAUSAL, "scale": "key_prefix", "positions": "none"},
    "linrec": CAUSAL,
    "gru4rec": {"n_layers": 2},
}


def fitted(name: str, precision: str = "32-true", **settings: object) -> Run:
    model = {"hidden_dim": 16, "max_length": 6, **settings}
    training = {"epochs": 2, "device": "cpu", "precision": precision}
    return fit(name, planted().split, settings={"model": model, "training": training}, seed=1)


@pytest.fixture(scope="module", params=list(MODELS))
def run(request: pytest.FixtureRequest) -> Run:
    return fitted(request.param.split()[0], **MODELS[request.param])


def histories(seed: int, people: int = 5) -> dict[str, list[int]]:
    rng = np.random.default_rng(seed)
    return {f"p{index}": rng.integers(0, 48, rng.integers(1, 25)).tolist() for index in range(people)}


def batch_of(history: list[int]) -> HistoryBatch:
    return HistoryBatch(torch.tensor([-1]), torch.tensor(history), torch.tensor([0, len(history)]))


def same(found: Any, wanted: Any) -> None:
    assert found["user"].to_list() == wanted["user"].to_list()
    assert found["item"].to_list() == wanted["item"].to_list()
    np.testing.assert_allclose(found["score"], wanted["score"], rtol=1e-4, atol=1e-5)


def test_after_every_event_it_is_the_whole_history(run: Run) -> None:
    sessions, history = Sessions(run), histories(0)["p0"] + histories(1)["p0"]
    assert len(history) > 13  # past the window of 6, twice
    for count, item in enumerate(history, 1):
        assert sessions.append("somebody", item)
        same(sessions.recommend(["somebody"], 5), run.recommend({"somebody": history[:count]}, 5))


def test_many_people_at_once(run: Run) -> None:
    together, alone, given = Sessions(run), Sessions(run), histories(2, 9)
    assert together.extend(given) == sum(map(len, given.values()))
    for label, items in given.items():
        for item in items:
            alone.append(label, item)
    same(together.recommend(list(given), 7), run.recommend(given, 7))
    same(together.recommend(list(given), 7), alone.recommend(list(given), 7))
    assert len(together) == 9


def test_who_is_forgotten_leaves_the_others_alone(run: Run) -> None:
    sessions, given = Sessions(run), histories(3)
    sessions.extend(given)
    sessions.forget("p1")
    sessions.forget("nobody")
    rest = {label: items for label, items in given.items() if label != "p1"}
    assert "p1" not in sessions
    same(sessions.recommend(list(rest)), run.recommend(rest))
    sessions.extend({"p1": [1, 2, 3], "p0": [4]})
    same(sessions.recommend(["p1"]), run.recommend({"p1": [1, 2, 3]}))
    same(sessions.recommend(["p0"]), run.recommend({"p0": [*given["p0"], 4]}))


def test_unknown_items_and_people_without_events(run: Run) -> None:
    sessions = Sessions(run)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataWarning)  # append says so by its answer
        assert not sessions.append("new", 10**9)
        with pytest.raises(DataWarning):
            sessions.extend({"new": [1], "third": [10**9]})
    with pytest.warns(DataWarning, match=r"2 in 1 of 2 histories \(1000000000 of 'new'\)") as told:
        assert sessions.extend({"new": [10**9, 10**9 + 1], "other": []}) == 0
    assert Path(told[0].filename) == Path(__file__)
    assert "third" not in sessions
    with pytest.warns(DataWarning):
        wanted = run.recommend({"new": [10**9], "other": []})
    same(sessions.recommend(["new", "other"]), wanted)
    with pytest.raises(DataError, match="nothing is known"):
        sessions.recommend(["nobody"])
    for wrong in (0, 2.5):
        with pytest.raises(UsageError, match="k: not the length of a list"):
            sessions.recommend(["new"], wrong)  # type: ignore[arg-type]
    same(sessions.recommend(["new"], 10**6), run.recommend({"new": []}, 48))


def test_what_is_no_history_changes_nothing(run: Run) -> None:
    sessions = Sessions(run)
    for wrong in ("i1", None, 3, [[1, 2]], [[1], [2, 3]], ["1"], {1, 2}, [None], [1, float("nan")], [1, "2"]):
        for call in (sessions.extend, run.recommend):
            with pytest.raises(DataError, match="the history of 'b'"):
                call({"a": [1, 2], "b": wrong})  # type: ignore[operator]
    for item in ([1, 2], "1", None, float("nan")):
        with pytest.raises(DataError, match="the history of 'a'"):
            sessions.append("a", item)
    assert len(sessions) == 0


def test_what_is_no_label_no_mapping_and_no_run_is_named(run: Run) -> None:
    sessions = Sessions(run)
    for call in (
        lambda: sessions.append([1], 2),
        lambda: sessions.recommend([[1]]),
        lambda: sessions.forget({}),
    ):
        with pytest.raises(UsageError, match=r"(?s)nobody can be known by this label.*fix: "):
            call()
    with pytest.raises(UsageError, match=r"(?s)histories without labels.*\('a', \[1\]\).*fix: of pairs"):
        sessions.extend([("a", [1])])  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"(?s)no run.*'runs/first'.*fix: .*recengine\.load"):
        Sessions("runs/first")  # type: ignore[arg-type]
    assert len(sessions) == 0


@pytest.mark.parametrize("item_bias", [True, False])
@pytest.mark.parametrize("name", ["cotten4rec", "gru4rec"])
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_other_precisions(precision: str, name: str, item_bias: bool) -> None:
    model = {**MODELS[name], "item_bias": item_bias}
    run, given = fitted(name, precision, **model), histories(4)
    sessions, alone = Sessions(run), Sessions(run)
    sessions.extend(given)
    for label, items in given.items():
        for item in items:
            alone.append(label, item)
    close = 0.05 if precision == "bf16-true" else 1e-5
    for found in (sessions.recommend(list(given), 5), alone.recommend(list(given), 5)):
        wanted = run.recommend(given, 5)
        np.testing.assert_allclose(found["score"], wanted["score"], rtol=close, atol=close)


def test_what_fails_leaves_everybody_as_they_were(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions, given = Sessions(run), histories(5)
    sessions.extend(given)
    before = sessions.recommend(list(given))

    def fails(*_: object) -> None:
        raise RuntimeError("no memory")

    for call in ("append", "read"):
        with monkeypatch.context() as broken:
            broken.setattr(run.model.encoder, call, fails)
            with pytest.raises(RuntimeError, match="no memory"):
                sessions.extend({"p0": [1], "p1": [2], "new": [3, 4], "p2": [5, 6]})
        assert "new" not in sessions
        same(sessions.recommend(list(given)), before)
    sessions.extend({"p0": [1], "p1": [2], "new": [3], "p2": [5, 6]})
    more = {**given, "p0": [*given["p0"], 1], "p1": [*given["p1"], 2], "p2": [*given["p2"], 5, 6]}
    same(sessions.recommend([*more, "new"]), run.recommend({**more, "new": [3]}))


def test_models_that_cannot_say_so() -> None:
    for name in ("cotten4rec", "sasrec"):
        with pytest.raises(UsageError, match=r"(?s)one event at a time.*positions = 'first'"):
            Sessions(fitted(name))
    with pytest.raises(UsageError, match=r"(?s)one event at a time.*scale = 'length'"):
        Sessions(fitted("cotten4rec", **{**CAUSAL, "scale": "sequence"}))


@pytest.mark.parametrize("name", ["cotten4rec", "linrec"])
def test_positions_from_the_newest_event_see_the_newest_events(name: str) -> None:
    run = fitted(name, direction="causal", objective="next")  # positions = 'recent', the default
    with pytest.raises(UsageError, match=r"(?s)counted from the newest.*fix: .*positions = 'first'"):
        Sessions(run)
    history = histories(0)["p0"][:7]  # one more than the model sees
    wanted = run.model.user_vectors(batch_of(history[-6:]))  # type: ignore[operator]
    assert torch.equal(run.model.user_vectors(batch_of(history)), wanted)  # type: ignore[operator]
