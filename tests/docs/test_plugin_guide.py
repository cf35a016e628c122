"""What the guide for authors shows, works."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def _blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), flags=re.DOTALL)


def test_the_one_file_plugin_of_the_guide_conforms(tmp_path: Path) -> None:
    [plugin] = [block for block in _blocks("writing-a-plugin.md", "python") if block.startswith("# shout.py")]
    file = tmp_path / "shout.py"
    file.write_text(plugin)
    code = (
        "import sys, pathlib\n"
        "from recengine.hooks import host\n"
        "from recengine.testing import check_plugin\n"
        "host().add_file(pathlib.Path(sys.argv[1]))\n"
        "print([result for result in check_plugin(host(), 'shout') if result.outcome == 'failed'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip().splitlines()[-1] == "[]", done.stdout + done.stderr


def test_every_command_of_the_pages_exists() -> None:
    from recengine.cli.app import RootGroup

    shell = "".join(block for page in ("cli.md", "writing-a-plugin.md") for block in _blocks(page, "sh"))
    named = set(re.findall(r"^recengine (?:--plugin \S+ )?([a-z]+)", shell, flags=re.MULTILINE))
    assert named
    assert named - set(RootGroup.table) == set()


def test_links_between_the_pages_lead_somewhere() -> None:
    pages = [DOCS / "cli.md", DOCS / "writing-a-plugin.md", *(DOCS / "hooks").glob("*.md")]
    dead = [
        f"{page.name}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text())
        if not (page.parent / target).exists()
    ]
    assert dead == []
