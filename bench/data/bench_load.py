"""Loading and splitting 20 million generated rows: seconds and peak memory, RecBole's own loading beside it.

    python bench/data/bench_load.py [--quick] [--rows N] [--rounds R] [--threads T] [--no-peer]

The file is a RecBole .inter table (user, item, rating, time; power-law items; rows in time order, as a log is
written) that both read; the split is leave-two-out in time. Each side runs in a process of its own,
alternating; medians. Memory is the peak resident set of the process, imports included. The clock starts after
the imports. Results go to bench/results/load.json and load.md, those of --rows N to load-N.json and .md;
--quick writes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from peers import runner

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "results"
SEED = 0
FULL = 20_000_000  # rows of the claims


def write_rows(folder: Path, rows: int) -> Path:
    """A .inter file of ``rows`` events of rows / 100 users on rows / 400 items."""
    import polars as pl

    generator = np.random.default_rng(SEED)
    n_users, n_items = max(rows // 100, 10), max(rows // 400, 10)
    item = np.minimum((generator.pareto(1.1, rows) * 20).astype(np.int64), n_items - 1)
    table = pl.DataFrame(
        {
            "user_id:token": generator.integers(0, n_users, rows),
            "item_id:token": item,
            "rating:float": generator.integers(1, 6, rows),
            "timestamp:float": np.sort(generator.integers(1_600_000_000, 1_631_536_000, rows)),
        }
    )
    path = folder / "generated" / "generated.inter"
    path.parent.mkdir()
    table.write_csv(path, separator="\t")
    return path


def measure(script: str, peer: str | None, path: Path, threads: int) -> dict[str, Any]:
    """One run in a process of its own."""
    outcome = runner.run(peer, HERE / script, {"path": str(path)}, threads=threads, timeout=3600)
    answer = outcome.answer
    return {
        "seconds": answer["read"]["wall_s"] + answer["split"]["wall_s"],
        "cpu_seconds": answer["read"]["cpu_s"] + answer["split"]["cpu_s"],
        "gb": outcome.peak_mb / 1024,
        **answer,
    }


def medians(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Of the three figures."""
    return {key: statistics.median(run[key] for run in runs) for key in ("seconds", "cpu_seconds", "gb")}


def sizes(run: dict[str, Any]) -> tuple[int, ...]:
    """What came out: both sides must have done the same work."""
    return tuple(run[key] for key in ("events", "users", "items", "train_events"))


def processor() -> str:
    """Its name as the system gives it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.processor())


def report(record: dict[str, Any]) -> str:
    """A small table."""
    lines = [
        "# Loading and splitting generated rows",
        "",
        f"{record['rows']:,} rows, leave-two-out in time; {record['processor']}, "
        f"{record['threads']} threads on {record['cores']} cores, {record['date']}; "
        f"medians of {record['rounds']}; seed {SEED}; script bench/data/bench_load.py.",
        "",
        "| | seconds | CPU seconds | peak memory, GB |",
        "|---|---|---|---|",
    ]
    for name, figures in record["medians"].items():
        lines.append(
            f"| {name} | {figures['seconds']:.1f} | {figures['cpu_seconds']:.1f} | {figures['gb']:.2f} |"
        )
    if len(record["medians"]) > 1:
        lines.append(
            "\nBoth kept the same events: " + ("yes." if record["same_sizes"] else "NO, compare the sizes.")
        )
    lines += [f"\n{name}: {reason}" for name, reason in record["missing"].items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a million rows, once, nothing written")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-peer", action="store_true")
    asked = parser.parse_args()
    rows = asked.rows or (1_000_000 if asked.quick else FULL)
    rounds = asked.rounds or (1 if asked.quick else 3)
    sides = {"recengine": ("load_ours.py", None), "RecBole 1.2.1": ("load_recbole.py", "recbole")}
    if asked.no_peer:
        del sides["RecBole 1.2.1"]
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    missing: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = write_rows(Path(folder), rows)
        for _ in range(rounds):
            for name, (script, peer) in sides.items():
                if name in missing:
                    continue
                try:
                    runs[name].append(measure(script, peer, path, asked.threads))
                except (RuntimeError, OSError, runner.subprocess.TimeoutExpired) as failed:
                    missing[name] = f"did not run: {str(failed).strip().splitlines()[-1][:300]}"
    record = {
        "rows": rows,
        "rounds": rounds,
        "threads": asked.threads,
        "cores": os.cpu_count(),
        "processor": processor(),
        "python": platform.python_version(),
        "date": datetime.now(UTC).date().isoformat(),
        "runs": runs,
        "missing": missing,
        "medians": {name: medians(done) for name, done in runs.items() if done},
        "same_sizes": len({sizes(done[0]) for done in runs.values() if done}) == 1,
    }
    print(report(record))
    if not asked.quick:
        RESULTS.mkdir(exist_ok=True)
        name = "load" if rows == FULL else f"load-{rows}"
        (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
        (RESULTS / f"{name}.md").write_text(report(record))
    if rows != FULL and not asked.quick:
        return
    ours = record["medians"]["recengine"]
    figures = {"foundation.load-20m-gb": ours["gb"], "foundation.load-20m-seconds": ours["seconds"]}
    for claim, figure in figures.items():
        print(json.dumps({"claim": claim, "figure": round(figure, 2), "rows": rows}))


if __name__ == "__main__":
    main()
