"""What tables look like where there is room, and where there is not."""

from __future__ import annotations

import re

import pytest

from recengine.cli import output

COLUMNS = [
    "metric",
    "difference of",
    "mean",
    "95 %",
    "relative",
    "p adjusted",
    "effect",
    "detectable",
    "note",
]
ROW = ["hr@10", "ease - sasrec", 0.1533, "[+0.0816, +0.2251]", "+79.3 %", 4.19e-05, 0.34, None, None]


def test_numbers_are_whole_in_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    monkeypatch.setenv("COLUMNS", "80")
    output.table(COLUMNS, [ROW], title="a title that is longer than the table would be wide")
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    for cell in ("difference of: ease - sasrec", "[+0.0816, +0.2251]", "p adjusted: 4.19e-05"):
        assert cell in printed
    assert "detectable" not in printed  # nothing to say there


def test_prose_is_folded_and_names_are_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    monkeypatch.setenv("COLUMNS", "60")
    output.table(["name", "summary"], [["tokenmixer_large_moe", "one word after another, " * 8]])
    printed = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert max(map(len, printed.splitlines())) <= 60
    assert printed.count("tokenmixer_large_moe") == 1


def test_a_pipe_gets_the_whole_width(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(COLUMNS, [ROW, ROW], title="title")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "title"
    assert sum("ease - sasrec" in line and "4.19e-05" in line for line in lines) == 2


def test_small_fractions_are_short() -> None:
    assert output.shown(0.00058779312) == "0.0005878"
    assert output.shown(float("nan")) == ""
