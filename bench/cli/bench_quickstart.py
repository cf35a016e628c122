"""The quickstart on the grocery data: wall seconds from the command to the printed path of the report.

    python bench/cli/bench_quickstart.py [--quick] [--threads 2] [--rounds R]

Each round is a fresh process with as many threads as asked for; the slowest counts. --quick is one round.
Needs the extra [demo]. Results, the table of the last round among them, go to bench/results/quickstart.json
and quickstart.md (not with --quick).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "results"
MAIN = "from recengine.cli import main; main()"


def once(threads: int) -> tuple[float, dict[str, Any]]:
    """Wall seconds of one run, and the systems of its report."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "POLARS_MAX_THREADS": str(threads)}
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-c", MAIN, "quickstart", "--out", folder],
            env=environment,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        taken = time.perf_counter() - began
        report = json.loads((Path(folder) / "report.json").read_text("utf-8"))
    return taken, {"protocol": report["protocol_hash"], "systems": report["systems"]}


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )


def write(record: dict[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "quickstart.json").write_text(json.dumps(record, indent=1) + "\n")
    metrics = list(record["systems"][0]["metrics"])
    rows = [
        f"| {system['name']} | "
        + " | ".join(
            f"{e['mean']:.4f} ({e['low']:.4f} to {e['high']:.4f})" for e in system["metrics"].values()
        )
        + f" | {system['seconds']:.0f} |"
        for system in record["systems"]
    ]
    (RESULTS / "quickstart.md").write_text(
        "# Quickstart\n\n"
        f"{record['date']}, {record['processor']}, {record['threads']} threads, Python {record['python']}, "
        f"torch {record['torch']}, seed 0; `{record['script']}`\n\n"
        f"Whole command: {', '.join(f'{s:.0f} s' for s in record['all_seconds'])}. Mean and 95 % interval "
        f"over users, protocol {record['protocol']}:\n\n"
        f"| model | {' | '.join(metrics)} | fitted in, s |\n|---|{'---|' * (len(metrics) + 1)}\n"
        + "\n".join(rows)
        + "\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    rounds = [once(asked.threads) for _ in range(1 if asked.quick else asked.rounds)]
    record = {
        "script": "bench/cli/bench_quickstart.py",
        "date": datetime.now(UTC).date().isoformat(),
        "processor": processor(),
        "threads": asked.threads,
        "python": platform.python_version(),
        "torch": version("torch"),
        "all_seconds": [taken for taken, _ in rounds],
        **rounds[-1][1],
    }
    if not asked.quick:
        write(record)
    slowest = max(record["all_seconds"])
    print(json.dumps({"claim": "foundation.quickstart-seconds", "figure": round(slowest, 1)}))


if __name__ == "__main__":
    main()
