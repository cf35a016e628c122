"""Writes the measured tables of docs/recourse.md from bench/results/recourse_*.json.

python bench/recourse/page_table.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "recourse.md"
BEGIN, END = "<!-- measured:begin -->", "<!-- measured:end -->"


def rows_of(name: str) -> list[dict[str, Any]]:
    file = ROOT / "bench" / "results" / f"recourse_{name}.json"
    return json.loads(file.read_text())["rows"] if file.exists() else []


def _lines(head: str, rows: list[str]) -> str:
    return "\n".join([head, "|" + " --- |" * (head.count("|") - 1), *rows])


def library() -> str:
    """Length and speed beside the library."""
    rows = [row for row in rows_of("ellice") if row["variant"] == "defaults"]
    made = [
        f"| {r['set']} ({r['d']}) | {r['l2']:.3f} | {r['l2_library']:.3f} | {r['ratio']:.2f} "
        f"({r['ratio_low']:.2f} - {r['ratio_high']:.2f}) | {r['public_us_1']:.0f} | "
        f"{1e3 * r['library_ms']:.0f} | {r['faster_1']:.0f} |"
        for r in rows
    ]
    head = "| table (features) | length | ellice | ratio (95 %) | us a person | ellice | times faster |"
    return _lines(head, made)


def robust(kind: str) -> str:
    """Means over the nine tables, the most robust first."""
    rows = [row for row in rows_of("robust") if row["kind"] == kind and row["set"] == "mean"]
    rows.sort(key=lambda row: -row["R_all"])
    full = max(row["cells"] for row in rows)
    made = [
        f"| {r['method']}{'' if r['cells'] == full else ', seed 0'} | {r['valid']:.3f} | {r['R_all']:.3f} "
        f"({r['R_all_low']:.3f} - {r['R_all_high']:.3f}) | {r['R_valid']:.3f} | {r['l2']:.2f} | "
        f"{r['l1']:.2f} | {r['changed']:.1f} | {r['lof']:.2f} | {r['ms']:.2g} |"
        for r in rows
    ]
    head = "| method | valid | R, all who ask (95 %) | R, valid | L2 | L1 | changed | LOF | ms a person |"
    return _lines(head, made)


def pooled() -> str:
    """Means under one strength a table, the most robust first, then the shortest."""
    rows = [r for r in rows_of("robust") if r["kind"].startswith("linear, ") and r["set"] == "mean"]
    rows.sort(key=lambda row: (-row["R_all"], row["l2"]))
    made = [
        f"| {r['method']} | {r['R_all']:.4f} ({r['R_all_low']:.4f} - {r['R_all_high']:.4f}) | "
        f"{r['l2']:.2f} | {r['l1']:.2f} | {r['changed']:.1f} |"
        for r in rows
    ]
    return _lines("| method | R, all who ask (95 %) | L2 | L1 | changed |", made)


def equal(kind: str) -> str:
    """Our length over each peer's where ours is at least as robust."""
    made = [
        f"| {r['method']} | {r['length_ratio']:.2f} ({r['ratio_low']:.2f} - {r['ratio_high']:.2f}) | "
        f"{r['share']:.2f} |"
        for r in rows_of("robust")
        if r["kind"] == kind and r["set"] == "at equal R"
    ]
    return _lines("| peer | our length over its (95 %) | how often we are as robust |", made)


def seeds_of(kind: str) -> str:
    """How many tables and seeds our rows are of."""
    rows = [row for row in rows_of("robust") if row["kind"] == kind and row["method"] == "ours"]
    cells = [
        row["cells"] // 4 for row in rows if row["set"] not in ("mean", "at equal R", "ours less theirs")
    ]
    fewest, most = min(cells), max(cells)
    return f"{len(cells)} tables, {fewest if fewest == most else f'{fewest} to {most}'} seeds"


def differences(kind: str) -> str:
    """R, ours less each peer's."""
    made = [
        f"| {r['method']} | {r['R_difference']:+.4f} ({r['R_difference_low']:+.4f} to "
        f"{r['R_difference_high']:+.4f}) |"
        for r in rows_of("robust")
        if r["kind"] == kind and r["set"] == "ours less theirs"
    ]
    return _lines("| peer | R, ours less its (95 %) |", made)


def speed() -> str:
    """People per second within bounds."""
    rows = [row for row in rows_of("scaling") if row["limits"] == "box"]
    sizes = sorted({row["n"] for row in rows})
    made = []
    for d, threads in sorted({(row["d"], row["threads"]) for row in rows}):
        rate = {row["n"]: row["per_second"] for row in rows if (row["d"], row["threads"]) == (d, threads)}
        cells = " | ".join(f"{rate[n]:,.0f}" if n in rate else "-" for n in sizes)
        made.append(f"| {d} | {threads} | {cells} |")
    head = "| features | threads | " + " | ".join(f"{n:,} people" for n in sizes) + " |"
    return _lines(head, made)


def table() -> str:
    """All tables, each under a line that says what it is."""
    return "\n\n".join(
        [
            "Beside the library `ellice` 0.1.4: same model, Hessian, eps, box; one thread; batches of 1,000:",
            library(),
            f"Surviving retrained and perturbed models, logistic regression: {seeds_of('linear')}:",
            robust("linear"),
            differences("linear"),
            "The same with one strength a table, chosen on the validation people of all five seeds:",
            pooled(),
            "At equal robustness, all strengths of each peer (logistic regression):",
            equal("linear"),
            f"The same for nets with one hidden layer, ours with 80 whole refits: {seeds_of('net')}:",
            robust("net"),
            differences("net"),
            "At equal robustness (nets):",
            equal("net"),
            "People per second, all features bounded, a third one-way, one in five immutable:",
            speed(),
        ]
    )


def main() -> None:
    head, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, tail = rest.partition(END)
    PAGE.write_text(f"{head}{BEGIN}\n{table()}\n{END}{tail}")


if __name__ == "__main__":
    main()
