"""``plugins new``: every kind of project passes its own tests at once."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from recengine.errors import UsageError
from recengine.testing.scaffold import KINDS, write_project


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("projects")
    for kind in KINDS:
        write_project(f"late_{kind}", kind, out)
    return out


@pytest.mark.slow
def test_every_kind_passes_its_own_tests_uninstalled(projects: Path) -> None:
    folders = sorted(projects.iterdir())
    assert len(folders) == len(KINDS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib"]
    paths = " ".join(str(folder / "src") for folder in folders)
    done = subprocess.run(
        [*command, "-o", f"pythonpath={paths}", "--rootdir", str(projects), *map(str, folders)],
        cwd=projects,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "failed" not in done.stdout


@pytest.mark.slow
def test_an_installed_model_is_found_by_its_entry_point(projects: Path, tmp_path: Path) -> None:
    pytest.importorskip("setuptools", minversion="70.1", reason="older ones cannot build wheels alone")
    project = projects / "recengine-late-model"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*pip, "--no-index", "--disable-pip-version-check", "--target", str(tmp_path), str(project)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from recengine.hooks import host\n"
        "entry = host().registries['model'].get('late_model')\n"
        "print(entry.plugin, entry.load().__name__, 'late_model' in host().names(), host().broken)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert found.stdout.split("\n")[-2] == "late_model LateModel True []", found.stderr


def test_a_project_is_complete_and_filled_in(projects: Path) -> None:
    for kind in KINDS:
        folder = projects / f"recengine-late-{kind}"
        files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        package = f"recengine_late_{kind}"
        assert files >= {
            "pyproject.toml",
            "README.md",
            ".gitignore",
            f"docs/late_{kind}.md",
            f"src/{package}/__init__.py",
            f"src/{package}/{kind}.py",
            f"src/{package}/py.typed",
            f"tests/test_late_{kind}.py",
        }
        for path in files:
            text = (folder / path).read_text()
            assert "$" not in text, f"{path} holds an unfilled name"
        points = tomllib.loads((folder / "pyproject.toml").read_text())["project"]["entry-points"]
        assert points == {"recengine": {f"late_{kind}": package}}


def test_nothing_unfinished_is_left_beside_the_projects(projects: Path) -> None:
    assert [path.name for path in projects.iterdir() if path.name.startswith(".rec")] == []


@pytest.mark.parametrize(
    "name", ["", "Upper", "1st", "with space", "a-b", "a__b", "_a", "a_", "../up", "größe"]
)
def test_a_bad_name_is_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="not a name for a plugin"):
        write_project(name, "model", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_kind_gets_a_did_you_mean(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no template for the kind 'modle'") as wrong:
        write_project("mine", "modle", tmp_path)
    assert wrong.value.fix == "did you mean 'model'?"


def test_a_name_that_is_registered_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is a model 'sasrec' already"):
        write_project("sasrec", "model", tmp_path)


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    kept = tmp_path / "recengine-mine" / "precious"
    kept.parent.mkdir()
    kept.write_text("mine")
    with pytest.raises(UsageError, match="such a folder already"):
        write_project("mine", "metric", tmp_path)
    assert kept.read_text() == "mine"
