"""Putting the best point's idle changes back, and what measurements say about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("botorch")

from recengine.contracts.tuner import Observation
from recengine.errors import UsageError
from recengine.tuning import Parameter, Space, Study
from recengine_plugins.bonsai.config import BonsaiConfig
from recengine_plugins.bonsai.final import importance, recommend
from recengine_plugins.bonsai.incumbent import prune_incumbent
from recengine_plugins.bonsai.knowledge import Knowledge, raised
from recengine_plugins.bonsai.limits import Limits
from recengine_plugins.bonsai.policy import Bonsai

CONFIG = BonsaiConfig(initial=5, restarts=2, raw_samples=32)


def space(d: int) -> Space:
    return Space(tuple(Parameter(f"x{j}", "float", 0.5, 0.0, 1.0) for j in range(d)))


def worth(point: Mapping[str, Any]) -> float:
    """Two of the parameters matter."""
    return -((point["x0"] - 0.9) ** 2) - (point["x1"] - 0.1) ** 2


def history_of(where: Space, n: int, seed: int = 0) -> list[Observation]:
    rows = np.random.default_rng(seed).random((n, where.width))
    points = [where.default, *(where.decode(row) for row in rows)]
    points.append({**points[1], "x0": 0.9, "x1": 0.1})  # dense, and the best
    return [Observation(point, (worth(point),)) for point in points]


def test_idle_changes_of_the_best_point_go_back() -> None:
    where = space(12)
    history = history_of(where, 30)
    found = recommend(where, history, CONFIG)
    assert len(where.changed(found.incumbent)) == 12
    assert set(where.changed(found.recommended)) == {"x0", "x1"}
    assert worth(found.recommended) == pytest.approx(worth(found.incumbent))


def test_a_measurement_overrules_the_model() -> None:
    """The point that the model recommends was measured and is much worse: half of its steps are taken."""
    where = space(12)
    history = history_of(where, 30)
    known = Knowledge.of(where, history, CONFIG)
    trusting = prune_incumbent(where, known, Limits(where), 0.01, 0.9)
    assert trusting.kept == 10
    bad = where.decode(trusting.x.numpy())
    again = replace(
        known,
        X=torch.cat([known.X, trusting.x[None]]),
        Y=torch.cat([known.Y, known.Y.min()[None, None]]),
        own=torch.ones(len(known.X) + 1, dtype=torch.bool),
    )
    careful = prune_incumbent(where, again, Limits(where), 0.01, 0.9)
    assert careful.doubted
    assert careful.kept == 5
    assert set(where.changed(bad)) < set(where.changed(where.decode(careful.x.numpy())))


def test_what_was_measured_between_others_does_not_count() -> None:
    """A bad point that put back what matters says nothing about the changes that do not."""
    where = space(12)
    history = history_of(where, 30)
    best = dict(history[-1].parameters)
    unrelated = {**best, "x0": 0.5, "x1": 0.5}
    known = Knowledge.of(where, [*history, Observation(unrelated, (worth(unrelated),))], CONFIG)
    found = prune_incumbent(where, known, Limits(where), 0.01, 0.9)
    assert not found.doubted
    assert found.kept == 10


def test_importance_is_a_share_and_finds_what_matters() -> None:
    where = space(12)
    history = history_of(where, 30)
    known = Knowledge.of(where, history, CONFIG)
    shares = importance(where, known.model, known.top(1)[0])
    assert sum(shares.values()) == pytest.approx(1.0)
    assert set(sorted(shares, key=lambda name: -shares[name])[:2]) == {"x0", "x1"}
    table = recommend(where, history, CONFIG).reversions
    assert all(0 < row.importance <= 1 for row in table if row.importance is not None)


def test_hopeless_values_are_raised_to_the_fence_and_no_others() -> None:
    Y = torch.tensor([[0.0], [1.0], [2.0], [3.0], [4.0], [-1000.0]])
    fenced = raised(Y)
    assert fenced[:5].tolist() == Y[:5].tolist()
    low, high = np.quantile(Y.numpy(), [0.25, 0.75])
    assert float(fenced[5]) == pytest.approx(low - 1.5 * (high - low))


@pytest.mark.parametrize("spread", [0.02, 0.3])
def test_noise_is_estimated_from_repeats(spread: float) -> None:
    """One point measured eight times: the surrogate's noise is the spread of the repeats."""
    where = space(12)
    generator = np.random.default_rng(1)
    points = [where.default] * 8 + [o.parameters for o in history_of(where, 16)]
    history = [Observation(p, (worth(p) + spread * generator.standard_normal(),)) for p in points]
    known = Knowledge.of(where, history, CONFIG)
    scale = float(known.model.outcome_transform.stdvs[0])
    noise = float((known.model.likelihood.noise.detach().mean() ** 0.5) * scale)
    assert 0.3 * spread < noise < 3 * spread


@pytest.mark.parametrize(("d", "expected"), [(1, 4), (4, 6), (30, 10)])
def test_the_design_is_as_large_as_the_space_asks_for(d: int, expected: int) -> None:
    assert Bonsai(BonsaiConfig(), space(d), 0).initial == expected
    assert Bonsai(BonsaiConfig(initial=7), space(d), 0).initial == 7


def test_a_search_tries_the_sparser_incumbent() -> None:
    """The exploring proposal is the dense best point without its idle changes."""
    where = space(12)
    history = history_of(where, 30)
    at = len(history)
    tuner = Bonsai(CONFIG.model_copy(update={"dense_every": at + 1}), where, 0)
    point = tuner.propose(history, 1)[0]
    assert point.pop("__facts__")["origin"] == "incumbent"
    assert set(where.changed(point)) == {"x0", "x1"}
    assert worth(point) == pytest.approx(worth(history[-1].parameters))


def test_what_another_study_measured_is_no_incumbent(tmp_path: Path) -> None:
    """The copied values are higher (another day's scale): what is recommended was measured here all the same,
    or will be."""
    where = space(3)
    tuner = Bonsai(CONFIG.model_copy(update={"initial": 4, "restarts": 2, "raw_samples": 32}), where, 0)

    def studied(name: str, level: float, trials: int, warm: Study | None = None) -> Study:
        made = Study.open(tmp_path / name, "s", where, tuner)
        if warm is not None:
            assert made.warm_start(warm.file, "s") == len(warm.done())
        made.run(lambda point, seed: level + worth(point), trials)
        return made

    old = studied("old.db", 50.0, 8)
    new = studied("new.db", 0.0, 3, old)
    assert [seen.copied for seen in new.history()] == [True] * 8 + [False] * 3
    found = tuner.conclude(new.history())
    assert found.incumbent == new.best().parameters
    own = [trial.parameters for trial in new.done()]
    assert found.frontier[-1].parameters in own
    assert all(point.observed is None or point.observed <= 0 for point in found.frontier)
    with pytest.raises(UsageError, match="copied from another study"):
        tuner.conclude([seen for seen in new.history() if seen.copied])
    known = Knowledge.of(where, new.history(), CONFIG)
    assert known.defaults == 1
    assert float(known.Y.max()) > 40.0 > float(known.values.max())  # the models know both
