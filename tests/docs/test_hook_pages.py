"""Every hook has a page, and every page says the exact signature."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

from recengine.hooks import KINDS, specs

PAGES = Path(__file__).resolve().parents[2] / "docs" / "hooks"
HOOKS = sorted(name for name in vars(specs) if name.startswith("recengine_"))


def _blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)


def test_there_is_a_page_for_each_hook_and_no_other() -> None:
    pages = {path.stem for path in PAGES.glob("*.md")} - {"README"}
    assert pages == set(HOOKS)


@pytest.mark.parametrize("hook", HOOKS)
def test_the_page_gives_the_exact_signature(hook: str) -> None:
    signature = str(inspect.signature(getattr(specs, hook))).replace("'", "")
    assert _blocks((PAGES / f"{hook}.md").read_text())[0].strip() == f"def {hook}{signature}"


@pytest.mark.parametrize("hook", HOOKS)
def test_the_page_says_who_calls_it_when_and_shows_it_implemented(hook: str) -> None:
    page = (PAGES / f"{hook}.md").read_text()
    assert [line for line in page.splitlines() if line.startswith("## ")] == [
        "## Who calls it",
        "## When",
        "## Arguments",
        "## Example",
    ]
    example = ast.parse(_blocks(page)[-1])
    [shown] = [node for node in example.body if isinstance(node, ast.FunctionDef)]
    assert shown.name == hook
    known = set(inspect.signature(getattr(specs, hook)).parameters)
    assert {argument.arg for argument in shown.args.args} <= known


def test_the_index_links_every_page() -> None:
    index = (PAGES / "README.md").read_text()
    assert [hook for hook in HOOKS if f"({hook}.md)" not in index] == []


def test_every_registry_is_filled_by_a_hook_that_exists() -> None:
    assert set(KINDS.values()) == {hook for hook in HOOKS if hook.startswith("recengine_register_")}
