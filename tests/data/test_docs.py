"""The code of docs/data.md runs, from top to bottom."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from recengine.data import SplitConfig
from recengine.data.reading import built_in

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text(encoding="utf-8")


def test_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)
    assert len(blocks) >= 6
    exec(compile("\n".join(blocks), "docs/data.md", "exec"), {})
    said = capsys.readouterr().out
    assert "guessed" in said
    assert "tie order" in said


@pytest.mark.parametrize("reader", built_in(), ids=lambda reader: reader.name)
def test_every_layout_is_on_the_page(reader):
    assert f"| `{reader.name}` |" in PAGE


def test_every_strategy_is_on_the_page():
    for strategy in SplitConfig.model_fields["strategy"].annotation.__args__:
        assert f"`{strategy}`" in PAGE
