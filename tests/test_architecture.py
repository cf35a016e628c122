"""The house holds: floors, no plugin in the engine, public names only, light imports."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"torch", "polars", "pandas", "scipy", "pyarrow", "sklearn", "lightning_fabric", "matplotlib"}


def _run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, cwd=ROOT
    )


def test_imports_keep_to_the_floors() -> None:
    pytest.importorskip("importlinter")
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(cache_dir=None))"
    source = os.pathsep.join([str(ROOT / "python"), str(ROOT / "plugins")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": source},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def _imports(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return names


def test_plugins_stand_on_public_names_only() -> None:
    private = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in (ROOT / "plugins").rglob("*.py")
        for name in _imports(path)
        if name.startswith("recengine.") and any(part.startswith("_") for part in name.split("."))
    }
    assert private == set()


def test_the_front_door_of_a_plugin_imports_nothing_heavy() -> None:
    heavy = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in (ROOT / "plugins" / "recengine_plugins").glob("*/__init__.py")
        for name in _imports(path)
        if name.partition(".")[0] in HEAVY | {"numpy", "pydantic"}
    }
    assert heavy == set()


@pytest.mark.parametrize("module", ["recengine", "recengine.config", "recengine.settings", "recengine.hooks"])
def test_importing_costs_no_heavy_library(module: str) -> None:
    code = "import importlib, sys; importlib.import_module(sys.argv[1]); print(*sys.modules)"
    done = _run(code, module)
    assert done.returncode == 0, done.stderr
    assert HEAVY & set(done.stdout.split()) == set()


def test_discovering_all_built_in_plugins_imports_no_torch() -> None:
    done = _run("import sys, recengine.hooks as h; h.host(); sys.exit('torch' in sys.modules)")
    assert done.returncode == 0, done.stderr
