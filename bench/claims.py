"""The register of every number that the project states: list, check, run.

    python bench/claims.py list
    python bench/claims.py check [TOPIC]     recorded figures against their bars; short ones last, exit 1
    python bench/claims.py run ID [--quick]  measure again; the figure is printed last
    python bench/claims.py record FILE...    take the figures that bench scripts printed into the register
    python bench/claims.py readme            headlines into the README, all claims into docs/measured.md

A claim that is short of its bar stays in the register as short.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

REGISTER = Path(__file__).with_name("claims.toml")
README = REGISTER.parents[1] / "README.md"
PAGE = REGISTER.parents[1] / "docs" / "measured.md"
BEGIN, END = "<!-- claims:begin -->", "<!-- claims:end -->"


@dataclass(frozen=True)
class Claim:
    """direction 'min': the figure must be at least the bar; 'max': at most. headline: the README's words for
    it, where it stands there."""

    id: str
    sentence: str
    bar: float
    direction: str
    command: str
    figure: float | None = None
    date: str = ""
    machine: str = ""
    note: str = ""
    headline: str = ""

    @property
    def topic(self) -> str:
        return self.id.split(".")[0]

    @property
    def state(self) -> str:
        if self.figure is None:
            return "not measured"
        held = self.figure >= self.bar if self.direction == "min" else self.figure <= self.bar
        return "holds" if held else "short"

    @property
    def bound(self) -> str:
        return f"{'at least' if self.direction == 'min' else 'at most'} {self.bar:g}"

    @property
    def script(self) -> str:
        return next((word for word in shlex.split(self.command) if word.endswith(".py")), self.command)

    def line(self) -> str:
        sign = ">=" if self.direction == "min" else "<="
        figure = "-" if self.figure is None else f"{self.figure:g}"
        return f"{self.state:13} {self.id:44} {figure:>10} (bar {sign} {self.bar:g})  {self.sentence}"


def read() -> list[Claim]:
    claims = [Claim(**entry) for entry in tomllib.loads(REGISTER.read_text()).get("claim", [])]
    names = [claim.id for claim in claims]
    repeated = {name for name in names if names.count(name) > 1}
    wrong = [claim.id for claim in claims if claim.direction not in ("min", "max")]
    if repeated or wrong:
        sys.exit(
            f"claims.toml: repeated ids {sorted(repeated)}, directions that are neither min nor max {wrong}"
        )
    return claims


def show() -> int:
    for claim in read():
        print(claim.line())
    return 0


def check(topic: str | None) -> int:
    chosen = [claim for claim in read() if topic in (None, claim.topic)]
    if not chosen:
        sys.exit(f"no claim has the topic {topic!r}")
    order = {"holds": 0, "not measured": 1, "short": 2}
    for claim in sorted(chosen, key=lambda claim: order[claim.state]):
        print(claim.line() + (f"\n{'':14}{claim.note}" if claim.note else ""))
    return 0 if all(claim.state == "holds" for claim in chosen) else 1


def run(name: str, quick: bool) -> int:
    claim = next((claim for claim in read() if claim.id == name), None)
    if claim is None:
        sys.exit(f"there is no claim {name!r}; see: python bench/claims.py list")
    command = shlex.split(claim.command) + (["--quick"] if quick else [])
    if command[0] == "python":
        command[0] = sys.executable
    done = subprocess.run(command, cwd=REGISTER.parents[1], stdout=subprocess.PIPE, text=True, check=False)
    figure = None
    for line in done.stdout.splitlines():
        print(line)
        if line.startswith("{"):
            record = json.loads(line)
            if record.get("claim") == name:
                figure = record["figure"]
    if done.returncode or figure is None:
        sys.exit(f"the command gave no figure for {name} (exit {done.returncode}): {claim.command}")
    print(json.dumps({"claim": name, "figure": figure, "bar": claim.bar, "direction": claim.direction}))
    return 0


def record(files: list[Path], machine: str, date: str) -> int:
    """Write the figures found in ``files`` (the last line of a claim wins) beside their claims."""
    known = {claim.id for claim in read()}
    figures: dict[str, float] = {}
    for file in files:
        for line in file.read_text().splitlines():
            if line.startswith('{"claim"'):
                found = json.loads(line)
                if found["claim"] in known and found["figure"] is not None:
                    figures[found["claim"]] = found["figure"]
    head, *blocks = REGISTER.read_text().split("\n[[claim]]\n")
    for at, block in enumerate(blocks):
        name = tomllib.loads(block).get("id")
        if name not in figures:
            continue
        kept = [
            line
            for line in block.rstrip().splitlines()
            if line.split(" = ")[0] not in ("figure", "date", "machine")
        ]
        kept += [f"figure = {figures[name]:g}", f'date = "{date}"', f"machine = {json.dumps(machine)}"]
        blocks[at] = "\n".join(kept) + "\n"
        print(f"{name}: {figures[name]:g}")
    REGISTER.write_text("\n[[claim]]\n".join([head, *blocks]).rstrip() + "\n")
    read()  # the register must still parse
    return 0


def marks(claims: list[Claim]) -> dict[str, str]:
    """A letter for each machine, A for the one of most claims."""
    found = Counter(claim.machine for claim in claims if claim.figure is not None)
    return {machine: chr(ord("A") + at) for at, (machine, _) in enumerate(found.most_common())}


def headlines() -> str:
    """The README's table: the claims with a headline, and what they were measured on; what falls short is
    said."""
    on = marks(read())
    claims = [claim for claim in read() if claim.headline and claim.figure is not None]
    lines = ["| what | measured | bar | on | script |", "| --- | --- | --- | --- | --- |"]
    for claim in claims:
        figure = f"{claim.figure:.4g}" + (" **short**" if claim.state == "short" else "")
        lines.append(
            f"| {claim.headline} | {figure} | {claim.bound} | {on[claim.machine]} | `{claim.script}` |"
        )
    used = {claim.machine for claim in claims}
    return "\n".join([*lines, "", *(f"* {on[machine]}: {machine}" for machine in on if machine in used)])


def page() -> str:
    """docs/measured.md: every claim by topic, held, short or not measured."""
    claims = read()
    lines = [
        "# Measured",
        "",
        "Every figure that the project states, with its bar and the command that measures it",
        "(`bench/claims.toml`; `python bench/claims.py run ID` measures one again). A claim that falls",
        "short, or that has not been measured yet, stays here as that. The letters name machines, which are",
        "listed at the end.",
    ]
    on = marks(claims)
    for topic in dict.fromkeys(claim.topic for claim in claims):
        own = [claim for claim in claims if claim.topic == topic]
        states = [claim.state for claim in own]
        told = ", ".join(f"{states.count(s)} {s}" for s in ("holds", "short", "not measured") if s in states)
        lines += ["", f"## {topic}", "", f"{len(own)} claims: {told}.", ""]
        lines += [
            "| claim | measured | bar | state | on | command |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        for claim in own:
            figure = "–" if claim.figure is None else f"{claim.figure:.4g}"
            state = f"**{claim.state}**" if claim.state == "short" else claim.state
            note = f" ({claim.note})" if claim.note else ""
            told = (
                f"{claim.sentence}{note} | {figure} | {claim.bound} | {state} | {on.get(claim.machine, '')}"
            )
            lines.append(f"| {told} | `{claim.command}` |")
    lines += ["", "Measured on:", ""]
    for machine, mark in on.items():
        dates = {claim.date for claim in claims if claim.machine == machine and claim.figure is not None}
        lines.append(f"* {mark}: {machine}, {' to '.join(sorted({min(dates), max(dates)}))}")
    return "\n".join(lines) + "\n"


def readme() -> int:
    text = README.read_text()
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    README.write_text(f"{head}{BEGIN}\n{headlines()}\n{END}{tail}")
    PAGE.write_text(page())
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("list")
    verbs.add_parser("check").add_argument("topic", nargs="?")
    recorder = verbs.add_parser("record")
    recorder.add_argument("files", nargs="+", type=Path)
    recorder.add_argument("--machine", required=True)
    recorder.add_argument("--date", required=True)
    verbs.add_parser("readme")
    runner = verbs.add_parser("run")
    runner.add_argument("id")
    runner.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    if asked.verb == "list":
        return show()
    if asked.verb == "record":
        return record(asked.files, asked.machine, asked.date)
    if asked.verb == "readme":
        return readme()
    return check(asked.topic) if asked.verb == "check" else run(asked.id, asked.quick)


if __name__ == "__main__":
    sys.exit(main())
