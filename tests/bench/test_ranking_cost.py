"""The cost benchmark of TokenMixer-Large measures models of the sizes that its claims name."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from recengine.contracts.model import DataFacts
from recengine.data.clicks import prepare
from recengine.hooks import host
from recengine.training import resolve
from recengine.training.build import build_model
from recengine_plugins.tokenmixer_large.config import PRESETS

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench" / "ranking"))

import bench_cost


def test_what_is_exported_is_the_preset_1m() -> None:
    model = bench_cost.sparse_ranker(quick=False)
    assert model.tokens.tokens == PRESETS["1m"]["tokens"]
    assert sum(p.numel() for p in model.blocks.parameters()) == pytest.approx(1.2e6, rel=0.01)
    assert model.predict(bench_cost.many_rows(3)).shape == (3,)


def test_the_log_of_the_bf16_figure_has_features_for_the_preset_100k() -> None:
    split = prepare(bench_cost.planted_wide(300))
    config = resolve("tokenmixer_large", {"model": {"preset": "100k"}}, host())
    model = build_model("tokenmixer_large", config, DataFacts(0, 0, split.extras()), 0, host())
    assert model.tokens.tokens == PRESETS["100k"]["tokens"]
    assert sum(p.numel() for p in model.blocks.parameters()) == pytest.approx(1e5, rel=0.02)
