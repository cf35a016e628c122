"""The register of every number that the project states: list, check, run.

    python bench/claims.py list
    python bench/claims.py check [TOPIC]     recorded figures against their bars; short ones last, exit 1
    python bench/claims.py run ID [--quick]  measure again; the figure is printed last

A claim that is short of its bar stays in the register as short.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

REGISTER = Path(__file__).with_name("claims.toml")


@dataclass(frozen=True)
class Claim:
    """direction 'min': the figure must be at least the bar; 'max': at most."""

    id: str
    sentence: str
    bar: float
    direction: str
    command: str
    figure: float | None = None
    date: str = ""
    machine: str = ""
    note: str = ""

    @property
    def topic(self) -> str:
        return self.id.split(".")[0]

    @property
    def state(self) -> str:
        if self.figure is None:
            return "not measured"
        held = self.figure >= self.bar if self.direction == "min" else self.figure <= self.bar
        return "holds" if held else "short"

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
        print(claim.line() + (f"\n{'':14}{claim.note}" if claim.note and claim.state != "holds" else ""))
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


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("list")
    verbs.add_parser("check").add_argument("topic", nargs="?")
    runner = verbs.add_parser("run")
    runner.add_argument("id")
    runner.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    if asked.verb == "list":
        return show()
    return check(asked.topic) if asked.verb == "check" else run(asked.id, asked.quick)


if __name__ == "__main__":
    sys.exit(main())
