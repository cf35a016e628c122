"""EASE beside cornac, iALS and BPR-MF beside implicit: seconds of a fit and NDCG@10 on the same split.

    python bench/collaborative/bench_classic.py [--quick] [--only ease|ials|bpr] [--data ml-100k|gowalla]
    python bench/collaborative/bench_classic.py --tune    choose the settings below, on validation data alone

Every fit runs in a process of its own library (bench/peers), the two sides take turns, each process fits
several seeds and its first fit is not timed. A ratio is the median seconds of ours over the peer's; a claim's
figure is the largest ratio over data sets and thread counts, and the smallest NDCG margin over data sets
(means over seeds). Writes bench/results/classic[-DATA].json and .md.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "results"
sys.path[:0] = [str(HERE), str(HERE.parent)]

from cases import Case, gowalla, ml100k, quality  # noqa: E402

from peers.runner import run  # noqa: E402

# Chosen by --tune (validation NDCG@10, the same grid for both sides): iALS and BPR on ml-100k for both sides,
# iALS on gowalla for us. The rest of gowalla keeps its library defaults: no claim on quality rests there.
# Fixed by the claims: 64 factors, 15 iterations and alpha 10 of iALS; 64 factors and 100 epochs of BPR.
SETTINGS: dict[tuple[str, str], dict[str, dict[str, Any]]] = {
    ("ease", "ml-100k"): {
        "recengine": {"regularization": 300.0, "nonnegative": True},
        "cornac": {"regularization": 300.0, "nonnegative": True},
    },
    ("ials", "ml-100k"): {
        "recengine": {"factors": 64, "iterations": 15, "alpha": 10.0, "regularization": 20.0},
        "implicit": {"factors": 64, "iterations": 15, "alpha": 10.0, "regularization": 30.0},
    },
    ("ials", "gowalla"): {
        "recengine": {
            "factors": 64,
            "iterations": 15,
            "alpha": 10.0,
            "regularization": 0.1,
            "answer_steps": 0,
        },
        "implicit": {"factors": 64, "iterations": 15, "alpha": 10.0, "regularization": 1.0},
    },
    ("bpr", "ml-100k"): {
        "recengine": {
            "factors": 64,
            "epochs": 100,
            "learning_rate": 0.05,
            "reg_user": 0.01,
            "reg_item": 0.01,
            "reg_bias": 0.01,
        },
        "implicit": {"factors": 64, "iterations": 100, "learning_rate": 0.01, "regularization": 0.01},
    },
    ("bpr", "gowalla"): {
        "recengine": {"factors": 64, "epochs": 100},
        "implicit": {"factors": 64, "iterations": 100},
    },
}
DATA: dict[str, Callable[..., Case]] = {"ml-100k": ml100k, "gowalla": gowalla}
BPR_RATES, BPR_DECAYS = (0.01, 0.02, 0.05), (0.003, 0.01, 0.03, 0.06, 0.1)
ALS_PENALTIES = (0.1, 1.0, 5.0, 10.0, 20.0, 30.0, 50.0)
ALS_ANSWERS = (0, 3)


@dataclass(frozen=True)
class Row:
    """One side of one comparison: median seconds of a fit, and means over seeds."""

    model: str
    data: str
    threads: int
    side: str
    wall_s: float
    cpu_s: float
    peak_mb: float
    hr: float
    ndcg: float
    fits: int


def fit(
    side: str, model: str, case: Case, points: list[dict[str, Any]], seeds: list[int], threads: int
) -> tuple[list[dict[str, float]], float, list[list[dict[str, float]]]]:
    """Seconds of each fit, peak memory of the process, quality of each seed at each point of settings."""
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/u.npy", case.users)
        np.save(f"{folder}/i.npy", case.items)
        given = {
            "model": model,
            "points": points,
            "users": f"{folder}/u.npy",
            "items": f"{folder}/i.npy",
            "n_users": case.n_users,
            "n_items": case.n_items,
            "seeds": seeds,
            "out": folder,
        }
        script = HERE / ("fit_ours.py" if side == "recengine" else f"fit_{side}.py")
        outcome = run(None if side == "recengine" else side, script, given, threads=threads)
        found = [
            [quality(case, Path(folder, f"{point}-{seed}")) for seed in dict.fromkeys(seeds)]
            for point in range(len(points))
        ]
    return outcome.answer["times"], outcome.peak_mb, found


def compare(model: str, data: str, threads: int, rounds: int, seeds: int) -> list[Row]:
    """Both sides, taking turns; the first fit of a process warms up."""
    case = DATA[data]()
    sides = SETTINGS[model, data]
    gathered: dict[str, list[Any]] = {side: [] for side in sides}
    for turn in range(rounds):
        chosen = [turn * seeds + s for s in range(seeds)]
        for side, settings in sides.items():
            gathered[side].append(fit(side, model, case, [settings], [chosen[0], *chosen], threads))
    rows = []
    for side, fits in gathered.items():
        times = [time for told, _, _ in fits for time in told[1:]]
        found = [value for _, _, points in fits for value in points[0]]
        rows.append(
            Row(
                model,
                data,
                threads,
                side,
                statistics.median(time["wall_s"] for time in times),
                statistics.median(time["cpu_s"] for time in times),
                statistics.median(peak for _, peak, _ in fits),
                statistics.mean(value["hr"] for value in found),
                statistics.mean(value["ndcg"] for value in found),
                len(times),
            )
        )
    return rows


def claims(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The figures of the claims that these rows decide."""
    told: list[dict[str, Any]] = []
    for model, peer in (("ease", "cornac"), ("ials", "implicit"), ("bpr", "implicit")):
        ours = [row for row in rows if row.model == model and row.side == "recengine"]
        theirs = {(row.data, row.threads): row for row in rows if row.model == model and row.side == peer}
        if not ours:
            continue
        ratio = max(row.wall_s / theirs[row.data, row.threads].wall_s for row in ours)
        margin = min(row.ndcg - theirs[row.data, row.threads].ndcg for row in ours)
        told.append({"claim": f"foundation.{model}-time-ratio", "figure": round(ratio, 3)})
        if model == "ease":
            told.append({"claim": "foundation.ease-hr", "figure": round(abs(ours[0].hr - 0.1436), 4)})
            told.append({"claim": "foundation.ease-ndcg", "figure": round(abs(ours[0].ndcg - 0.0734), 4)})
        else:
            told.append({"claim": f"foundation.{model}-ndcg-margin", "figure": round(margin, 4)})
    return told


def tune(only: str | None, on: str | None) -> None:
    """Validation NDCG@10 over the grids (three seeds; one on gowalla); prints the best of each side."""
    asked = [key for key in SETTINGS if key[0] != "ease" and only in (None, key[0]) and on in (None, key[1])]
    for model, data in asked:
        case = DATA[data](validation=True)
        for side, fixed in SETTINGS[model, data].items():
            grid = [fixed | point for point in _grid(model, side)]
            _, _, found = fit(side, model, case, grid, [0, 1, 2] if data == "ml-100k" else [0], 1)
            means = [statistics.mean(value["ndcg"] for value in values) for values in found]
            for mean, point in zip(means, _grid(model, side), strict=True):
                print(f"{side:10} {mean:.4f} {point}", file=sys.stderr, flush=True)
            best = int(np.argmax(means))
            record = {"model": model, "data": data, "side": side, "ndcg": means[best], **grid[best]}
            print(json.dumps(record), flush=True)


def _grid(model: str, side: str) -> list[dict[str, Any]]:
    if model == "ials":
        answers = [{"answer_steps": steps} for steps in ALS_ANSWERS] if side == "recengine" else [{}]
        return [
            {"regularization": penalty} | more for penalty, more in itertools.product(ALS_PENALTIES, answers)
        ]
    names = ("reg_user", "reg_item", "reg_bias") if side == "recengine" else ("regularization",)
    return [
        {"learning_rate": rate} | dict.fromkeys(names, decay)
        for rate, decay in itertools.product(BPR_RATES, BPR_DECAYS)
    ]


def table(rows: Sequence[Row]) -> str:
    lines = [
        "| model | data | threads | library | s a fit (wall) | s a fit (CPU) | peak MiB | HR@10 | NDCG@10 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r.model} | {r.data} | {r.threads} | {r.side} | {r.wall_s:.3f} | {r.cpu_s:.3f} | {r.peak_mb:.0f} "
        f"| {r.hr:.4f} | {r.ndcg:.4f} |"
        for r in rows
    ]
    return "\n".join(lines)


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="ml-100k, one thread, one round; nothing written"
    )
    parser.add_argument("--only", choices=["ease", "ials", "bpr"])
    parser.add_argument("--data", choices=list(DATA))
    parser.add_argument("--tune", action="store_true", help="choose settings on validation data")
    asked = parser.parse_args()
    if asked.tune:
        tune(asked.only, asked.data)
        return
    keys = [key for key in SETTINGS if asked.only in (None, key[0]) and asked.data in (None, key[1])]
    if asked.quick:
        keys = [key for key in keys if key[1] == "ml-100k"]
    rows: list[Row] = []
    for threads in (1,) if asked.quick else (1, 2):
        for model, data in keys:
            rounds, seeds = (1, 2) if asked.quick else (2, 2) if data == "gowalla" else (3, 3)
            rows += compare(model, data, threads, rounds, seeds)
            print(table(rows[-2:]).splitlines()[2], table(rows[-2:]).splitlines()[3], sep="\n", flush=True)
    told = claims(rows)
    if not asked.quick and asked.only is None:
        RESULTS.mkdir(exist_ok=True)
        name = f"classic-{asked.data}" if asked.data else "classic"
        facts = {
            "script": "bench/collaborative/bench_classic.py",
            "processor": processor(),
            "python": platform.python_version(),
            "date": datetime.date.today().isoformat(),
            "settings": {f"{model} on {data}": SETTINGS[model, data] for model, data in keys},
        }
        record = {"facts": facts, "rows": [asdict(row) for row in rows], "claims": told}
        (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
        heading = (
            f"# Classic models beside their peers\n\n{facts['script']}, {facts['processor']}, {facts['date']}"
        )
        (RESULTS / f"{name}.md").write_text(f"{heading}\n\n{table(rows)}\n")
    for record in told:
        print(json.dumps(record))


if __name__ == "__main__":
    main()
