"""The tables of docs/evidence.md, made from the results files: run it after a benchmark was recorded.

python bench/evidence/docs.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "bench" / "results"
PAGE = ROOT / "docs" / "evidence.md"
GAINS = (0.01, 0.05)


def put(name: str, text: str) -> None:
    """Replace what stands between the markers of ``name`` on the page."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, _, rest = PAGE.read_text().partition(begin)
    _, _, after = rest.partition(end)
    PAGE.write_text(f"{before}{begin}\n{text}{end}{after}")


def tables() -> dict[str, str]:
    """Every table of the page by the name of its markers, from the results files."""
    models = json.loads((RESULTS / "evidence_real_models.json").read_text())["results"]
    simulated = json.loads((RESULTS / "evidence_simulation.json").read_text())["rows"]
    return {"real-models": real_models(models), "simulation": simulation(simulated)}


def real_models(result: dict[str, dict[str, Any]]) -> str:
    """The tables, as they stand in the results file and in the docs."""
    lines = []
    for data, found in result.items():
        users = found["users"]
        lines += [
            f"**{data}**, {users} users, NDCG@10, 10 seeds; standard deviations x 1000.",
            "",
            "| model | mean | users | seeds | users x seeds | one run | seeds for +1 % | seeds for +5 % |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        for row in found["models"]:
            numbers = [f"{1000 * row[key]:.2f}" for key in ("sd_user", "sd_seed", "sd_rest", "sd_run")]
            needed = [_needed(row, gain) for gain in GAINS]
            lines.append(f"| {row['model']} | {row['mean']:.4f} | {' | '.join([*numbers, *needed])} |")
        lines += [
            "",
            "| pair | difference (relative) | p, new users | p, these users | one seed is wrong |",
            "| --- | --- | --- | --- | --- |",
        ]
        for row in found["pairs"]:
            wrong = "–" if row["wrong winner"] is None else f"{100 * row['wrong winner']:.0f} %"
            lines.append(
                f"| {row['pair']} | {row['difference']:+.4f} ({100 * row['relative']:+.1f} %) | "
                f"{_p(row['p new users'])} | {_p(row['p these users'])} | {wrong} |"
            )
        lines.append("")
    return "\n".join(lines)


def _needed(row: dict[str, Any], gain: float) -> str:
    if row["seeds"] == 1:
        return "1"
    needed = row[f"seeds_{100 * gain:.0f}%"]
    return "> 5000" if needed is None else str(needed)


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def simulation(rows: list[dict[str, Any]]) -> str:
    """Level of each test by number of seeds and spread of the seeds' main effect."""
    told = {"seeds": "seeds", "seed_sd": "seed SD"}
    known = ("coverage", "power", "power formula")
    tests = [key for key in rows[0] if key not in told and key not in known]
    lines = ["| seeds | seed SD | " + " | ".join(tests) + " |", "|" + " --- |" * (2 + len(tests))]
    for row in rows:
        cells = [f"{100 * row[test]:.1f} %" for test in tests]
        lines.append(f"| {row['seeds']} | {row['seed_sd']:g} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    for name, text in tables().items():
        put(name, text)
