"""Bad input to sequence models: a clear answer or a clear error, and nothing half-written."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from recengine.errors import CheckpointError, DataError, DataWarning
from recengine.files import write_json
from recengine.testing.worlds import planted
from recengine.training import Run, fit, load
from recengine.training.checkpoint import digest_of, load_json

MODELS = ("sasrec", "bert4rec", "cotten4rec", "linrec", "gru4rec", "hstu")


def settings(**model: object) -> dict[str, Any]:
    return {
        "model": {"hidden_dim": 16, "max_length": 4, **model},
        "training": {"epochs": 1, "batch_size": 32, "device": "cpu"},
    }


@pytest.fixture(scope="module", params=MODELS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs") / request.param
    return fit(request.param, planted().split, settings=settings(), seed=1, directory=folder)


def test_histories_longer_than_the_model_are_cut_to_the_newest(run: Run) -> None:
    """Also in training: the world's histories have six events, the models see four."""
    found = run.recommend({"long": list(range(48)) * 3 + [1, 2, 3, 4]}, 1)
    assert len(found) <= 1
    full = run.recommend({"long": [*range(20), 1, 2, 3, 4]}, 5)
    assert len(full) == 5
    assert np.isfinite(full["score"].to_numpy()).all()


def test_unknown_ids_are_passed_over(run: Run) -> None:
    known = run.recommend({"a": [1, 2, 3]}, 5)
    with pytest.warns(DataWarning) as told:
        mixed = run.recommend({"a": [10**9, 1, 2, -5, 3], "b": [4], "c": [5, -7], "d": [-8]}, 5)
    assert mixed.filter(mixed["user"] == "a")["item"].to_list() == known["item"].to_list()
    assert [str(one.message) for one in told] == [
        "item ids that the run does not know are passed over: "
        "4 in 3 of 4 histories (1000000000 of 'a', -7 of 'c')"
    ]
    assert Path(told[0].filename) == Path(__file__)


def test_unknown_ids_are_refused_where_that_is_asked_for(run: Run) -> None:
    with pytest.raises(
        DataError, match=r"(?s)does not know.*found: 1 in 1 of 2 histories \(-5 of 'a'\).*fix:"
    ):
        run.recommend({"a": [1, -5], "b": [2]}, 5, strict=True)
    known = {"a": [1, 2], "b": []}
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataWarning)
        assert run.recommend(known, 5, strict=True).equals(run.recommend(known, 5))


def test_empty_and_all_unknown_histories_are_answered_alike(run: Run) -> None:
    with pytest.warns(DataWarning, match="2 in 1 of 3 histories"):
        found = run.recommend({"empty": [], "stranger": [10**9, 10**9 + 1], "a": [1, 2, 3]}, 5)
    rows = {label: found.filter(found["user"] == label)["item"].to_list() for label in ("empty", "stranger")}
    assert rows["empty"] == rows["stranger"]
    assert len(rows["empty"]) == 5
    alone = run.recommend({"a": [1, 2, 3]}, 5)
    assert found.filter(found["user"] == "a")["item"].to_list() == alone["item"].to_list()
    assert len(run.recommend({}, 5)) == 0


def test_one_at_a_time_and_in_batches_are_the_same(run: Run) -> None:
    rng = np.random.default_rng(0)
    given = {f"p{i}": rng.integers(0, 48, rng.integers(0, 9)).tolist() for i in range(40)}
    batch = run.recommend(given, 3)
    alone = [run.recommend({label: items}, 3) for label, items in given.items()]
    assert batch["item"].to_list() == [item for one in alone for item in one["item"]]


def test_unknown_people_are_named(run: Run) -> None:
    with pytest.raises(DataError, match="does not know"):
        run.recommend([0, 10**9], 5)


def tampered(run: Run, folder: Path, change: Any) -> Path:
    """A copy of the run with other weights and a digest that fits them."""
    home = run.directory
    run.save(folder)
    run.directory = home
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")
    about = load_json(folder / "run.json")
    write_json(folder / "run.json", {**about, "weights": digest_of(folder / "model.safetensors")})
    return folder


def test_weights_that_are_not_numbers_are_refused(run: Run, tmp_path: Path) -> None:
    for value in (float("nan"), float("inf")):

        def spoil(weights: dict[str, torch.Tensor], value: float = value) -> None:
            weights["encoder.given.items.weight"][3, 1] = value

        folder = tampered(run, tmp_path / str(value), spoil)
        with pytest.raises(CheckpointError, match=r"encoder\.given\.items\.weight.*NaN or infinity"):
            load(folder)


def test_weights_of_another_model_are_refused(run: Run, tmp_path: Path) -> None:
    other = "gru4rec" if run.name != "gru4rec" else "hstu"
    stranger = fit(other, planted().split, settings=settings(), seed=1).model.state_dict()

    def swap(weights: dict[str, torch.Tensor]) -> None:
        weights.clear()
        weights.update({name: value.clone() for name, value in stranger.items()})

    with pytest.raises(CheckpointError, match="another model"):
        load(tampered(run, tmp_path / "run", swap))


def test_a_checkpoint_of_another_model_is_not_taken_up(run: Run, tmp_path: Path) -> None:
    assert run.directory is not None
    folder = tmp_path / "taken"
    (folder / "checkpoints").mkdir(parents=True)
    for path in (run.directory / "checkpoints").iterdir():
        (folder / "checkpoints" / path.name).write_bytes(path.read_bytes())
    before = {path.name: path.read_bytes() for path in (folder / "checkpoints").iterdir()}
    other = "gru4rec" if run.name != "gru4rec" else "hstu"
    with pytest.raises(CheckpointError, match="another model"):
        fit(other, planted().split, settings=settings(), seed=1, directory=folder, resume=True)
    assert {path.name: path.read_bytes() for path in (folder / "checkpoints").iterdir()} == before
    assert [path.name for path in folder.iterdir()] == ["checkpoints"]


@pytest.mark.parametrize("model", MODELS)
def test_weights_do_not_depend_on_the_number_of_threads(model: str) -> None:
    before, states = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found = fit(model, planted().split, settings=settings(max_length=50), seed=3)
            states.append(found.model.state_dict())
    finally:
        torch.set_num_threads(before)
    for other in states[1:]:
        assert all(torch.equal(value, other[name]) for name, value in states[0].items())
