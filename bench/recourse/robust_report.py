"""From the records of bench_robust to bench/results/recourse_robust.{json,md} and the claims."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from cells import interval
from machine import facts, save

JUDGES = ("bootstrap", "subsample", "noise", "time", "seeds", "awp", "dropout")
OURS, LIBRARY = "ours", "ellice 0.1.4"
NOTE = (
    "Nine tables (adult, compas, wine: 1,500 rows evenly spaced), 4 folds; linear models: 5 seeds, nets "
    "(16 hidden ReLU, last layer refitted): 2 seeds. 8 rejected test people a cell. The strength of a "
    "method (eps, delta, tau, probability) is chosen for each table and seed on 8 rejected training people "
    "a cell: the least one whose points all of 20 bootstrap models accept for 95 % of those who ask, else "
    "the most robust. Judged by 20 other models a set: bootstrap; subsample (80 %); noise (5 % of labels); "
    "time (windows of 60 % of the rows in their order: dates for compas, file order elsewhere); seeds "
    "(nets only); awp and dropout (loss within 0.02 of the base model's). R: share of people whose point "
    "ALL models of a set accept, mean over the sets; over valid points, and over all who asked. accept: "
    "share of single models that accept, over valid points. L2, L1, changed features (> 0.001), LOF (k = "
    "20) over valid points, in deviations of the training rows. ms: a person, gradient methods in one "
    "batch of all people of a table. Intervals: 95 %, tables and seeds drawn again."
)


def load(work: Path, quick: bool) -> list[dict[str, Any]]:
    records = []
    for file in sorted(work.glob(f"records-*-{int(quick)}.json")):
        records += json.loads(file.read_text())
    return records


def condense(records: list[dict[str, Any]]) -> dict[str, Any]:
    """One row of the table from the cells of one method (one table, or all)."""
    total = defaultdict(float)
    for record in records:
        for key, value in record.items():
            if isinstance(value, int | float):
                total[key] += value
    judges = [name for name in JUDGES if any(f"all_{name}" in record for record in records)]
    valid, asked = max(total["valid"], 1), total["asked"]
    made = {
        "found": total["found"] / asked,
        "valid": total["valid"] / asked,
        "R_valid": float(np.mean([total[f"all_{name}"] for name in judges])) / valid,
        "R_all": float(np.mean([total[f"all_{name}"] for name in judges])) / asked,
        "accept": float(np.mean([total[f"mean_{name}"] for name in judges])) / valid,
    }
    made |= {f"R_{name}": total[f"all_{name}"] / asked for name in judges}
    made |= {key: total[key] / valid for key in ("l2", "l1", "changed", "lof")}
    return made | {"ms": total["ms"] / len(records)}


def tables_of(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each kind, method and table, and the mean over tables with its interval."""
    cells = defaultdict(list)
    for record in records:
        cells[record["kind"], record["method"], record["set"]].append(record)
    rows = [
        {"kind": kind, "method": method, "set": name, "cells": len(part), **condense(part)}
        for (kind, method, name), part in cells.items()
    ]
    means = []
    for kind, method in dict.fromkeys((row["kind"], row["method"]) for row in rows):
        mine = [row for row in rows if (row["kind"], row["method"]) == (kind, method)]
        mean = {
            key: float(np.mean([row[key] for row in mine]))
            for key in mine[0]
            if key not in ("kind", "method", "set")
        }
        blocks = []  # [tables, seeds]
        for row in mine:
            part = cells[kind, method, row["set"]]
            by_seed = [[r for r in part if r["seed"] == seed] for seed in sorted({r["seed"] for r in part})]
            blocks.append([condense(group)["R_all"] for group in by_seed])
        width = min(map(len, blocks))
        low, high = interval(np.array([block[:width] for block in blocks]))
        means.append(
            {"kind": kind, "method": method, "set": "mean", **mean, "R_all_low": low, "R_all_high": high}
        )
    return means + rows


def claims(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    made = []
    for kind in ("linear", "net"):
        mean = {row["method"]: row for row in rows if row["kind"] == kind and row["set"] == "mean"}
        if OURS not in mean:
            continue
        ours = mean[OURS]
        peers = {name: row for name, row in mean.items() if not name.startswith("ours")}
        best = max(row["R_all"] for row in peers.values())
        made.append({"claim": f"recourse.robust-{kind}", "figure": round(ours["R_all"] - best, 3)})
        if LIBRARY in peers:
            paired = [
                (row["l2"], other["l2"])
                for row in rows
                for other in rows
                if row["kind"] == other["kind"] == kind
                and row["set"] == other["set"] != "mean"
                and (row["method"], other["method"]) == (OURS, LIBRARY)
            ]
            ratio = float(np.exp(np.mean([np.log(a / b) for a, b in paired])))
            made.append({"claim": f"recourse.length-{kind}", "figure": round(ratio, 3)})
        # shortest peer among those at least as robust
        rivals = [row["l2"] for row in peers.values() if row["R_all"] >= ours["R_all"] - 0.01]
        if rivals:
            made.append({"claim": f"recourse.shortest-{kind}", "figure": round(ours["l2"] / min(rivals), 3)})
    return made


def report(work: Path, *, quick: bool) -> None:
    records = load(work, quick)
    if not records:
        return
    rows = tables_of(records)
    if not quick:
        save("recourse_robust", facts(ellice="0.1.4", models_a_set=20), rows, NOTE)
    for row in rows:
        if row["set"] == "mean":
            print(json.dumps({key: round(v, 4) if isinstance(v, float) else v for key, v in row.items()}))
    for claim in claims(rows):
        print(json.dumps(claim))
