"""No page or model card says the same line over and over, as a substitution gone wrong makes it."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CARDS = (ROOT / "plugins" / "recengine_plugins").glob("*/MODEL_CARD.md")
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *CARDS])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_longer_line_stands_three_times(page: Path) -> None:
    prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    lines = Counter(line.strip() for line in prose.splitlines() if not line.startswith("|"))
    assert [line for line, times in lines.items() if len(line) >= 20 and times >= 3] == []
