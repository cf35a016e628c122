"""What the README and the pages say is true: commands and code run, the claims table is the register's."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

from recengine.cli.app import app
from recengine.ops._library import native

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
native()  # an editable installation builds on first use, which needs a real stdout


def claims() -> ModuleType:
    spec = importlib.util.spec_from_file_location("claims", ROOT / "bench" / "claims.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["claims"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_claims_table_is_the_registers() -> None:
    module = claims()
    inside = README.partition(module.BEGIN)[2].partition(module.END)[0]
    assert inside.strip() == module.headlines().strip(), "run: python bench/claims.py readme"
    assert module.PAGE.read_text() == module.page(), "run: python bench/claims.py readme"


def test_every_linked_file_exists() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_make_knows_the_two_commands() -> None:
    for target in re.findall(r"^\$ make (\w+)$", README, re.MULTILINE):
        dry = subprocess.run(
            ["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert dry.returncode == 0, dry.stderr


def test_the_commands_on_own_data_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's commands one after another, on a small table of that name; SASRec shortened."""
    monkeypatch.chdir(tmp_path)
    rows = [f"{user},{(3 * user + 5 * step) % 40},{step}" for user in range(60) for step in range(9)]
    Path("events.csv").write_text("user_id,item_id,timestamp\n" + "\n".join(rows) + "\n")
    block = README.partition("## Your own data")[2].partition("```console")[2].partition("```")[0]
    lines = [line.removeprefix("$ recengine ") for line in block.strip().splitlines()]
    assert len(lines) >= 4
    for line in lines:
        words = line.split()
        if words[0] == "fit":
            words += ["--set", "training.epochs=2"]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, f"{line}: {done.output}"


@pytest.mark.parametrize("page", ["tuning", "recourse"])
def test_the_code_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if page == "recourse":
        pytest.importorskip("clarabel")
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / f"{page}.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, f"docs/{page}.md", "exec"), {"__name__": "page"})


def test_the_code_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The five calls, with the epochs cut to two."""
    import pandas as pd

    monkeypatch.chdir(tmp_path)
    table = pd.DataFrame(
        [(user, (3 * user + 5 * step) % 40, step) for user in range(60) for step in range(9)],
        columns=["user_id", "item_id", "timestamp"],
    )
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    five = next(block for block in blocks if "import recengine" in block)
    short = five.replace("seed=1,", "seed=1, settings={'training.epochs': 2},")
    assert short != five
    exec(compile(short, "README.md", "exec"), {"table": table, "print": lambda *words: None})
