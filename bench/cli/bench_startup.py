"""Starting up: wall seconds of ``recengine --help``, heavy libraries that it or ``import recengine`` loads.

    python bench/cli/bench_startup.py [--quick] [--rounds R]

Each round is a fresh process; the median counts. Results go to bench/results/startup.json and startup.md
(not with --quick).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "results"
MAIN = "from recengine.cli import main; main()"
HEAVY = ("torch", "polars", "pandas", "scipy", "pyarrow", "sklearn", "lightning_fabric", "matplotlib")


def seconds(rounds: int) -> list[float]:
    """Wall seconds of ``recengine --help``, one number a round; an uncounted one fills the file cache."""
    taken = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", MAIN, "--help"], capture_output=True, check=True)
        taken.append(time.perf_counter() - began)
    return taken[1:]


def heavy_modules() -> list[str]:
    """What ``recengine --help`` and ``import recengine`` load of HEAVY."""
    found: set[str] = set()
    for code in (
        "import recengine",
        f"import sys; sys.argv[1:] = ['--help']\ntry: {MAIN}\nexcept SystemExit: pass",
    ):
        done = subprocess.run(
            [sys.executable, "-c", f"{code}\nimport sys; print('\\n', *sys.modules)"],
            capture_output=True,
            text=True,
            check=True,
        )
        found |= set(HEAVY) & set(done.stdout.splitlines()[-1].split())
    return sorted(found)


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )


def write(record: dict[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "startup.json").write_text(json.dumps(record, indent=1) + "\n")
    (RESULTS / "startup.md").write_text(
        f"# Starting up\n\n{record['date']}, {record['processor']}, {record['cores']} cores, "
        f"Python {record['python']}; `{record['script']}`\n\n"
        "| what | figure |\n|---|---|\n"
        f"| `recengine --help`, wall seconds, median of {record['rounds']} | {record['help_seconds']:.3f} |\n"
        f"| heavy libraries that help or `import recengine` load | {', '.join(record['heavy']) or 'none'} |\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=21)
    asked = parser.parse_args()
    rounds = 3 if asked.quick else asked.rounds
    taken, heavy = seconds(rounds), heavy_modules()
    record = {
        "script": "bench/cli/bench_startup.py",
        "date": datetime.now(UTC).date().isoformat(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "rounds": rounds,
        "help_seconds": statistics.median(taken),
        "all_seconds": taken,
        "heavy": heavy,
    }
    if not asked.quick:
        write(record)
    print(json.dumps({"claim": "foundation.startup-heavy-imports", "figure": len(heavy)}))
    print(json.dumps({"claim": "foundation.help-seconds", "figure": round(record["help_seconds"], 3)}))


if __name__ == "__main__":
    main()
