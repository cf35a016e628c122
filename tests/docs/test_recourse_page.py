"""The rules on the page about recourse are valid."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from recengine.recourse.constraints import ConstraintFile

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "recourse.md").read_text()


def test_the_rules_of_the_page_are_valid() -> None:
    [rules] = re.findall(r"```toml\n(.*?)```", PAGE, flags=re.DOTALL)
    ConstraintFile.parse(tomllib.loads(rules))
