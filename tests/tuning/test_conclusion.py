"""Confirming a recommendation, repeats of the default and their noise, settings that a study keeps to."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recengine.contracts.tuner import Conclusion, FrontierPoint, Observation
from recengine.errors import UsageError
from recengine.tuning import Parameter, Space, Study, StudyFile, conclude, noise

X, Y = Parameter("x", "float", 0.5, 0.0, 1.0), Parameter("y", "float", 0.5, 0.0, 1.0)
SPACE = Space((X, Y))


class Halving:
    """Proposes random points; recommends the best one with y halfway back to the default."""

    def __init__(self, refuses: str = "") -> None:
        self.refuses = refuses

    def propose(
        self, history: Sequence[Observation], n: int, pending: Sequence[Mapping[str, Any]] = ()
    ) -> list[dict[str, Any]]:
        rng = np.random.default_rng([len(history), len(pending)])
        return [SPACE.decode(rng.random(2)) for _ in range(n)]

    def conclude(self, history: Sequence[Observation]) -> Conclusion:
        if self.refuses:
            raise UsageError(self.refuses)
        best = max((seen for seen in history if seen.feasible and seen.values), key=lambda seen: seen.values)
        here = dict(best.parameters)
        there = {"x": here["x"], "y": 0.5 + (here["y"] - 0.5) / 2}
        frontier = [FrontierPoint(2, here, best.values[0], 0.1, best.values[0])]
        return Conclusion(here, there, frontier, [])


def study(path: Path, tuner: Any = None, **told: Any) -> Study:
    return Study.open(path, "s", SPACE, tuner or Halving(), **told)


def worth(point: dict[str, Any], seed: int) -> float:
    """A y nearer to the default is better, so each confirmation is the new best."""
    return -abs(point["x"] - 0.9) - abs(point["y"] - 0.5)


def test_confirmations_are_trials_of_their_own_kind_and_do_not_count_for_the_search(tmp_path: Path) -> None:
    made = study(tmp_path / "s.db")
    made.run(worth, 6)
    before = made.best().parameters
    told: list[int] = []
    found = conclude(made, worth, confirmations=2, finished=lambda trial: told.append(trial.number))
    assert told == [6, 7]
    spent = made.confirmations()
    assert [trial.number for trial in spent] == told
    assert all(trial.confirmation and trial.state == "done" for trial in spent)
    assert spent[0].parameters == {"x": before["x"], "y": 0.5 + (before["y"] - 0.5) / 2}
    # both are spent and what is recommended then was not measured: the best measured point
    assert found.recommended == spent[1].parameters == made.best().parameters
    assert found.conclusion is not None
    assert len(made.searched()) == 6
    assert len(made.ended()) == len(made.history()) == 8
    again = study(tmp_path / "s.db")
    again.run(worth, 6)  # nothing is left to do
    assert conclude(again, worth).recommended == found.recommended
    assert len(again.ended()) == 8
    again.run(worth, 8)  # a longer search has confirmations of its own
    conclude(again, worth)
    assert [trial.confirmation for trial in again.ended()] == [False] * 6 + [True] * 2 + [False] * 2 + [
        True
    ] * 2


def test_without_confirmations_nothing_is_measured(tmp_path: Path) -> None:
    made = study(tmp_path / "s.db")
    with pytest.raises(UsageError, match="no trial has succeeded"):
        conclude(made, worth)
    made.run(worth, 4)
    for found in (conclude(made, worth, confirmations=0), conclude(made)):
        assert found.recommended["y"] == 0.5 + (made.best().parameters["y"] - 0.5) / 2
    assert len(made.ended()) == 4


def test_a_failed_confirmation_is_not_recommended(tmp_path: Path) -> None:
    made = study(tmp_path / "s.db")
    made.run(lambda point, seed: point["x"] + (point != SPACE.default), 4)
    best = made.best().parameters

    def broken(point: dict[str, Any], seed: int) -> float:
        raise RuntimeError("no memory")

    with ThreadPoolExecutor(1) as pool:
        assert conclude(made, broken, executor=pool).recommended == best
    assert [trial.state for trial in made.confirmations()] == ["failed"]
    assert made.confirmations()[0].note == "RuntimeError: no memory"


def test_a_recommendation_that_another_process_measures_is_left_to_it(tmp_path: Path) -> None:
    made = study(tmp_path / "s.db")
    made.run(worth, 4)
    under_way = made.confirm(made.tuner.conclude(made.history()).recommended)  # type: ignore[attr-defined]
    assert conclude(made, worth).recommended == made.best().parameters
    made.tell(under_way, 1.0)
    assert made.best().values == (1.0,)
    assert made.file.elsewhere("s") == 0


def test_tuners_that_do_not_or_cannot_conclude_recommend_the_best_trial(tmp_path: Path) -> None:
    class Silent:
        propose = Halving.propose

    for name, tuner in (("a", Silent()), ("b", Halving("too few points"))):
        made = study(tmp_path / f"{name}.db", tuner)
        made.run(worth, 4)
        found = conclude(made, worth)
        assert (found.recommended, found.conclusion) == (made.best().parameters, None)
        assert len(made.ended()) == 4
    assert found.reason == "too few points"


def test_a_confirmation_that_is_killed_is_measured_when_it_goes_on(tmp_path: Path) -> None:
    path, whole = tmp_path / "s.db", study(tmp_path / "whole.db")
    code = (
        "import os, signal, sys; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path\n"
        "from test_conclusion import conclude, study, worth\n"
        "made = study(Path(sys.argv[1]))\n"
        "made.run(worth, 6)\n"
        "def deadly(point, seed):\n"
        "    if len(made.confirmations()) == 1:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return worth(point, seed)\n"
        "conclude(made, deadly)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(path), str(Path(__file__).parent)])
    assert ran.returncode == -signal.SIGKILL
    made = study(path)
    assert [trial.state for trial in made.trials()] == [*["done"] * 7, "running"]
    found = conclude(made, worth)
    whole.run(worth, 6)
    assert found == conclude(whole, worth)
    kept = [(trial.parameters, trial.seed, trial.values) for trial in made.ended()]
    assert kept == [(trial.parameters, trial.seed, trial.values) for trial in whole.ended()]
    assert [trial.state for trial in made.trials()].count("lost") == 1


# --- repeats of the default ------------------------------------------------------------------------


def noisy(point: dict[str, Any], seed: int) -> float:
    here = [int(1e6 * value) for value in point.values()]
    return worth(point, seed) + 0.3 * float(np.random.default_rng([seed, *here]).normal())


@pytest.mark.parametrize("workers", [1, 2])
def test_the_default_is_repeated_under_seeds_of_its_own(tmp_path: Path, workers: int) -> None:
    made = study(tmp_path / "s.db", default_repeats=3)
    with ThreadPoolExecutor(workers) as pool:
        made.run(noisy, 6, executor=pool if workers > 1 else None, workers=workers)
    points = [trial.parameters for trial in made.trials()]
    assert points[:3] == [SPACE.default] * 3
    assert SPACE.default not in points[3:]
    assert len({trial.seed for trial in made.trials()[:3]}) == 3
    assert len({trial.values for trial in made.trials()[:3]}) == 3
    once = study(tmp_path / "once.db")
    once.run(noisy, 3)
    assert [trial.parameters for trial in once.trials()].count(SPACE.default) == 1
    assert noise(once.history()) is None
    with pytest.raises(UsageError, match="at least once"):
        study(tmp_path / "none.db", default_repeats=0)


def test_noise_is_pooled_within_points() -> None:
    """Two points, values 1 3 and 0 2 4: squares 2 and 8 about their means, 3 degrees of freedom."""
    seen = [Observation({"x": 1.0}, (value,)) for value in (1.0, 3.0)]
    seen += [Observation({"x": 2.0}, (value,)) for value in (0.0, 2.0, 4.0)]
    seen += [Observation({"x": 3.0}, (9.0,)), Observation({"x": 2.0}, (), feasible=False)]
    found = noise([*seen, Observation({"x": 3.0}, (0.0,), copied=True)])
    assert found is not None
    assert found.sd == pytest.approx((10 / 3) ** 0.5)
    assert found.freedom == 3


def test_the_noise_that_repeats_show_is_the_noise_that_was_planted(tmp_path: Path) -> None:
    """sd 0.3, twelve measurements of the default: both the pooled estimate and the model's lie near it."""
    pytest.importorskip("botorch")
    from recengine_plugins.bonsai.config import BonsaiConfig
    from recengine_plugins.bonsai.knowledge import Knowledge
    from recengine_plugins.bonsai.policy import Bonsai

    config = BonsaiConfig(initial=6, restarts=2, raw_samples=32)
    made = study(tmp_path / "s.db", Bonsai(config, SPACE, 0), default_repeats=12)
    made.run(noisy, 18)
    found = noise(made.history())
    assert found is not None
    assert found.freedom >= 11
    assert 0.15 <= found.sd <= 0.5
    for surrogate in ("gp", "map_saas"):
        known = Knowledge.of(SPACE, made.history(), config.model_copy(update={"surrogate": surrogate}))
        share = known.model.likelihood.noise.detach().mean()
        sd = float((share * known.model.outcome_transform.stdvs.flatten()[0] ** 2).sqrt())
        assert 0.15 <= sd <= 0.5, surrogate
    # the repeats cost the design none of its points
    origins = [trial.facts["origin"] for trial in made.trials()]
    assert origins[:12] == ["default"] * 12
    assert origins[12:17] == ["design"] * 5
    whole = study(tmp_path / "whole.db", Bonsai(config, SPACE, 0))
    whole.run(noisy, 6)
    assert [t.parameters for t in made.trials()[12:17]] == [t.parameters for t in whole.trials()[1:]]


# --- settings ---------------------------------------------------------------------------------------


def test_a_study_keeps_to_the_settings_that_it_was_begun_with(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    study(path, settings={"tuner a": {"rho": "0.1"}}, default_repeats=2)
    study(
        path, settings={"tuner a": {"rho": "0.1"}, "tuner b": {}}, default_repeats=2
    )  # another tuner goes on
    for settings, said in (
        ({"rho": "0.3"}, r"its tuner a.*found: rho = 0\.1.*expected: rho = 0\.3"),
        ({}, r"found: rho = 0\.1.*expected: rho = its default"),
        ({"rho": "0.1", "reach": "1"}, r"found: reach = its default.*expected: reach = 1"),
    ):
        with pytest.raises(UsageError, match="(?s)" + said):
            study(path, settings={"tuner a": settings}, default_repeats=2)
    with pytest.raises(UsageError, match=r"(?s)its search.*default_repeats = 2"):
        study(path, settings={"tuner a": {"rho": "0.1"}})
    assert StudyFile(path).studies() == ["s"]
