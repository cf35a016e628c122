"""How a training step grows with the length of the sequences and with the catalogue.

    python bench/sequential/bench_scaling.py [--quick]

Lengths 50 to 4,000: Cotten4Rec, BERT4Rec and LinRec, width 64, 1,000 items, 2 sequences a step. Catalogues
of 1,000 to 1,000,000 generated items: Cotten4Rec, 16 sequences of 50 events, with full softmax and with 1,024
sampled items (of 1,000 items all of them). Median wall seconds of a step (Adam included), one thread; peak of
torch's allocations in a step. The exponent is the slope of a straight line through the points of the log-log
plot from FROM on, where it is drawn: 1,000 events, 100,000 items, below which what a step costs at any size
counts for more. The slope over all points stands beside it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import record
import torch
from steps import Step, peak_bytes, seconds

MODELS = ("cotten4rec", "bert4rec", "linrec")
LENGTHS = (50, 100, 200, 500, 1000, 2000, 4000)
CATALOGUES = (1_000, 10_000, 100_000, 200_000, 500_000, 1_000_000)
KINDS = {  # where it is claimed, and how the claim ends
    "cotten4rec": ("length", ""),
    "bert4rec": ("length", "-bert4rec"),
    "linrec": ("length", "-linrec"),
    "softmax": ("items", ""),
    "sampled_softmax": ("items", "-sampled"),
}
FROM = {"events": 1_000, "items": 100_000}
LOSSES: dict[str, dict[str, Any]] = {
    "softmax": {"name": "softmax"},
    "sampled_softmax": {"name": "sampled_softmax", "negatives": 1024},
}
MIB = 2**20


def measured(step: Step, repeats: int) -> dict[str, float]:
    """Seconds and peak of a step."""
    return {"seconds": seconds(step, repeats), "peak MiB": peak_bytes(step, step.clear) / MIB}


def lengths(quick: bool) -> list[dict[str, Any]]:
    rows = []
    for length in LENGTHS[:3] if quick else LENGTHS:
        for model in MODELS:
            step = Step(model, 2, length, 1000, {"hidden_dim": 64, "last_share": 0.0})
            rows.append({"kind": model, "size": length, **measured(step, 1 if quick else 5)})
    return rows


def catalogues(quick: bool) -> list[dict[str, Any]]:
    rows = []
    for items in CATALOGUES[:2] if quick else CATALOGUES:
        for name, loss in LOSSES.items():
            if loss.get("negatives", 0) > items:  # as many as there are
                loss = {**loss, "negatives": items}
            step = Step("cotten4rec", 16, 50, items, {"hidden_dim": 64}, loss)
            rows.append({"kind": name, "size": items, **measured(step, 1 if quick else 3)})
    return rows


def fitted(rows: list[dict[str, Any]], start: int) -> list[dict[str, Any]]:
    """Those of a size from ``start`` on; all of them where that leaves fewer than two sizes."""
    late = [row for row in rows if row["size"] >= start]
    return late if len({row["size"] for row in late}) > 1 else rows


def lines(rows: list[dict[str, Any]], key: str) -> dict[str, np.ndarray]:
    """Slope and intercept of log(key) over log(size), by kind."""
    made = {}
    for kind in dict.fromkeys(row["kind"] for row in rows):
        mine = [row for row in rows if row["kind"] == kind]
        x, y = (np.log([row[name] for row in mine]) for name in ("size", key))
        made[kind] = np.polyfit(x, y, 1)
    return made


def exponents(rows: list[dict[str, Any]], start: int) -> list[dict[str, Any]]:
    """Slopes of ``lines`` by kind, of the fitted points and of all."""
    late = fitted(rows, start)
    sizes = sorted({row["size"] for row in late})
    slopes = {key: (lines(late, key), lines(rows, key)) for key in ("seconds", "peak MiB")}
    return [
        {
            "": kind,
            "sizes": f"{sizes[0]:,} to {sizes[-1]:,}",
            "time": float(slopes["seconds"][0][kind][0]),
            "memory": float(slopes["peak MiB"][0][kind][0]),
            "time, all points": float(slopes["seconds"][1][kind][0]),
            "memory, all points": float(slopes["peak MiB"][1][kind][0]),
        }
        for kind in dict.fromkeys(row["kind"] for row in rows)
    ]


def plot(by_length: list[dict[str, Any]], by_items: list[dict[str, Any]], path: Path) -> None:
    """Four log-log panels."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(2, 2, figsize=(10, 7.5), layout="constrained")
    sides = (
        (by_length, FROM["events"], "events in a sequence"),
        (by_items, FROM["items"], "items in the catalogue"),
    )
    for across, (rows, start, label) in enumerate(sides):
        for down, (key, unit) in enumerate((("seconds", "s a step"), ("peak MiB", "MiB at the peak"))):
            panel = panels[down][across]
            late = sorted({row["size"] for row in fitted(rows, start)})
            for kind, line in lines(fitted(rows, start), key).items():
                mine = [row for row in rows if row["kind"] == kind]
                sizes = np.array([row["size"] for row in mine])
                drawn = panel.loglog(
                    sizes, [row[key] for row in mine], "o", label=f"{kind}: exponent {line[0]:.2f}"
                )
                on_line = np.exp(np.polyval(line, np.log(sizes)))
                inside = sizes >= late[0]
                panel.loglog(sizes[inside], on_line[inside], color=drawn[0].get_color())
                panel.loglog(sizes, on_line, ":", color=drawn[0].get_color(), alpha=0.4)
            panel.set_xlabel(label)
            panel.set_ylabel(unit)
            panel.grid(visible=True, which="major", alpha=0.3)
            panel.legend()
    figure.savefig(path, dpi=110)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="the smallest sizes, one repeat")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    by_length, by_items = lengths(asked.quick), catalogues(asked.quick)
    slopes = [*exponents(by_length, FROM["events"]), *exponents(by_items, FROM["items"])]
    made = {}
    for row in slopes:
        place, model = KINDS[row[""]]
        for key in ("time", "memory"):
            made[f"sequential.scaling-{place}-{key}{model}"] = row[key]
    if not asked.quick:
        record.RESULTS.mkdir(exist_ok=True)
        plot(by_length, by_items, record.RESULTS / "sequential_scaling.png")
        head = record.head("bench_scaling.py", threads=1, exponents=slopes, figures=made)
        text = [
            "![log-log](sequential_scaling.png)",
            "",
            "Exponents (of the sizes named; over all points beside them):",
            "",
            *record.table(slopes),
            "",
            *record.table(by_length),
            "",
            *record.table(by_items),
        ]
        given = {**head, "by_length": by_length, "by_items": by_items}
        record.write("sequential_scaling", given, "Growth with length and catalogue", text)
    record.tell(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
