"""Published figures of repeated agent runs, computed again from the stored runs, to the printed digit.

Re-analysis of arXiv 2602.07150 (six configurations x 500 tasks x 10 runs), tau-bench airline (50 x 4; the
table in its repository), AutoCodeRover on SWE-bench Lite (300 x 3; its paper prints 26.0 % for any of three),
SWE-agent on SWE-bench Lite (300 x 3; counts). A claim's figure is the number of printed cells that we do not
meet; that of the subsets is the largest distance from an enumeration of all k-subsets, n up to 8.

    python bench/evidence/golden.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from machine import facts, save

from recengine.evaluation import statistics as s

REPOSITORY = Path(__file__).resolve().parents[2]
RUNS = Path(os.environ.get("RECENGINE_DATA", REPOSITORY.parent / "shared" / "data")) / "agent_runs"

# pass@1, SD of the runs, lowest and highest run, pass@5, pass^5, pass@10, pass^10, tasks that went both ways,
# ICC
NANO: dict[str, tuple[str, ...]] = {
    "Qwen_Qwen3-32B": ("16.38", "0.75", "15.0", "17.2", "29.1", "6.3", "34.2", "4.2", "150", "0.60"),
    "Qwen_Qwen3-32B-temp0": ("16.36", "1.17", "14.4", "18.0", "28.8", "6.8", "33.8", "5.0", "144", "0.61"),
    "agentica-org_DeepSWE-Preview": (
        "31.38", "1.02", "28.8", "32.4", "51.6", "11.8", "58.0", "6.4", "258", "0.55",
    ),
    "agentica-org_DeepSWE-Preview-temp0": (
        "20.36", "0.96", "18.2", "21.4", "36.2", "7.3", "42.4", "4.4", "190", "0.56",
    ),
    "mistral_devstral-2512": (
        "63.54", "1.13", "61.8", "65.0", "76.2", "49.1", "79.4", "43.2", "181", "0.72",
    ),
    "mistral_devstral-2512-temp0": (
        "63.82", "1.64", "60.6", "66.6", "76.8", "48.4", "80.0", "42.0", "190", "0.70",
    ),
}  # fmt: skip
TAU = ("0.420", "0.273", "0.220", "0.200")  # pass^1 to pass^4
ROVER = (
    "18.67",
    "26.0",
    "54",
    "57",
    "57",
    "78",
    "37",
)  # pass@1, any of 3, solved in each run, by any, by all
AGENT = ("28", "33", "28", "9.89")  # solved in each run, pass@1


def told(values: list[float], like: tuple[str, ...]) -> list[str]:
    """The values with as many decimals as the printed ones."""
    return [f"{v:.{len(p.partition('.')[2])}f}" for v, p in zip(values, like, strict=True)]


def nano(system: str) -> list[str]:
    counts = pl.read_csv(RUNS / "swebench_verified_nano_success_counts_of_10.csv")[system].to_numpy()
    runs = pl.read_csv(RUNS / "per_run_pass1.csv")[system].to_numpy()
    rate = counts / 10
    within = float((rate * (1 - rate) * 10 / 9).mean())  # variance of one run of a task
    between = max(0.0, float(rate.var(ddof=1)) - within / 10)
    values = [
        100 * float(rate.mean()), float(runs.std(ddof=1)), float(runs.min()), float(runs.max()),
        100 * float(s.pass_at_k(counts, 10, 5).mean()), 100 * float(s.pass_hat_k(counts, 10, 5).mean()),
        100 * float(s.pass_at_k(counts, 10, 10).mean()), 100 * float(s.pass_hat_k(counts, 10, 10).mean()),
        float(((counts > 0) & (counts < 10)).sum()), between / (between + within),
    ]  # fmt: skip
    return told(values, NANO[system])


def table(file: str, task: str, run: str, score: str, runs: list[str] | None = None) -> np.ndarray:
    """Scores [tasks, runs]."""
    frame = pl.read_csv(RUNS / file)
    wide = frame.pivot(on=run, index=task, values=score)
    return wide.select(runs or [name for name in wide.columns if name != task]).to_numpy().astype(int)


def tau() -> list[str]:
    counts = table("taubench_airline_gpt4o_trials.csv.gz", "task_id", "trial", "reward").sum(axis=1)
    return told([float(s.pass_hat_k(counts, 4, k).mean()) for k in (1, 2, 3, 4)], TAU)


def rover() -> list[str]:
    runs = [f"acr-run-{n}" for n in (1, 2, 3)]
    solved = table("swebench_lite_autocoderover_runs.csv.gz", "instance_id", "run", "resolved", runs)
    counts = solved.sum(axis=1)
    values = [100 * float(s.pass_at_k(counts, 3, k).mean()) for k in (1, 3)]
    values += [float(n) for n in solved.sum(axis=0)]
    return told([*values, float((counts > 0).sum()), float((counts == 3).sum())], ROVER)


def agent() -> list[str]:
    solved = table("swebench_lite_sweagent_runs.csv.gz", "instance_id", "run", "resolved_old_eval")
    counts = solved.sum(axis=1)
    values = [float(n) for n in solved.sum(axis=0)]
    return told([*values, 100 * float(s.pass_at_k(counts, 3, 1).mean())], AGENT)


def subsets(most: int = 8) -> float:
    """Largest distance of the four estimators from the mean over all k-subsets of n runs."""
    worst = 0.0
    for n in range(1, most + 1):
        graded = np.random.default_rng(n).random((5, n))
        for k in range(1, n + 1):
            chosen = np.array(list(combinations(range(n), k)))
            pairs = [
                (s.best_at_k(graded, k), graded[:, chosen].max(axis=2).mean(axis=1)),
                (s.worst_at_k(graded, k), graded[:, chosen].min(axis=2).mean(axis=1)),
            ]
            for c in range(n + 1):
                runs = np.arange(n) < c
                pairs.append((s.pass_at_k([c], n, k), np.array([runs[chosen].any(axis=1).mean()])))
                pairs.append((s.pass_hat_k([c], n, k), np.array([runs[chosen].all(axis=1).mean()])))
            worst = max(worst, *(float(np.abs(ours - theirs).max()) for ours, theirs in pairs))
    return worst


def main(keep: bool) -> None:
    rows: list[dict[str, Any]] = []
    wrong: dict[str, int] = {"nano": 0, "taubench": 0, "swebench-lite": 0}
    cases = [("nano", system, NANO[system], nano(system)) for system in NANO]
    cases += [("taubench", "tau-bench airline, gpt-4o: pass^1 to pass^4", TAU, tau())]
    cases += [("swebench-lite", "AutoCodeRover: pass@1, pass@3, solved by run, any, all", ROVER, rover())]
    cases += [("swebench-lite", "SWE-agent: solved by run, pass@1", AGENT, agent())]
    for claim, what, printed, ours in cases:
        wrong[claim] += sum(a != b for a, b in zip(printed, ours, strict=True))
        rows.append({"what": what, "printed": " ".join(printed), "ours": " ".join(ours)})
    distance = subsets()
    if keep:
        note = (
            "Printed figures and ours. The six configurations: pass@1, SD, range, pass@5, pass^5, pass@10, "
        )
        save("evidence_golden", facts(), rows, note + "pass^10, tasks that went both ways, ICC.")
    for name, count in wrong.items():
        print(json.dumps({"claim": f"evidence.golden-{name}", "figure": count}))
    print(json.dumps({"claim": "evidence.golden-subsets", "figure": distance}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="write no results file (it takes a second)")
    main(not parser.parse_args().quick)
