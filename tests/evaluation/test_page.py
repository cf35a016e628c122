"""The page on evaluation: its example runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "evaluation.md"


def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), {})
    assert "protocol: test, full ranking" in capsys.readouterr().out


def test_every_metric_is_on_the_page() -> None:
    from recengine.evaluation import built_in_metrics

    text = PAGE.read_text()
    assert [name for name in built_in_metrics() if f"| `{name}` |" not in text] == []
