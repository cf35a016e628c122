"""The code of docs/clicks.md runs, and the page names every metric and model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from recengine.evaluation.clicks import DEFINITIONS
from recengine.hooks import host

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "clicks.md").read_text(encoding="utf-8")


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)
    exec(compile("\n".join(blocks), "docs/clicks.md", "exec"), {})
    assert (tmp_path / "ranker.pt2").is_file()


def test_every_metric_and_model_is_on_the_page() -> None:
    models = [entry.name for entry in host().registries["model"] if entry.extras.get("task") == "clicks"]
    assert len(models) == 10
    assert [name for name in [*DEFINITIONS, *models] if f"`{name}`" not in PAGE] == []
