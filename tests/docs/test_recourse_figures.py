"""The measured table of the recourse page is that of the results."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]


def page_table() -> ModuleType:
    file = ROOT / "bench" / "recourse" / "page_table.py"
    spec = importlib.util.spec_from_file_location("recourse_page_table", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["recourse_page_table"] = module
    spec.loader.exec_module(module)
    return module


def test_the_table_of_the_page_is_that_of_the_results() -> None:
    module = page_table()
    page = module.PAGE.read_text()
    inside = page.partition(module.BEGIN)[2].partition(module.END)[0]
    assert inside.strip() == module.table().strip(), "run: python bench/recourse/page_table.py"
