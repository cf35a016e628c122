"""The tables of the evidence page are those of the results files."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("evidence_docs", ROOT / "bench" / "evidence" / "docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_holds_the_tables_of_the_results(docs: ModuleType) -> None:
    page = (ROOT / "docs" / "evidence.md").read_text("utf-8")
    for name, text in docs.tables().items():
        shown = page.partition(f"<!-- {name}:begin -->")[2].partition(f"<!-- {name}:end -->")[0]
        assert shown.strip() == text.strip(), "run: python bench/evidence/docs.py"


def test_every_pair_and_model_of_the_issue_is_there(docs: ModuleType) -> None:
    text = docs.tables()["real-models"]
    for model in ("popularity", "ease", "ials", "bpr", "sasrec"):
        assert text.count(f"| {model} |") == 2
    assert text.count(" - ") == 2 * 10
