"""Five calls: interactions, fit, evaluate, recommend, save and load."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from walking import walks

from recengine import fit, load, recommend
from recengine.contracts.model import Feed
from recengine.data import Interactions, SplitConfig, split
from recengine.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    DataWarning,
    LeakageError,
    RecengineError,
    UsageError,
)
from recengine.hooks import Host, hookimpl, host
from recengine.training import Run, TrainerConfig, reproduce, resolve
from recengine.training.optimisation import rate
from recengine.training.recommending import known_histories

SMALL: dict[str, Any] = {
    "model": {"hidden_dim": 16, "n_blocks": 1, "max_length": 10, "dropout": 0.0},
    "training": {"epochs": 15, "batch_size": 16, "learning_rate": 1e-2, "device": "cpu"},
    "split": {"strategy": "leave_two_out"},
}


def test_learns_the_ring_and_survives_a_round_trip(ring: Interactions, tmp_path: Path) -> None:
    run = fit("sasrec", ring, settings=SMALL, seed=1, directory=tmp_path / "run")
    assert run.history[-1]["loss"] < 0.6 * run.history[0]["loss"]
    assert run.history[-1]["ndcg@10"] > 0.5
    again = load(tmp_path / "run")
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name])
    users = list(ring.users.tokens[:5])
    ours, theirs = recommend(run, users, 3), again.recommend(users, 3)
    assert ours.equals(theirs)
    assert ours["rank"].to_list() == [1, 2, 3] * 5
    assert again.config.model_dump() == run.config.model_dump()
    assert again.history == run.history
    assert np.array_equal(again.split.test.targets, run.split.test.targets)


def test_a_new_user_is_answered_from_the_history(ring: Interactions) -> None:
    run = fit("sasrec", ring, settings=SMALL)
    got = recommend(run, {"somebody": [105, 106, 107, 108], "nobody": []}, 2)
    assert got.filter(got["user"] == "somebody")["item"][0] == 109
    assert got.filter(got["user"] == "nobody").height == 2
    seen = recommend(run, {"x": [105, 106, 107, 108]}, ring.n_items)
    assert not set(seen["item"]) & {105, 106, 107, 108}


def test_a_history_of_ids_of_another_type_is_refused() -> None:
    users, items = np.repeat(np.arange(8), 5), np.array([f"i{at % 7}" for at in range(40)])
    run = fit("popularity", Interactions.from_arrays(users, items, np.tile(np.arange(5), 8)))
    for wrong in ("i1", [1, 2], np.array([1])):
        with pytest.raises(DataError, match=r"(?s)the history of 'x'.*expected: .*'(tea|i0)'"):
            recommend(run, {"x": wrong}, 2)
    given = {"list": ["i1"], "tuple": ("i1",), "array": np.array(["i1"]), "text": ["zz"], "none": []}
    with pytest.warns(DataWarning, match="'zz' of 'text'") as told:
        assert recommend(run, given, 2).height == 10
    assert Path(told[0].filename) == Path(__file__)


def test_a_seed_is_a_whole_number(ring: Interactions) -> None:
    for wrong in (-1, "x", 1.5, None):
        with pytest.raises(UsageError, match="seed: not a seed"):
            fit("popularity", ring, seed=wrong)  # type: ignore[arg-type]


def test_what_a_notebook_shows_is_one_line(ring: Interactions) -> None:
    run = fit("popularity", ring)
    assert repr(run) == "Run('popularity', seed 0, not saved)"
    assert repr(run.split.test) == "EvalTask('test', 60 users asked, 60 targets)"
    assert repr(run.split).startswith("Split(train=Interactions(")
    assert len(repr(run.split)) < 300
    assert repr(run.evaluate()).startswith("Evaluation(test, 60 users: hr@10 ")


def test_of_whom_nothing_is_known_gets_the_most_popular_items(ring: Interactions) -> None:
    run = fit("ease", ring)
    with pytest.warns(DataWarning, match="1000000000 of 'stranger'"):
        found = run.recommend({"nobody": [], "stranger": [10**9], "somebody": [105, 106]}, 4)
    train = run.split.train
    counts = train.popularity()
    for label in ("nobody", "stranger"):
        rows = train.items.rows(found.filter(found["user"] == label)["item"].to_numpy())
        assert counts[rows].tolist() == sorted(counts.tolist(), reverse=True)[:4]
    assert found.filter(found["user"] == "somebody")["score"].n_unique() > 1  # the model's own order


def test_ids_of_another_type_are_named_with_their_history(ring: Interactions) -> None:
    text = Interactions.from_arrays(ring.user.astype(str), ring.item.astype(str), ring.time)
    run = fit("popularity", text)
    for items, found in ((["5", 106], "106"), ([None], "None"), (["5", float("nan")], "nan"), ([1], "1")):
        with pytest.raises(DataError, match=rf"(?s)the history of 'b': .*found: {found}\n.*like '\d+'"):
            run.recommend({"a": ["5"], "b": items})
    for items in (["5"], np.array(["5"]), np.array(["5"], object), ("5",), pl.Series(["5"])):
        assert "5" not in run.recommend({"a": items}, 5)["item"].to_list()  # type: ignore[dict-item]
    with pytest.raises(DataError, match=r"(?s)does not know.*found: 3\n"):
        run.recommend(["0", 3])


def test_a_list_in_place_of_a_user_is_named(ring: Interactions) -> None:
    run = fit("popularity", ring)
    for users in ([("a", [105])], [[0], [1]], np.array([[0], [1]])):
        with pytest.raises(UsageError, match=r"(?s)a list in place of the id.*fix: .*mapping"):
            run.recommend(users)


def test_single_settings_by_dotted_name() -> None:
    config: Any = resolve(
        "sasrec", {"model": {"n_blocks": 3}, "model.hidden_dim": 8, "loss.name": "bpr"}, host()
    )
    assert (config.model.n_blocks, config.model.hidden_dim, config.loss.name) == (3, 8, "bpr")
    with pytest.raises(ConfigError, match=r"did you mean 'model\.hidden_dim'"):
        resolve("sasrec", {"model.hiden_dim": 8}, host())


def test_mistakes_are_named(ring: Interactions, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'sasrec'"):
        fit("sasrek", ring)
    with pytest.raises(ConfigError, match=r"did you mean 'model\.hidden_dim'"):
        fit("sasrec", ring, settings={"hidden_dim": 8})
    with pytest.raises(ConfigError, match=r"did you mean 'training\.epochs'"):
        fit("sasrec", ring, settings={"training": {"epocs": 3}})
    with pytest.raises(UsageError, match="there is no loss"):
        fit("sasrec", ring, settings={"loss": {"name": "sofmax"}})
    with pytest.raises(
        ConfigError, match=r"settings of 'model' do not fit together: n_heads 3 does not divide"
    ):
        fit("sasrec", ring, settings={"model": {"n_heads": 3}})
    run = fit("sasrec", ring, settings={**SMALL, "training": {"epochs": 1}}, directory=tmp_path)
    with pytest.raises(UsageError, match="already holds a run"):
        fit("sasrec", ring, settings=SMALL, directory=tmp_path)
    with pytest.raises(DataError, match="does not know"):
        recommend(run, [-5], 3)


@pytest.mark.parametrize("name", ["sasrec", "ease"])  # by vectors, by scores
def test_the_length_of_a_list(name: str) -> None:
    ring = walks()
    run = fit(name, ring, settings={"training.epochs": 1} if name == "sasrec" else None)
    for wrong in (0, -1, 2.5, "3", None):
        with pytest.raises(UsageError, match="k: not the length of a list"):
            recommend(run, [0], wrong)  # type: ignore[arg-type]
    assert recommend(run, {"x": []}, 10**6).equals(recommend(run, {"x": []}, ring.n_items))
    assert recommend(run, {"x": []}, np.int64(3)).height == 3  # type: ignore[arg-type]


@pytest.mark.parametrize("single", ["u3", b"u3", 3, None])
def test_one_user_in_place_of_several_is_told(ring: Interactions, single: object) -> None:
    run = fit("popularity", ring)
    with pytest.raises(UsageError, match=r"(?s)one id in place of several.*put it in a list"):
        recommend(run, single)  # type: ignore[arg-type]
    assert recommend(run, np.array([0, 1]), 2)["user"].to_list() == [0, 0, 1, 1]  # type: ignore[arg-type]


def test_a_list_is_no_longer_than_topk_makes_it() -> None:
    at = np.arange(6000)
    wide = Interactions.from_arrays(at // 6, at % 1500, at)
    run = fit("popularity", wide)
    assert recommend(run, {"x": []}, 1000).height == 1000
    with pytest.raises(UsageError, match=r"(?s)found: 1001.*1 to 1000"):
        recommend(run, {"x": []}, 1001)


@pytest.mark.parametrize("name", ["softmax", "sampled_softmax", "gbce", "bce", "bpr"])
def test_every_loss_learns(ring: Interactions, name: str) -> None:
    loss = {"name": name} if name == "softmax" else {"name": name, "negatives": 8, "shared": False}
    if name == "gbce":
        loss["calibration"] = 0.2  # a full calibration leaves its first plateau only after a hundred epochs
    training = {**SMALL["training"], "epochs": 40, "patience": 0}
    run = fit("sasrec", ring, settings={**SMALL, "training": training, "loss": loss}, seed=2)
    assert max(entry["ndcg@10"] for entry in run.history) > 0.4


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_other_precisions_learn_and_resume(ring: Interactions, tmp_path: Path, precision: str) -> None:
    training = {**SMALL["training"], "precision": precision, "patience": 0}
    settings = {**SMALL, "training": training}
    whole = fit("sasrec", ring, settings=settings, seed=5, directory=tmp_path / "whole")
    assert whole.history[-1]["ndcg@10"] > 0.5
    held = {"bf16-mixed": torch.float32, "bf16-true": torch.bfloat16, "64-true": torch.float64}[precision]
    assert {value.dtype for value in whole.model.parameters()} == {held}
    half = {**settings, "training": {**training, "epochs": 7}}
    fit("sasrec", ring, settings=half, seed=5, directory=tmp_path / "parts")
    resumed = fit("sasrec", ring, settings=settings, seed=5, directory=tmp_path / "parts", resume=True)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name])
    again = load(tmp_path / "whole")
    assert recommend(whole, [0], 3).equals(recommend(again, [0], 3))


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_a_mixed_precision_is_computed_in(ring: Interactions, precision: str) -> None:
    def first_loss(precision: str) -> float:
        training = {**SMALL["training"], "epochs": 1, "precision": precision}
        return float(fit("sasrec", ring, settings={**SMALL, "training": training}, seed=5).history[0]["loss"])

    exact, low = first_loss("32-true"), first_loss(precision)
    assert low != exact
    assert low == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
@pytest.mark.parametrize("name", ["cotten4rec", "bert4rec", "linrec", "gru4rec"])
def test_item_biases_of_other_precisions_are_ranked_with(
    ring: Interactions, name: str, precision: str
) -> None:
    training = {**SMALL["training"], "epochs": 2, "precision": precision}
    settings = {"model.hidden_dim": 16, "model.max_length": 10, "training": training}
    run = fit(name, ring, settings=settings)
    found = recommend(run, {"somebody": [105, 106, 107], "nobody": []}, 3)
    bias = run.model.item_bias()
    assert found["user"].to_list() == ["somebody"] * 3 + ["nobody"] * 3
    best = torch.argsort(bias, descending=True, stable=True)[:3].numpy()
    assert (
        found.filter(found["user"] == "nobody")["item"].to_list()
        == run.split.train.items.tokens[best].tolist()
    )
    assert run.model.user_vectors(known_histories(run, [0, 1])).dtype == bias.dtype


def test_an_evaluation_is_kept_with_the_run(ring: Interactions, tmp_path: Path) -> None:
    run = fit("sasrec", ring, settings=SMALL, directory=tmp_path / "run")
    test, validation = run.evaluate(), run.evaluate("validation")
    assert validation["ndcg@10"] == pytest.approx(max(entry["ndcg@10"] for entry in run.history), abs=1e-9)
    again = load(tmp_path / "run")
    assert again.evaluations["test"]["ndcg@10"] == test["ndcg@10"]
    assert again.evaluate().per_user.equals(test.per_user)
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    assert about["protocols"] == {"test": test.protocol.hash, "validation": validation.protocol.hash}
    with pytest.raises(UsageError, match="no such task"):
        run.evaluate("exam")


@pytest.mark.parametrize("name", ["evaluation_validation.json", "per_user_validation.parquet"])
def test_a_damaged_evaluation_is_named_when_it_is_asked_for(
    ring: Interactions, tmp_path: Path, name: str
) -> None:
    run = fit("sasrec", ring, settings=SMALL, directory=tmp_path / "run")
    test, validation = run.evaluate(), run.evaluate("validation")
    damaged = tmp_path / "run" / name
    if damaged.suffix == ".json":
        damaged.write_bytes(damaged.read_bytes()[:200])
    else:
        damaged.unlink()
    again = load(tmp_path / "run")
    assert again.recommend([0], 3).equals(run.recommend([0], 3))
    assert again.evaluations["test"].per_user.equals(test.per_user)
    words = rf"(?s)run/{name}: .*validation task cannot be read.*found: .*fix: .*--task validation"
    with pytest.raises(CheckpointError, match=words):
        again.evaluations.get("validation")
    with pytest.raises(CheckpointError, match=words):
        again.save(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    again.evaluate()
    again.evaluate("validation")
    assert load(tmp_path / "run").evaluations["validation"].per_user.equals(validation.per_user)
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    assert about["protocols"] == {"test": test.protocol.hash, "validation": validation.protocol.hash}


def test_a_run_is_reproduced(ring: Interactions, tmp_path: Path) -> None:
    run = fit("sasrec", ring, settings=SMALL, seed=4, directory=tmp_path)
    found = reproduce(tmp_path)
    assert found.identical
    assert not found.differs
    other = walks(seed=9)
    changed = reproduce(tmp_path / "run.json", data=split(other, run.config.split))
    assert set(changed.differs) == {"data", "weights"}


def test_the_monitor_is_checked_before_the_first_step(ring: Interactions) -> None:
    def stepped(event: Any) -> None:
        raise AssertionError("a step was made")

    for change, near in (
        ({"training.monitor": "ndgc@10"}, r"did you mean 'ndcg@10'"),
        ({"training.monitor": "luck"}, "monitor one of these"),
        ({"evaluation.cutoffs": [5]}, r"did you mean 'ndcg@5'"),
        ({"evaluation.metrics": ["hr"]}, "hr@10"),
    ):
        with pytest.raises(ConfigError, match=rf"(?s)training\.monitor: .*not measured.*{near}"):
            fit("sasrec", ring, settings={"model": SMALL["model"], **change}, progress=stepped)


def test_a_training_that_diverges_says_so(ring: Interactions) -> None:
    settings = {"training.learning_rate": 1e30, "training.batch_size": 16, "model.hidden_dim": 16}
    for name in ("sasrec", "cotten4rec", "hstu", "gru4rec"):
        with pytest.raises(
            RecengineError, match=r"(?s)training diverged.*fix: lower training\.learning_rate"
        ):
            fit(name, ring, settings=settings)


def test_weights_that_overflow_after_the_only_step_are_a_divergence(ring: Interactions) -> None:
    """The loss was taken before that step; the weights are finite, what is made of them is not."""
    settings = {"training.learning_rate": 1e30, "training.batch_size": 64, "model.hidden_dim": 16}
    words = r"(?s)training diverged.*found: weights up to \de\+\d\d.*fix: .*lower training\.learning_rate"
    with pytest.raises(RecengineError, match=words):
        fit("cotten4rec", ring, settings=settings)


@pytest.mark.parametrize("name", ["bert4rec", "sasrec", "multvae", "bpr"])
def test_a_sequence_model_without_any_order_warns(ring: Interactions, name: str) -> None:
    for times, ties in ((None, "hash"), (None, "rows"), (ring.time, "hash")):
        data = Interactions.from_arrays(ring.user, ring.item, times, ties=ties)  # type: ignore[arg-type]
        run = fit(name, data, settings={"training.epochs": 1, "split.strategy": "ratio_random"})
        warned = [finding for finding in run.findings if finding.check == "order"]
        if name in ("bert4rec", "sasrec") and times is None and ties == "hash":
            assert warned[0].severity == "warn"
            assert "ties=rows" in warned[0].message
        else:
            assert not warned


def test_a_leak_stops_the_fit(ring: Interactions) -> None:
    clean = split(ring, SplitConfig(strategy="leave_two_out"))
    leaking = dataclasses.replace(clean, train=ring)
    with pytest.raises(LeakageError, match="held-out data can be seen"):
        fit("sasrec", leaking, settings=SMALL)


def test_life_cycle_hooks_are_told(ring: Interactions, tmp_path: Path) -> None:
    class Told:
        def __init__(self) -> None:
            self.events: list[str] = []

        @hookimpl
        def recengine_fit_start(self, run: Run) -> None:
            self.events.append(f"start {run.name}")

        @hookimpl
        def recengine_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
            self.events.append(f"epoch {epoch} {'loss' in metrics} {'ndcg@10' in metrics}")

        @hookimpl
        def recengine_checkpoint_saved(self, path: str) -> None:
            self.events.append(f"saved {Path(path).name}")

        @hookimpl
        def recengine_fit_end(self, run: Run) -> None:
            self.events.append(f"end {len(run.history)}")

    told, plugins = Told(), Host()
    plugins.discover()
    plugins.add(told, "told")
    training = {**SMALL["training"], "epochs": 2}
    fit("sasrec", ring, settings={**SMALL, "training": training}, directory=tmp_path, host=plugins)
    assert told.events == [
        "start sasrec",
        "epoch 1 True True",
        "saved step-00001-00000000.json",
        "epoch 2 True True",
        "saved step-00002-00000000.json",
        "end 2",
    ]


def test_patience_stops_and_the_best_weights_stay(ring: Interactions) -> None:
    training = {**SMALL["training"], "epochs": 60, "patience": 3}
    run = fit("sasrec", ring, settings={**SMALL, "training": training})
    values = [entry["ndcg@10"] for entry in run.history]
    assert len(values) < 60
    assert len(values) - 1 - int(np.argmax(values)) == 3
    assert run.evaluate("validation")["ndcg@10"] == pytest.approx(max(values), abs=1e-9)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "adagrad", "sgd"])
def test_optimisers(ring: Interactions, optimizer: str) -> None:
    training = {**SMALL["training"], "epochs": 3, "optimizer": optimizer, "warmup": 0.3, "schedule": "linear"}
    run = fit("sasrec", ring, settings={**SMALL, "training": training})
    assert run.history[-1]["loss"] < run.history[0]["loss"]


def test_rate_course() -> None:
    config = TrainerConfig(learning_rate=1.0, schedule="linear", warmup=0.2)
    assert [round(rate(config, step, 10), 3) for step in range(10)] == [
        0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125,
    ]  # fmt: skip
    cosine = TrainerConfig(learning_rate=1.0, schedule="cosine")
    assert rate(cosine, 5, 10) == pytest.approx(0.5)


class Tags(torch.nn.Module):
    """Made by hand: a vector for each item, a user is the mean of the history's."""

    def __init__(self, n_items: int) -> None:
        super().__init__()
        self.table = torch.nn.EmbeddingBag(n_items, 8, mode="mean")

    def feed(self) -> Feed:
        return Feed("sequences", max_length=5, negatives=4)

    def training_loss(self, batch: Any, context: Any) -> torch.Tensor:
        users = self.table(batch.items, batch.offsets[:-1])
        last = batch.targets[batch.offsets[1:] - 1]
        return torch.nn.functional.cross_entropy(users @ self.table.weight.T, last)

    def user_vectors(self, histories: Any) -> torch.Tensor:
        return self.table(histories.items, histories.offsets[:-1])

    def item_vectors(self) -> torch.Tensor:
        return self.table.weight

    def item_bias(self) -> None:
        return None


def test_a_model_made_by_hand(ring: Interactions, tmp_path: Path) -> None:
    model = Tags(ring.n_items)
    run = fit(model, ring, settings={"training.epochs": 3, "training.learning_rate": 0.1}, directory=tmp_path)
    assert run.model is model
    assert run.history[-1]["loss"] < run.history[0]["loss"]
    again = load(tmp_path, model=Tags(ring.n_items))
    users = list(ring.users.tokens[:3])
    assert again.recommend(users, 4).equals(run.recommend(users, 4))
    with pytest.raises(UsageError, match="no model 'tags'"):
        load(tmp_path)
    with pytest.raises(UsageError, match="already made"):
        fit(model, ring, settings={"model.width": 3})
    with pytest.raises(UsageError, match="registered name or a torch"):
        fit(3, ring)  # type: ignore[arg-type]
