"""From the records of bench_robust to bench/results/recourse_robust.{json,md} and the claims."""

from __future__ import annotations

import json
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from cells import interval
from machine import facts, save

JUDGES = ("bootstrap", "subsample", "noise", "time", "seeds", "awp", "dropout")
OURS, LIBRARY = "ours", "ellice 0.1.4"
NOTE = (
    "Nine tables, 4 folds; linear models: 5 seeds, at most 1,500 rows of a table (evenly spaced); nets "
    "(16 hidden ReLU, last layer refitted): as many seeds as cells (4 a seed) say, at most 800 rows. "
    "8 rejected test people a cell. The strength of a method (eps, delta, "
    "tau, probability; for our nets z, the deviations of 80 whole refits on bootstrap rows that are kept in "
    "hand, with eps = 0.06 z eps*, at most 0.3 eps*; 3 or 4 tried) is chosen for each table and seed on 8 "
    "rejected training people a cell and as many models of each set as judge: the most robust for all who "
    "ask, of equals (0.005) the least. Judged by 20 other models of each set: bootstrap; subsample (80 "
    "%); noise (5 % of labels); time (windows of 60 % of the rows in their order: dates for compas, file "
    "order elsewhere); seeds (nets only); awp and dropout (loss within 0.02 of the base model's). R: "
    "share of people whose point ALL models of a set accept, mean over the sets; over valid points, and "
    "over all who asked. accept: share of single models that accept. L2, L1, changed features (> 0.001), "
    "LOF (k = 20, median of a cell) over valid points, in deviations of the training rows. ms: a person, "
    "gradient methods in one batch of all people of a table; our nets: on a busy machine, with the "
    "training of the refits in the first strength only. Intervals: 95 %, tables and seeds drawn again. "
    "Rows 'at equal R': our length over the peer's at each strength of the peer, ours at the least length "
    "of our strengths whose R on the same people is at least the peer's (geometric mean; share: how often "
    "one exists), on the seeds with all of our strengths (nets: 0 and 1; later ones have the four that are "
    "chosen from). last layer: our nets without refits; seeds 0 to 2 of the nets were answered before "
    "our search among whole levels was narrowed. one strength a table: the same answers and judges, "
    "the strength chosen once for a table on the validation people of all five seeds (160 instead of 32; the "
    "most robust, of equals the least), for every method; fixed before its figures were seen. dice-ml: 0.12 "
    "as published, genetic search, the nearest of four; logistic models, seed 0; probabilities 0.5, 0.7 and "
    "0.9 (up to 0.7 for compas, cancer, ionosphere and australian: at 0.9 it did not end within 12 minutes "
    "on compas and took 12 s a person on adult)."
)


def load(work: Path, quick: bool) -> list[dict[str, Any]]:
    records = []
    for file in sorted(work.glob(f"measured-*-{int(quick)}.json")):
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
        if record["chosen"]:
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


POOLED = ", one strength a table"


def one_strength_a_table(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same records as if the strength had been chosen once for a table, on the validation people of all
    its seeds: the most robust, of equals the least. Only where every seed's validation is known."""
    shares = defaultdict(list)
    for record in records:
        key = (record["kind"], record["set"], record["method"])
        if "validation" in record:
            shares[key].append((record["knob"], record["seed"], record["fold"], record["validation"]))
    made = []
    for key, seen in shares.items():
        mine = [r for r in records if (r["kind"], r["set"], r["method"]) == key]
        if {r["seed"] for r in mine} != {seed for _, seed, _, _ in seen}:
            continue
        knobs = sorted({knob for knob, *_ in seen})
        mean = {k: float(np.mean([share for knob, *_, share in seen if knob == k])) for k in knobs}
        best = next(k for k in knobs if mean[k] >= max(mean.values()) - 1e-9)
        made += [r | {"kind": r["kind"] + POOLED, "chosen": r["knob"] == best} for r in mine]
    return made


def pooled_rows(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means and differences under that rule, for the kinds that have it on all tables."""
    again = one_strength_a_table(records)
    whole = {
        kind
        for kind in {r["kind"] for r in again}
        if {r["set"] for r in again if r["kind"] == kind}
        == {r["set"] for r in records if r["kind"] + POOLED == kind}
    }
    tables = {(r["kind"], r["method"], r["set"]) for r in again}
    count = {key: sum(t[:2] == key for t in tables) for key in {t[:2] for t in tables}}
    most = max(count.values(), default=0)
    kept = [r for r in again if r["kind"] in whole and count[r["kind"], r["method"]] == most]
    means = [row for row in tables_of(kept) if row["set"] == "mean"]
    return [{k: v for k, v in row.items() if k != "lof"} for row in means] + differences(kept)


def differences(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """R over all who ask, ours less each peer's, where both were run; interval over tables and seeds."""
    shares = defaultdict(dict)
    groups = defaultdict(list)
    for record in records:
        if record["chosen"]:
            groups[record["kind"], record["method"], record["set"], record["seed"]].append(record)
    for (kind, method, name, seed), part in groups.items():
        shares[kind, method][name, seed] = condense(part)["R_all"]
    made = []
    for (kind, method), theirs in shares.items():
        ours = shares.get((kind, OURS), {})
        common = sorted(set(theirs) & set(ours))
        if method.startswith("ours") or not common:
            continue
        blocks = defaultdict(list)
        for name, seed in common:
            blocks[name].append(ours[name, seed] - theirs[name, seed])
        width = min(map(len, blocks.values()))
        low, high = interval(np.array([block[:width] for block in blocks.values()]))
        made.append(
            {
                "kind": kind,
                "set": "ours less theirs",
                "method": method,
                "R_difference": float(np.mean([np.mean(block) for block in blocks.values()])),
                "R_difference_low": low,
                "R_difference_high": high,
            }
        )
    return made


def at_equal_robustness(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each kind and peer: our length over the peer's where ours is at least as robust; on the seeds on
    which all of our strengths were run."""
    ours_tried = defaultdict(set)
    for record in records:
        if record["method"] == OURS:
            ours_tried[record["kind"], record["set"], record["seed"]].add(record["knob"])
    most = {key[:2]: 0 for key in ours_tried}
    for key, knobs in ours_tried.items():
        most[key[:2]] = max(most[key[:2]], len(knobs))
    groups = defaultdict(list)
    for record in records:
        key = (record["kind"], record["set"])
        if len(ours_tried[*key, record["seed"]]) < most.get(key, 0):
            continue
        groups[record["kind"], record["set"], record["method"], record["knob"]].append(record)
    points = {key: condense(part) for key, part in groups.items()}

    def ours_with(kind: str, name: str, seeds: frozenset[int]) -> list[dict[str, Any]]:
        """Our strengths on the same seeds."""
        made = []
        for key, part in groups.items():
            if key[:3] == (kind, name, OURS):
                same = [record for record in part if record["seed"] in seeds]
                made += [condense(same)] if same else []
        return made

    cached = cache(ours_with)
    made = []
    for kind, peer in dict.fromkeys((r["kind"], r["method"]) for r in records):
        if peer.startswith("ours"):
            continue
        ratios, missing = defaultdict(list), 0
        for (k, name, method, knob), point in points.items():
            if (k, method) != (kind, peer) or point["valid"] < 0.5:
                continue
            seeds = frozenset(record["seed"] for record in groups[k, name, method, knob])
            ours = [p["l2"] for p in cached(kind, name, seeds) if p["R_all"] >= point["R_all"]]
            if ours:
                ratios[name].append(np.log(min(ours) / point["l2"]))
            else:
                missing += 1
        every = [np.mean(values) for values in ratios.values()]
        if not every:
            continue
        low, high = interval(np.array(every))
        total = sum(map(len, ratios.values()))
        made.append(
            {
                "kind": kind,
                "set": "at equal R",
                "method": peer,
                "length_ratio": float(np.exp(np.mean(every))),
                "ratio_low": float(np.exp(low)),
                "ratio_high": float(np.exp(high)),
                "share": total / (total + missing),
            }
        )
    return made


def claims(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    made = []
    for kind in ("linear", "net"):
        mean = {row["method"]: row for row in rows if row["kind"] == kind and row["set"] == "mean"}
        equal = {row["method"]: row for row in rows if row["kind"] == kind and row["set"] == "at equal R"}
        if OURS not in mean:
            continue
        best = max(row["R_all"] for name, row in mean.items() if not name.startswith("ours"))
        made.append({"claim": f"recourse.robust-{kind}", "figure": round(mean[OURS]["R_all"] - best, 4)})
        pooled = {r["method"]: r for r in rows if r["kind"] == kind + POOLED and r["set"] == "mean"}
        if OURS in pooled:
            best = max(row["R_all"] for name, row in pooled.items() if not name.startswith("ours"))
            figure = round(pooled[OURS]["R_all"] - best, 4)
            made.append({"claim": f"recourse.robust-{kind}-pooled", "figure": figure})
        if LIBRARY in equal:
            made.append(
                {"claim": f"recourse.length-{kind}", "figure": round(equal[LIBRARY]["length_ratio"], 3)}
            )
        if equal:
            worst = max(row["length_ratio"] for row in equal.values())
            made.append({"claim": f"recourse.shortest-{kind}", "figure": round(worst, 3)})
    return made


def report(work: Path, *, quick: bool) -> None:
    records = load(work, quick)
    if not records:
        return
    rows = tables_of(records) + at_equal_robustness(records) + differences(records) + pooled_rows(records)
    if not quick:
        save("recourse_robust", facts(ellice="0.1.4", models_a_set=20), rows, NOTE)
    for row in rows:
        if row["set"] in ("mean", "at equal R", "ours less theirs"):
            print(json.dumps({key: round(v, 4) if isinstance(v, float) else v for key, v in row.items()}))
    for claim in claims(rows):
        print(json.dumps(claim))
