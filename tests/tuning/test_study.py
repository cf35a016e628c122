"""Spaces and studies: round trips, conditions, crashes, several workers, bad input."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recengine.config import Config, knob
from recengine.errors import ConfigError, DataError, RecengineError, UsageError
from recengine.tuning import LinearLimit, Parameter, Space, Study, StudyFile
from recengine.tuning.study import observation
from recengine_plugins.tuners.config import SearchConfig
from recengine_plugins.tuners.search import RandomSearch, SobolSearch


class Knobs(Config):
    rate: float = knob(1e-3, "learning rate", low=1e-5, high=1e-1, log=True)
    layers: int = knob(2, "blocks", low=1, high=6)
    loss: str = knob("softmax", "loss", choices=("softmax", "bce", "gbce"))
    temperature: float = knob(1.0, "of the softmax", low=0.1, high=2.0, when={"loss": ("softmax",)})
    tied: bool = knob(True, "tied table", choices=(False, True))
    seed: int = knob(0, "not tuned")


SPACE = Space.of_config(Knobs)


def study(path: Path, space: Space = SPACE, seed: int = 0) -> Study:
    return Study.open(path, "s", space, RandomSearch(SearchConfig(), space, seed), seed=seed)


def worth(point: dict[str, Any], seed: int) -> float:
    return -abs(np.log10(point["rate"]) + 2) - abs(point["layers"] - 4)


def test_space_is_read_off_the_config() -> None:
    assert SPACE.names == ("rate", "layers", "loss", "temperature", "tied")
    assert SPACE.default == {"rate": 1e-3, "layers": 2, "loss": "softmax", "temperature": 1.0, "tied": True}
    assert SPACE.width == 1 + 1 + 3 + 1 + 1
    assert SPACE.encode(SPACE.default)[0] == pytest.approx(0.5)
    assert SPACE.decode(SPACE.encode(SPACE.default)) == SPACE.default
    assert SPACE.changed(SPACE.default) == ()


@settings(max_examples=100)
@given(st.lists(st.floats(0, 1), min_size=7, max_size=7))
def test_decoded_points_lie_inside_and_round_trip(row: list[float]) -> None:
    point = SPACE.decode(np.array(row))
    SPACE.check(point)
    again = SPACE.decode(SPACE.encode(point))
    assert again["rate"] == pytest.approx(point["rate"])
    assert {k: v for k, v in again.items() if k not in ("rate", "temperature")} == {
        k: v for k, v in point.items() if k not in ("rate", "temperature")
    }
    if point["loss"] != "softmax":
        assert point["temperature"] == 1.0


@pytest.mark.parametrize("log", [False, True])
def test_the_ends_of_a_range_are_met_exactly(log: bool) -> None:
    parameter = Parameter("x", "float", 0.1, 0.01, 0.5, log=log)
    assert [parameter.decode(np.array([u])) for u in (0.0, 1.0)] == [0.01, 0.5]
    assert parameter.decode(parameter.encode(0.5)) == 0.5


def test_narrowing_fixing_and_costs() -> None:
    space = Space.of_config(
        Knobs, fixed=["tied"], ranges={"rate": (1e-4, 1e-2)}, costs={"layers": 5.0}, default={"layers": 3}
    )
    assert "tied" not in space.names
    by_name = {p.name: p for p in space.parameters}
    assert by_name["rate"].low == 1e-4
    assert by_name["layers"].cost == 5.0
    assert space.default["layers"] == 3
    with pytest.raises(ConfigError, match=r"did you mean 'layers'"):
        Space.of_config(Knobs, fixed=["layer"])


@pytest.mark.parametrize("narrowed", [{"fixed": ["loss"]}, {"only": ["temperature", "rate"]}])
def test_what_depends_on_a_fixed_setting_is_searched_where_its_value_asks_for_it(narrowed: Any) -> None:
    row = np.full(20, 0.9)
    for loss, searched in (("softmax", True), ("bce", False)):
        space = Space.of_config(Knobs, default={"loss": loss}, prefix="model.", **narrowed)
        assert (space.decode(row[: space.width])["model.temperature"] != 1.0) is searched
        again = space.restarted(space.default)
        assert again.decode(row[: space.width]) == space.decode(row[: space.width])


def test_a_condition_may_name_a_setting_of_a_section_below() -> None:
    class Inner(Config):
        kind: str = knob("b", "a kind")

    class Outer(Config):
        inner: Inner = knob(Inner(), "a section")
        beta: float = knob(2.0, "a beta", low=1, high=4, when={"inner.kind": ["b"]})

    space = Space.of_config(Outer, prefix="model.")
    assert space.decode(np.ones(1)) == {"model.beta": 4}
    assert Space.of_config(Outer, default={"inner": {"kind": "a"}}).decode(np.ones(1)) == {"beta": 2.0}


def test_a_condition_that_is_met_for_good_is_none() -> None:
    met, searched = Space.of_config(Knobs, fixed=["loss"]), Space.of_config(Knobs)
    assert not any(parameter.when for parameter in met.parameters)
    assert met.fixed == ()
    assert [p.name for p in searched.parameters if p.when] == ["temperature"]
    idle = Space.of_config(Knobs, fixed=["loss"], default={"loss": "bce"}, prefix="model.")
    assert [p.name for p in idle.parameters if p.when] == ["model.temperature"]
    assert idle.fixed == (("model.loss", "bce"),)


def test_a_condition_on_something_unknown_is_refused() -> None:
    child = Parameter("child", "float", 0.5, 0.0, 1.0, when=(("parent", ("a",)),))
    with pytest.raises(ConfigError, match=r"(?s)'parent', of which nothing is known"):
        Space((child,))


def test_limits_are_read_sign_by_sign() -> None:
    from recengine.cli.search_space import linear_limit

    assert linear_limit("-a.b + 2*c - d >= -3").coefficients == (("a.b", 1.0), ("c", -2.0), ("d", 1.0))
    for text in ("a b <= 5", "a + b 2*c <= 5", "a + <= 5", "a ++ b <= 5"):
        with pytest.raises(UsageError, match="cannot read the sum"):
            linear_limit(text)


def test_no_points_are_not_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"(?s)at least 1"):
        study(tmp_path / "s.db").ask_many(0)


def test_any_setting_becomes_a_knob_where_the_user_gives_it_a_range() -> None:
    from recengine.cli.search_space import search_space

    asked = ["model.init_std=0.01:0.5:log", "loss.sampler=uniform,popularity", "loss.shared=true,false"]
    space = search_space("mf", {}, None, [], [*asked, "loss.temperature=0.1:0.4:linear"], [], [])
    by_name = {p.name: p for p in space.parameters}
    assert (by_name["model.init_std"].low, by_name["model.init_std"].log) == (0.01, True)
    assert by_name["loss.sampler"].choices == ("uniform", "popularity")
    assert by_name["loss.shared"].choices == (True, False)
    assert (by_name["loss.temperature"].high, by_name["loss.temperature"].log) == (0.4, False)
    assert "training.learning_rate" in by_name  # what declares a range is searched as before


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("loss.sampler=uniform,populrity", "does not take this value"),
        ("loss.sampler=1:2", "has no order"),
        ("model.init_std=0:1", "does not take this value"),  # it is more than 0
        ("model.init_stt=0.1:1", "did you mean 'model.init_std'"),
        ("model.init_std=0.2:0.5:log", "default lies outside"),
        ("model.init_std=0.2:0.5:lag", "expected NAME=LOW:HIGH"),
    ],
)
def test_a_range_that_the_setting_cannot_take_is_refused(asked: str, said: str) -> None:
    from recengine.cli.search_space import search_space
    from recengine.errors import RecengineError

    with pytest.raises(RecengineError, match=said):
        search_space("mf", {}, None, [], [asked], [], [])


def test_the_knobs_are_those_of_the_loss_that_is_set() -> None:
    from recengine.cli.search_space import search_space

    psl = search_space("mf", {"loss": {"name": "psl", "activation": "tanh"}}, None, [], [], [], [])
    assert "loss.activation" in psl.names
    assert psl.default["loss.activation"] == "tanh"
    bpr = search_space("mf", {"loss": {"name": "bpr"}}, None, [], [], [], [])
    assert "loss.temperature" not in bpr.names


def test_a_penalty_that_is_off_by_default_can_be_searched() -> None:
    penalty = Parameter("l2", "float", 0.0, 1e-7, 1e-2, log=True, off=True)
    assert penalty.encode(0.0)[0] == 0.0
    assert penalty.decode(np.array([0.03])) == 0.0
    for value in (1e-7, 3e-5, 1e-2):
        assert penalty.decode(penalty.encode(value)) == pytest.approx(value)
        assert penalty.contains(value)
    assert penalty.contains(0)
    assert not penalty.contains(1e-9)
    with pytest.raises(ConfigError, match="only a logarithmic range"):
        Parameter("l2", "float", 0.0, 0.0, 1.0, off=True)


def test_every_model_and_loss_of_the_box_can_be_tuned() -> None:
    from recengine.cli.search_space import search_space
    from recengine.hooks import host

    with pytest.raises(ConfigError, match="nothing is left to tune"):  # it has no setting at all
        search_space("random", {}, None, [], [], [], [])
    for entry in host().registries["model"]:
        if entry.name == "random":
            continue
        space = search_space(entry.name, {}, None, [], [], [], [])
        assert space.allows(space.default)
        assert space.decode(space.encode(space.default)) == space.default
    for entry in host().registries["loss"]:
        config = entry.load_config()
        if config.search_space():
            assert Space.of_config(config).changed(Space.of_config(config).default) == ()


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        (lambda: Parameter("x", "float", 5.0, 0.0, 1.0), "outside the space"),
        (lambda: Parameter("x", "float", 0.5, 1.0, 0.0), "empty"),
        (lambda: Parameter("x", "float", 0.5, 0.0, 1.0, log=True), "positive"),
        (lambda: Parameter("x", "choice", "a"), "needs choices"),
        (lambda: Parameter("x", "float", 0.5, 0.0, 1.0, cost=0.0), r"(?s)cost something.*0.0"),
        (lambda: Parameter("x", "float", 0.5, 0.0, 1.0, cost=-1.0), "cost something"),
        (lambda: Parameter("x", "float", 0.5, 0.0, 1.0, cost=float("nan")), "cost something"),
        (lambda: Parameter("x", "float", 0.5, 0.0, 1.0, cost=float("inf")), "cost something"),
        (lambda: Parameter("x", "choice", "a", choices=("a", "a")), "twice"),
    ],
)
def test_impossible_parameters_are_refused(parameter: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parameter()


def test_impossible_spaces_are_refused() -> None:
    x = Parameter("x", "float", 0.5, 0.0, 1.0)
    with pytest.raises(ConfigError, match="share a name"):
        Space((x, x))
    with pytest.raises(ConfigError, match="default violates") as told:
        Space((x,), (LinearLimit((("x", 1.0),), 0.9), LinearLimit((("x", 2.0),), 0.2)))
    assert "2*x <= 0.2" in str(told.value)
    assert "1 at the default" in str(told.value)
    with pytest.raises(ConfigError, match="no numeric parameter"):
        Space((x,), (LinearLimit((("y", 1.0),), 0.2),))


@pytest.mark.parametrize("tuner", [RandomSearch, SobolSearch])
def test_limits_are_met_and_proposals_repeat(tuner: type, tmp_path: Path) -> None:
    x, y = (Parameter(name, "float", 0.1, 0.0, 1.0) for name in "xy")
    space = Space((x, y), (LinearLimit((("x", 1.0), ("y", 1.0)), 0.6),))
    first = tuner(SearchConfig(), space, 3).propose([], 20)
    assert all(point["x"] + point["y"] <= 0.6 + 1e-9 for point in first)
    assert first == tuner(SearchConfig(), space, 3).propose([], 20)
    assert first != tuner(SearchConfig(), space, 4).propose([], 20)


def test_default_comes_first_and_the_study_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    study(path).run(worth, 5)
    again = study(path)
    assert again.trials()[0].parameters == SPACE.default
    again.run(worth, 12)
    assert len(again.done()) == 12
    assert len({json.dumps(t.parameters, sort_keys=True) for t in again.trials()}) == 12
    assert again.best().values == max(t.values for t in again.done() if t.values)


@pytest.mark.parametrize("kind", [np.float32, np.int64, np.asarray, lambda value: torch.tensor(value)])
def test_numbers_of_numpy_and_torch_are_told_as_they_are(tmp_path: Path, kind: Any) -> None:
    made = study(tmp_path / "s.db")
    made.tell(made.ask(), kind(3.0))
    assert made.best().values == (3.0,)
    assert not made.report(made.ask(), 0, kind(2.0))
    assert made.trials()[1].reports == ((0, 2.0),)
    both = Study.open(tmp_path / "s.db", "two", SPACE, made.tuner, objectives=("a", "b"))
    both.tell(both.ask(), [kind(1.0), kind(2.0)])
    both.tell(both.ask(), torch.tensor([1.0, 2.0]))
    assert [trial.values for trial in both.trials()] == [(1.0, 2.0)] * 2


@pytest.mark.parametrize("value", [None, "3", {"ndcg": 0.3}, [None], np.ones((2, 2))])
def test_what_is_no_number_is_refused(tmp_path: Path, value: Any) -> None:
    made = study(tmp_path / "s.db")
    with pytest.raises(UsageError, match="this is no number"):
        made.tell(made.ask(), value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_report_that_is_not_finite_is_none(tmp_path: Path, value: float) -> None:
    made = study(tmp_path / "s.db")
    assert not made.report(made.ask(), 0, value)
    assert made.trials()[0].reports == ()


def test_choices_come_back_from_the_file_as_they_are(tmp_path: Path) -> None:
    layers = Parameter("layers", "choice", (64, 32), choices=((64, 32), (128, 64), (8,)))
    space = Space((layers, X))
    made = Study.open(tmp_path / "s.db", "s", space, RandomSearch(SearchConfig(), space, 0))
    made.run(lambda point, seed: float(point["layers"][0]), 8)
    points = [trial.parameters for trial in made.trials()]
    assert points.count(space.default) == 1
    assert {point["layers"] for point in points} == set(layers.choices)
    assert space.changed(made.best().parameters)


def test_choices_that_a_file_cannot_keep_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"(?s)cannot keep this choice.*int64"):
        Parameter("n", "choice", np.int64(8), choices=(np.int64(8), np.int64(16)))
    with pytest.raises(ConfigError, match="twice"):
        Parameter("n", "choice", (8,), choices=((8,), [8]))


def test_repeats_get_other_seeds(tmp_path: Path) -> None:
    made = study(tmp_path / "s.db")
    first = made.ask()
    made.tell(first, 1.0)
    again = made._begin(first.parameters, {})
    assert again.seed != first.seed


def test_bad_outcomes_are_kept_as_failed(tmp_path: Path) -> None:
    made = study(tmp_path / "s.db")
    trial = made.ask()
    made.tell(trial, float("nan"))
    assert made.trials()[0].state == "failed"
    assert "not finite" in made.trials()[0].note
    with pytest.raises(UsageError, match="cannot be told"):
        made.tell(trial, 1.0)
    with pytest.raises(UsageError, match="no trial has succeeded"):
        made.best()

    def broken(point: dict[str, Any], seed: int) -> float:
        raise RuntimeError("no memory")

    with pytest.raises(UsageError, match="all trials failed"):
        made.run(broken, 20)
    assert "no memory" in made.trials()[-1].note


def test_another_space_is_refused_and_can_warm_start(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    old = study(path)
    old.run(worth, 6)
    narrow = Space.of_config(Knobs, ranges={"rate": (1e-4, 1e-2)})
    with pytest.raises(UsageError, match="another search space"):
        study(path, narrow)
    new = Study.open(path, "narrow", narrow, RandomSearch(SearchConfig(), narrow, 0))
    copied = new.warm_start(StudyFile(path), "s")
    assert 1 <= copied <= 6
    assert new.warm_start(StudyFile(path), "s") == 0  # once
    with pytest.raises(UsageError, match="no study 'other'"):
        new.warm_start(StudyFile(path), "other")
    recall = Study.open(path, "recall", narrow, new.tuner, objectives=("recall",))
    with pytest.raises(UsageError, match="measured something else"):
        recall.warm_start(StudyFile(path), "s")
    assert all(1e-4 <= t.parameters["rate"] <= 1e-2 for t in new.trials())


def opened(path: Path, name: str, space: Space, **about: str) -> Study:
    return Study.open(path, name, space, RandomSearch(SearchConfig(), space, 0), about=about)


X, Y = Parameter("x", "float", 0.5, 0.0, 1.0), Parameter("y", "float", 0.1, 0.0, 1.0)


def slope(point: dict[str, Any], seed: int) -> float:
    return 10 * float(point.get("y", 0.1)) + float(point["x"])


def test_copied_trials_inform_the_tuner_and_count_for_nothing_else(tmp_path: Path) -> None:
    old, new = (opened(tmp_path / f"{name}.db", "s", Space((X, Y))) for name in "ab")
    old.run(slope, 10)
    assert new.warm_start(old.file, "s") == 10
    assert [seen.values for seen in new.history()] == [trial.values for trial in old.trials()]
    with pytest.raises(UsageError, match="no trial has succeeded"):
        new.best()
    measured: list[dict[str, Any]] = []
    new.run(lambda point, seed: measured.append(point) or 0.0, 3)  # type: ignore[func-returns-value]
    assert len(measured) == 3
    assert measured[0] == new.space.default
    assert new.best().values == (0.0,)


def test_only_trials_that_measured_a_point_of_this_space_are_copied(tmp_path: Path) -> None:
    both = opened(tmp_path / "a.db", "both", Space((X, Y)), epochs="5")
    both.run(slope, 6)
    at = both.trials()[3].parameters["y"]
    for number, about in ((0, {}), (0, {"y": "0.1"}), (3, {"y": str(at)})):
        part = opened(tmp_path / "b.db", f"part{about}", Space((X,)), **about)
        assert part.warm_start(both.file, "both") == 1
        assert part.trials()[0].parameters == {"x": both.trials()[number].parameters["x"]}
    for y, copied in (("0.1", 3), ("0.7", 0)):
        part = opened(tmp_path / "c.db", y, Space((X,)), y=y)
        part.run(slope, 3)
        whole = opened(tmp_path / "d.db", y, Space((X, Y)))
        assert whole.warm_start(part.file, y) == copied
        assert all(trial.parameters["y"] == 0.1 for trial in whole.trials())


def test_a_study_goes_on_when_conditions_are_added(tmp_path: Path) -> None:
    """They say what is tried next; what the trials measured stands."""
    without = Space(tuple(replace(parameter, when=()) for parameter in SPACE.parameters))
    old = study(tmp_path / "s.db", without)
    old.run(worth, 12)
    measured = [trial.parameters for trial in old.trials()]
    assert any(SPACE.settle(point) != point for point in measured)
    new = study(tmp_path / "s.db")
    new.run(worth, 24)
    points = [trial.parameters for trial in new.trials()]
    assert points[:12] == measured
    assert [SPACE.settle(point) for point in points[12:]] == points[12:]
    assert {point["loss"] for point in points[12:]} > {"softmax"}
    assert new.space.fingerprint() == "b5d6c3dbc887e10e"  # as in files from before conditions were left out


def test_warm_starts_from_another_question_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    one = opened(path, "one", Space((X,)), model="ease", data="abc")
    one.run(slope, 3)
    with pytest.raises(UsageError, match="from itself"):
        one.warm_start(StudyFile(path), "one")
    with pytest.raises(UsageError, match=r"(?s)something else.*model = ease.*model = mf"):
        opened(path, "two", Space((X, Y)), model="mf", data="abc").warm_start(one.file, "one")
    with pytest.raises(UsageError, match="nothing in common"):
        opened(path, "three", Space((Y,))).warm_start(one.file, "one")
    assert opened(path, "four", Space((X, Y)), model="ease").warm_start(one.file, "one") == 3


def test_other_data_behind_the_same_space_is_refused(tmp_path: Path) -> None:
    def opened(**about: str) -> Study:
        tuner = RandomSearch(SearchConfig(), SPACE, 0)
        return Study.open(tmp_path / "s.db", "s", SPACE, tuner, about=about)

    study(tmp_path / "s.db").run(worth, 2)  # without a word on what it measures, as of old
    opened(data="abc", epochs="5")
    opened(data="abc")
    opened(data="abc", epochs="5", added_later="1")
    with pytest.raises(UsageError, match=r"(?s)measured something else.*epochs = 5.*epochs = 6"):
        opened(data="abc", epochs="6")


def test_ctrl_c_forgets_the_running_trial(tmp_path: Path) -> None:
    made = study(tmp_path / "s.db")

    def impatient(point: dict[str, Any], seed: int) -> float:
        raise KeyboardInterrupt

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            made.run(impatient, 5)
    assert made.trials() == []
    with pytest.raises(KeyboardInterrupt), ThreadPoolExecutor(2) as pool:
        made.run(impatient, 5, executor=pool, workers=2)
    assert made.trials() == []
    made.run(worth, 2)
    assert made.done()[0].parameters == SPACE.default  # still the first to be measured


def test_what_a_dead_process_asked_for_is_given_up_at_once(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    study(path)
    code = (
        "import sys; from pathlib import Path; from recengine.tuning import StudyFile;"
        "StudyFile(Path(sys.argv[1])).begin('s', {}, 0, {})"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    made = study(path)
    made.ask()
    assert made.file.give_up("s", 3600.0) == []  # not this process's own
    assert [trial.state for trial in made.trials()] == ["lost", "running"]


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    wrong = tmp_path / "notes.db"
    wrong.write_text("not a database, but long enough to look like one " * 30)
    with pytest.raises(DataError, match="no usable study file"):
        StudyFile(wrong)
    with pytest.raises(DataError, match=r"(?s)cannot be opened.*see that it is a file"):
        StudyFile(tmp_path)


def test_several_workers_share_a_study(tmp_path: Path) -> None:
    made = study(tmp_path / "s.db")
    with ThreadPoolExecutor(3) as pool:
        made.run(worth, 15, executor=pool, workers=3)
    numbers = [trial.number for trial in made.trials()]
    assert numbers == list(range(15))


def process(point: dict[str, Any], seed: int) -> float:
    return float(os.getpid())


def test_several_workers_are_processes_by_default(tmp_path: Path) -> None:
    made = study(tmp_path / "s.db")
    made.run(process, 6, workers=2)
    ran_in = {trial.values[0] for trial in made.done() if trial.values}
    assert ran_in
    assert os.getpid() not in ran_in


def test_hopeless_trials_are_stopped(tmp_path: Path) -> None:
    made = study(tmp_path / "s.db")
    for _ in range(6):
        trial = made.ask()
        for step in range(4):
            assert not made.report(trial, step, 1.0) or step > 0
        made.tell(trial, 1.0)
    poor = made.ask()
    assert made.report(poor, 3, 0.0)
    made.stop(poor, 0.0)
    assert made.trials()[-1].state == "stopped"


class Curve:
    """Climbs by steps to -|x|; told step by step."""

    def __init__(self, steps: int = 8) -> None:
        self.steps = steps

    def __call__(self, point: dict[str, Any], seed: int) -> float:
        raise AssertionError("a watched objective is not called")

    def watched(self, point: dict[str, Any], seed: int, report: Any) -> float:
        for step in range(self.steps):
            report(step, self.worth(point) * (self.steps - step))
        return self.worth(point)

    @staticmethod
    def worth(point: dict[str, Any]) -> float:
        return -abs(np.log10(point["rate"]) + 2)


@pytest.mark.parametrize("kind", ["here", "by default", "threads", "processes"])
def test_a_watched_objective_ends_hopeless_trials_early(tmp_path: Path, kind: str) -> None:
    made = study(tmp_path / "s.db")
    told: list[int] = []
    pool = {"threads": ThreadPoolExecutor, "processes": ProcessPoolExecutor}.get(kind)
    executor = pool(2) if pool else None
    workers = 1 if kind == "here" else 2
    made.run(
        Curve(), 24, executor=executor, workers=workers, finished=lambda trial: told.append(trial.number)
    )
    if executor:
        executor.shutdown()
    trials = made.trials()
    assert sorted(told) == [trial.number for trial in trials] == list(range(24))
    stopped = [trial for trial in trials if trial.state == "stopped"]
    assert stopped
    assert all(len(trial.reports) < 8 for trial in stopped)
    assert {trial.state for trial in trials} == {"done", "stopped"}
    best = max(Curve.worth(trial.parameters) for trial in trials)
    assert Curve.worth(made.best().parameters) == best  # the best was let through
    history = [observation(trial) for trial in trials]
    assert all(len(seen.values) == 1 for seen in history)


def test_a_dask_cluster_runs_trials(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    made = study(tmp_path / "s.db")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        client.run(sys.path.append, str(Path(__file__).parent))
        made.run(Curve(), 12, executor=client.get_executor(), workers=2)
    assert [trial.number for trial in made.trials()] == list(range(12))
    assert {trial.state for trial in made.trials()} <= {"done", "stopped"}


def test_a_mistake_of_the_user_ends_the_study_and_its_trial(tmp_path: Path) -> None:
    made = study(tmp_path / "s.db")

    def mistaken(point: dict[str, Any], seed: int) -> float:
        raise UsageError("there is no such metric")

    with pytest.raises(UsageError, match="no such metric"):
        made.run(mistaken, 3)
    assert [(trial.state, trial.note) for trial in made.trials()] == [("failed", "there is no such metric")]


def test_a_killed_worker_loses_no_told_trial(tmp_path: Path) -> None:
    """SIGKILL at random moments: every trial that was told is still there, and the study goes on."""
    path = tmp_path / "s.db"
    code = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path\n"
        "from test_study import study, worth\n"
        "made = study(Path(sys.argv[1]))\n"
        "while True:\n"
        "    trial = made.ask(); made.tell(trial, worth(trial.parameters, 0))\n"
        "    print(trial.number, flush=True)\n"
    )
    told = -1
    for wait in (0.05, 0.11, 0.2):
        worker = subprocess.Popen(
            [sys.executable, "-c", code, str(path), str(Path(__file__).parent)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert worker.stdout is not None
        told = int(worker.stdout.readline())  # it is up and has told one
        time.sleep(wait)
        worker.send_signal(signal.SIGKILL)
        lines = worker.stdout.read().split()
        worker.wait()
        told = max([told, *(int(line) for line in lines)])
        made = study(path)
        assert told in {trial.number for trial in made.done()}
        assert [trial.number for trial in made.trials()][: told + 1] == list(range(told + 1))
    made.run(worth, len(made.ended()) + 2)


def killed_in_trial(path: Path, number: int) -> None:
    """A process that runs the study and is killed (SIGKILL) while it measures trial ``number``."""
    code = (
        "import os, signal, sys; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path\n"
        "from test_study import study, worth\n"
        "made = study(Path(sys.argv[1]))\n"
        "def deadly(point, seed):\n"
        "    if len(made.trials()) > int(sys.argv[3]):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return worth(point, seed)\n"
        "made.run(deadly, 10)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(path), str(Path(__file__).parent), str(number)])
    assert ran.returncode == -signal.SIGKILL


def test_a_run_that_was_killed_at_the_default_measures_it_when_it_goes_on(tmp_path: Path) -> None:
    killed_in_trial(tmp_path / "s.db", 0)
    made = study(tmp_path / "s.db")
    made.run(worth, 5)
    assert "running" not in {trial.state for trial in made.trials()}
    assert made.done()[0].parameters == SPACE.default


def test_a_disk_that_is_full_loses_no_trial(tmp_path: Path) -> None:
    """The change that does not fit is refused with a clear error; what was told stays; it goes on."""
    path = tmp_path / "s.db"
    study(path).run(worth, 3)
    code = (
        "import resource, signal, sys; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path\n"
        "from recengine.errors import DataError\n"
        "from test_study import study, worth\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "size = Path(sys.argv[1]).stat().st_size\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))\n"
        "made = study(Path(sys.argv[1]))\n"
        "try:\n"
        "    made.run(worth, 500)\n"
        "except DataError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert "the study file could not be written; nothing was lost but this change" in done.stdout
    assert "free some disk space" in done.stdout
    made = study(path)
    before = made.trials()
    assert sum(trial.state == "done" for trial in before) >= 3
    made.run(worth, len(made.ended()) + 2)
    assert [t.values for t in made.trials()][: len(before)] == [t.values for t in before]


def test_a_value_that_cannot_be_written_is_in_the_error_and_can_be_told_again(
    tmp_path: Path, monkeypatch: Any
) -> None:
    made = study(tmp_path / "s.db")

    def full(*told: Any) -> None:
        raise DataError("the study file could not be written", found="disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(StudyFile, "_finish", full)
        with pytest.raises(DataError, match=r"full; trial 0 done: 0\.987654"):
            made.run(lambda point, seed: 0.987654, 3)
    made.tell(made.trials()[0], 0.987654)
    assert made.best().values == (0.987654,)


def test_an_outcome_is_written_once_more_where_it_was_refused(tmp_path: Path, monkeypatch: Any) -> None:
    made = study(tmp_path / "s.db")
    write, refusals = StudyFile._finish, [DataError("no room")]

    def refusing(*told: Any) -> None:
        if refusals:
            raise refusals.pop()
        write(*told)

    monkeypatch.setattr(StudyFile, "_finish", refusing)
    made.tell(made.ask(), 1.0)
    assert made.best().values == (1.0,)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_fail_the_trial_and_not_the_study(tmp_path: Path, value: float) -> None:
    made = study(tmp_path / "s.db")
    outcomes = iter([1.0, value, 2.0])
    made.run(lambda point, seed: next(outcomes), 3)
    assert [trial.state for trial in made.trials()] == ["done", "failed", "done"]
    assert made.best().values == (2.0,)


def test_limits_that_nothing_else_meets_are_named(tmp_path: Path) -> None:
    x, y = (Parameter(name, "float", 0.0, 0.0, 1.0) for name in "xy")
    tight = Space((x, y), (LinearLimit((("x", 1.0), ("y", 1.0)), 0.0),))
    for tuner in (RandomSearch, SobolSearch):
        with pytest.raises(UsageError, match=r"(?s)linear limits.*loosen"):
            tuner(SearchConfig(most_draws=50), tight, 0).propose([], 1)


def test_a_trial_of_a_dead_worker_says_nothing_and_is_asked_for_again(tmp_path: Path) -> None:
    path, whole = tmp_path / "s.db", study(tmp_path / "whole.db")
    killed_in_trial(path, 2)
    made = study(path)
    made.run(worth, 6)
    whole.run(worth, 6)
    assert [trial.state for trial in made.trials()].count("lost") == 1
    assert len(made.ended()) == 6
    assert all(seen.feasible for seen in made.history())
    # it costs neither a trial nor another course
    kept = [(trial.parameters, trial.seed, trial.values) for trial in made.ended()]
    assert kept == [(trial.parameters, trial.seed, trial.values) for trial in whole.trials()]


def deadly_in_one(point: dict[str, Any], seed: int) -> float:
    if point != SPACE.default:
        os.kill(os.getpid(), signal.SIGKILL)
    return worth(point, seed)


def test_a_worker_that_is_killed_ends_the_run_with_what_to_do(tmp_path: Path) -> None:
    made = study(tmp_path / "s.db")
    made.run(worth, 1)
    with pytest.raises(RecengineError, match=r"(?s)a worker process died.*lost.*trials 1.*goes on"):
        made.run(deadly_in_one, 4, workers=2)
    assert {trial.state for trial in made.trials()} == {"done", "lost"}
    made.run(worth, 4)
    assert len(made.done()) == 4


def test_processes_that_share_a_study_share_its_trials(tmp_path: Path) -> None:
    made = study(tmp_path / "s.db")
    others = [made.ask(), made.ask()]
    with sqlite3.connect(tmp_path / "s.db") as db:
        db.execute("UPDATE asker SET process = ?", (os.getppid(),))
    for workers in (1, 2):
        with ThreadPoolExecutor(2) as pool:
            made.run(worth, 4 + workers, executor=pool if workers == 2 else None, workers=workers)
        assert len(made.ended()) == 2 + workers
    for trial in others:
        made.tell(trial, 0.0)
    assert len(made.ended()) == 6


def test_the_third_death_at_one_point_is_a_failure_of_the_point(tmp_path: Path) -> None:
    for _ in range(3):
        killed_in_trial(tmp_path / "s.db", 2)
    made = study(tmp_path / "s.db")
    assert made.ask().parameters != made.trials()[2].parameters
    assert [trial.state for trial in made.trials()] == [*["done"] * 2, *["lost"] * 2, "failed", "running"]
    assert "3 times at this point" in made.trials()[4].note


def test_a_trial_whose_process_lives_is_not_given_up_and_a_lost_one_can_be_told(tmp_path: Path) -> None:
    made = study(tmp_path / "s.db")
    trial = made.ask()
    assert made.file.give_up("s", -1.0) == []
    with sqlite3.connect(tmp_path / "s.db") as db:
        db.execute("UPDATE asker SET machine = 'elsewhere'")
    assert made.file.give_up("s") == []
    assert made.file.give_up("s", -1.0) == [0]  # of its process nothing is known but its silence
    assert made.trials()[0].state == "lost"
    made.tell(trial, 1.0)
    assert made.best().values == (1.0,)


def test_a_process_that_got_the_number_of_a_dead_one_is_another(tmp_path: Path) -> None:
    if not Path("/proc/self/stat").exists():
        pytest.skip("only Linux says when a process began")
    made = study(tmp_path / "s.db")
    made.ask()
    with sqlite3.connect(tmp_path / "s.db") as db:
        db.execute("UPDATE trial SET asked = asked - 1e6")
    assert made.file.give_up("s") == [0]


def test_trials_that_earlier_versions_gave_up_are_lost(tmp_path: Path) -> None:
    made = study(tmp_path / "s.db")
    made.fail(made.ask(), "its worker died")  # as they wrote it
    assert study(tmp_path / "s.db").trials()[0].state == "lost"


def test_the_default_is_tried_again_when_its_worker_died(tmp_path: Path) -> None:
    killed_in_trial(tmp_path / "s.db", 0)
    made = study(tmp_path / "s.db")
    again = made.ask()
    assert again.parameters == SPACE.default
    assert made.ask().parameters != SPACE.default  # it is under way
    made.fail(again, "it truly fails")
    assert made.ask().parameters != SPACE.default


def test_two_workers_that_ask_at_once_get_different_points(tmp_path: Path) -> None:
    """The second proposal is made with the first one pending, however they overlap."""
    path = tmp_path / "s.db"
    one, other = study(path), study(path)
    one.tell(one.ask(), 0.0)
    inner = one.tuner.propose
    met: list[Any] = []

    def slow(history: Any, n: int, pending: Any = ()) -> Any:
        found = inner(history, n, pending)
        if not met:
            met.append(other.ask())  # another worker is quicker
        return found

    one.tuner.propose = slow  # type: ignore[method-assign]
    assert one.ask().parameters != met[0].parameters


@pytest.mark.parametrize("workers", [1, 2])
def test_a_report_that_cannot_be_written_fails_no_trial(
    tmp_path: Path, monkeypatch: Any, workers: int
) -> None:
    made = study(tmp_path / "s.db")
    write, refusals = StudyFile.report, [0, 3, 4]

    def full(*told: Any) -> None:
        if told[3] in refusals:
            raise DataError("the study file could not be written", found="database or disk is full")
        write(*told)

    monkeypatch.setattr(StudyFile, "report", full)
    with ThreadPoolExecutor(workers) as pool:
        made.run(Curve(), 4, executor=pool if workers > 1 else None, workers=workers)
    assert {trial.state for trial in made.trials()} == {"done"}
    assert all(seen.feasible for seen in made.history())
    assert [step for step, _ in made.trials()[0].reports] == [1, 2, 5, 6, 7]


@pytest.mark.parametrize("workers", [1, 2])
def test_after_the_objective_was_mended_the_default_is_measured_and_the_failures_say_nothing(
    tmp_path: Path, workers: int
) -> None:
    with ThreadPoolExecutor(workers) as pool:
        executor = pool if workers > 1 else None
        made = study(tmp_path / "s.db")
        with pytest.raises(UsageError, match=r"(?s)all trials failed.*division"):
            made.run(lambda point, seed: 1 / 0, 20, executor=executor, workers=workers)
        assert made.history() == []
        assert "division" in made.trials()[0].note
        with pytest.raises(UsageError, match=r"(?s)no trial has succeeded.*[56] failed"):
            made.best()
        made = study(tmp_path / "s.db")
        made.run(worth, 6, executor=executor, workers=workers)
    assert len(made.done()) == 6
    assert made.done()[0].parameters == SPACE.default
    assert all(seen.feasible for seen in made.history())
    assert made.done()[0].seed == made.trials()[0].seed  # what counts for nothing takes no seed, either


def test_parameters_are_settled_whatever_their_order() -> None:
    """c depends on b, b on a: with a off, all three are at their default, also where c is listed first."""
    a = Parameter("a", "choice", "no", choices=("no", "yes"))
    b = Parameter("b", "choice", "off", choices=("off", "on"), when=(("a", ("yes",)),))
    c = Parameter("c", "float", 0.5, 0.0, 1.0, when=(("b", ("on",)),))
    d = Parameter("d", "float", 0.5, 0.0, 1.0, when=(("b", ("off",)),))
    for order in ((a, b, c, d), (d, c, b, a), (c, a, d, b)):
        where = Space(order)
        point = {"a": "no", "b": "on", "c": 0.9, "d": 0.8}
        assert where.settle(point) == {"a": "no", "b": "off", "c": 0.5, "d": 0.8}
        assert where.settle(where.settle(point)) == where.settle(point)


def test_an_integer_range_with_fractional_ends_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"(?s)must be integers.*\[0\.5, 3\.5\].*\[1, 3\]"):
        Parameter("n", "int", 2, 0.5, 3.5)
    assert Parameter("n", "int", 2, 1.0, 3.0).decode(np.array([0.0])) == 1


def test_equalities_are_refused_and_repeated_terms_are_added_up() -> None:
    x, y = (Parameter(name, "float", 0.4, 0.0, 1.0) for name in "xy")
    below = LinearLimit((("x", 1.0), ("y", 2.0)), 1.2)
    with pytest.raises(ConfigError, match=r"(?s)an equality.*x \+ 2\*y <= 1\.2.*compute it from the others"):
        Space((x, y), (below, LinearLimit((("y", -4.0), ("x", -1.0), ("x", -1.0)), -2.4)))
    Space((x, y), (below, LinearLimit((("x", -1.0), ("y", -2.0)), -1.1)))  # there is room between
    assert LinearLimit((("x", 1.0), ("y", 1.0), ("x", 1.0), ("y", -1.0)), 1.4).factors == {"x": 2.0}
    for number in (float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="finite"):
            LinearLimit((("x", number),), 1.0)
        with pytest.raises(ConfigError, match="finite"):
            LinearLimit((("x", 1.0),), number)


class Stubborn:
    """Proposes one point, whatever is known."""

    def __init__(self, **point: Any) -> None:
        self.point = point

    def propose(self, history: Any, n: int, pending: Any = ()) -> list[dict[str, Any]]:
        return [dict(self.point) for _ in range(n)]


def test_a_proposal_that_breaks_a_limit_is_refused(tmp_path: Path) -> None:
    where = Space((X,), (LinearLimit((("x", 1.0),), 0.6),))
    made = Study.open(tmp_path / "s.db", "s", where, Stubborn(x=0.9))
    made.ask()
    with pytest.raises(ConfigError, match=r"(?s)proposal of the tuner: a linear limit.*0\.9.*x <= 0\.6"):
        made.ask()


def test_proposals_with_numbers_of_numpy_are_kept_as_numbers(tmp_path: Path) -> None:
    where = Space((X, Parameter("n", "int", 1, 0, 9)))
    facts = {
        "gain": np.float32(0.5),
        "losses": {"x": np.array([1.0, 2.0])},
        "at": (np.int64(3), torch.ones(2)),
    }
    tuner = Stubborn(x=np.float32(0.25), n=np.int64(3), __facts__=facts)
    made = Study.open(tmp_path / "s.db", "s", where, tuner)
    made.ask()
    trial = made.ask()
    assert trial.parameters == {"x": 0.25, "n": 3}
    assert type(trial.parameters["n"]) is int
    assert made.trials()[1].facts == {"gain": 0.5, "losses": {"x": [1.0, 2.0]}, "at": [3, [1.0, 1.0]]}
    tuner.point["__facts__"] = {"model": object()}
    with pytest.raises(UsageError, match=r"(?s)cannot keep this.*object"):
        made.ask()


def test_zero_and_zero_point_nothing_are_one_end_of_a_range(tmp_path: Path) -> None:
    floats = Space((Parameter("x", "float", 0.5, 0.0, 1.0), Parameter("n", "int", 3, 1.0, 9.0)))
    whole = Space((Parameter("x", "float", 0.5, 0, 1), Parameter("n", "int", 3, 1, 9)))
    assert floats.fingerprint() == whole.fingerprint()
    study(tmp_path / "s.db", whole).run(lambda point, seed: 1.0, 2)
    assert len(study(tmp_path / "s.db", floats).done()) == 2
    with sqlite3.connect(tmp_path / "s.db") as db:  # as earlier versions wrote it
        db.execute("UPDATE study SET fingerprint = ?", (whole.former_fingerprint,))
    assert len(study(tmp_path / "s.db", whole).done()) == 2


@pytest.mark.parametrize(
    ("parameters", "limits", "said"),
    [
        (
            ("float", 0.5, 0.0, 2.0),
            (),
            r"found: 'x', float of 0\.0 to 1\.0\n.*expected: 'x', float of 0\.0 to 2\.0",
        ),
        (("float", 0.5, 0.1, 1.0, True), (), r"expected: 'x', float of 0\.1 to 1\.0, logarithmic"),
        (("int", 1, 0, 1), (), r"expected: 'x', int of 0\.0 to 1\.0"),
        (("choice", "a", 0, 0, False, ("a", "b")), (), r"expected: 'x', a choice of \['a', 'b'\]"),
        (("float", 0.5, 0.0, 1.0), ((("x", 1.0),), 0.7), r"'x' in no limit.*'x' within x <= 0\.7"),
    ],
)
def test_what_differs_in_another_space_is_named(
    tmp_path: Path, parameters: Any, limits: Any, said: str
) -> None:
    study(tmp_path / "s.db", Space((X,)))
    other = Space((Parameter("x", *parameters),), (LinearLimit(*limits),) if limits else ())
    with pytest.raises(UsageError, match=r"(?s)another search space.*" + said):
        study(tmp_path / "s.db", other)


def test_more_or_fewer_parameters_and_files_of_earlier_versions_are_named_too(tmp_path: Path) -> None:
    study(tmp_path / "s.db", Space((X,)))
    with pytest.raises(UsageError, match=r"(?s)no parameter 'y'.*'y', float of 0\.0 to 1\.0"):
        study(tmp_path / "s.db", Space((X, Y)))
    old = {"x": {"kind": "float", "default": 0.5, "low": 0, "high": 1}}  # no scale, no limits
    with sqlite3.connect(tmp_path / "s.db") as db:
        db.execute("UPDATE study SET space = ?", (json.dumps(old),))
    with pytest.raises(UsageError, match=r"(?s)another search space.*limits"):
        study(tmp_path / "s.db", Space((X,), (LinearLimit((("x", 1.0),), 0.7),)))


def test_other_objectives_are_named(tmp_path: Path) -> None:
    made = study(tmp_path / "s.db")
    with pytest.raises(UsageError, match=r"(?s)measures something else.*found: value.*expected: recall"):
        Study.open(tmp_path / "s.db", "s", SPACE, made.tuner, objectives=("recall",))
