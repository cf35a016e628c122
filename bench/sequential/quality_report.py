"""The cells of bench_quality.py as tables, differences with intervals, figures of claims, and a page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kept_cells
import numpy as np
from quality_courses import ASKED, FORMS, LEVELS, MODELS, PAIRS


def report(kept: Path) -> dict[str, Any]:
    """What is kept: levels with intervals, differences of PAIRS, what is missing."""
    from recengine.evaluation import Protocol
    from recengine.evaluation.intervals import t_interval
    from recengine.evaluation.systems import System

    cells = [kept_cells.read(path) for path in sorted(kept.glob("*.npz"))]
    table, differences = [], []
    for data in dict.fromkeys([*ASKED, *(told["data"] for _, told in cells)]):
        systems = {}
        for model in (*MODELS, *FORMS):
            runs = {
                told["seed"]: (scores, told)
                for scores, told in cells
                if (told["data"], told["model"]) == (data, model)
            }
            if not runs:
                table.append({"data": data, "model": model, "seeds": []})
                continue
            seeds = sorted(runs)
            tables = {
                name: np.stack([runs[seed][0][name] for seed in seeds], axis=1) for name in runs[seeds[0]][0]
            }
            protocol = Protocol.from_description(runs[seeds[0]][1]["protocol"])
            users = tuple(range(len(next(iter(tables.values())))))
            systems[model] = System(model, users, tuple(seeds), tables, protocol)
            row: dict[str, Any] = {"data": data, "model": model, "seeds": seeds}
            for name, scores in tables.items():
                by_user = scores.mean(axis=1)
                row[name] = {"mean": float(by_user.mean()), "interval": t_interval(by_user)}
            told = [runs[seed][1] for seed in seeds]
            row["given"] = "; ".join(sorted({one["given"] for one in told}))
            row["processor"] = "; ".join(sorted({one["processor"] for one in told}))
            row["best_epochs"] = [one["best_epoch"] for one in told]
            row["train_s"] = float(np.median([one["train_s"] for one in told]))
            row["extras"] = {
                kind: {
                    name: float(np.mean([one["extras"][kind][name] for one in told]))
                    for name in ("ndcg@10", "recall@10")
                }
                for kind in ("uniform-100", "popularity-100")
            }
            table.append(row)
        for model, against in PAIRS:
            found = _difference(data, systems, model, against)
            differences += [found] if found else []
    return {"table": table, "differences": differences}


def _difference(data: str, systems: dict[str, Any], model: str, against: str) -> dict[str, Any] | None:
    """NDCG@10 of one model less that of another over the latter's, for the seeds that both have."""
    from recengine.evaluation.comparing import compare_systems

    if not {model, against} <= systems.keys():
        return None
    both = set(systems[model].seeds) & set(systems[against].seeds)
    if not both:
        return None
    pair = [_on_seeds(systems[name], both) for name in (model, against)]
    test = compare_systems(pair, metrics=["ndcg@10"], correction="none").pairs[0]
    base = float(np.nanmean(pair[1].scores["ndcg@10"]))
    return {
        "data": data,
        "model": model,
        "against": against,
        "seeds": sorted(both),
        "relative": test.relative,
        "interval": [test.test.low / base, test.test.high / base],
        "p": test.test.p_value,
    }


def _on_seeds(system: Any, seeds: set[int]) -> Any:
    from dataclasses import replace

    at = [index for index, seed in enumerate(system.seeds) if seed in seeds]
    scores = {name: values[:, at] for name, values in system.scores.items()}
    return replace(system, seeds=tuple(system.seeds[index] for index in at), scores=scores)


def figures(found: dict[str, Any]) -> dict[str, float]:
    """Claim by claim, what is measured."""
    beside = {"gru4rec", *FORMS}
    asked = [row for row in found["table"] if row["data"] in ASKED and row["model"] not in beside]
    made = {"sequential.quality-cells": float(sum(min(5, len(row["seeds"])) for row in asked))}
    for row in asked:
        for metric in ("ndcg@10", *LEVELS.get((row["data"], row["model"]), ())):
            if metric in row:
                name = metric.partition("@")[0]
                made[f"sequential.{row['data']}-{row['model']}-{name}"] = row[metric]["mean"]
    for one in found["differences"]:
        if (one["model"], one["against"]) == PAIRS[0]:
            made[f"sequential.cotten4rec-of-bert4rec-{one['data']}"] = 1 + one["relative"]
    return made


def page(found: dict[str, Any], head: dict[str, Any]) -> str:
    """The result as a page."""
    lines = [
        "# Quality of the sequence models",
        "",
        f"{head['processor']}; report of {head['date']}, torch {head['torch']}; `{head['script']}`. Full "
        "ranking, seen items left out, leave-two-out, validation NDCG@10 chose the epoch; a cell asked the "
        "test once, when it was fitted. Intervals: 95 %, over users, of the mean over seeds. " + head["cut"],
        "",
        "| data | model | seeds | NDCG@10 | Recall@10 | first spread, step, course | best epoch "
        "| uniform-100 NDCG@10 (extra) | popularity-100 NDCG@10 (extra) | processor |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in found["table"]:
        beside = row["model"] == "gru4rec" or row["model"] in FORMS or row["data"] not in ASKED
        if not row["seeds"]:
            if not beside:
                lines.append(f"| {row['data']} | {row['model']} | not measured | | | | | | | |")
            continue
        cells = [
            "{:.4f} ({:.4f} to {:.4f})".format(row[name]["mean"], *row[name]["interval"])
            for name in ("ndcg@10", "recall@10")
        ]
        cells += [row["given"], ", ".join(map(str, row["best_epochs"]))]
        cells += [f"{row['extras'][kind]['ndcg@10']:.4f}" for kind in ("uniform-100", "popularity-100")]
        cells.append(row["processor"])
        lines.append(f"| {row['data']} | {row['model']} | {len(row['seeds'])} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "Differences of NDCG@10, relative (cotten4rec-causal: with the causal kernel, hidden events;",
    ]
    lines += ["cotten4rec-next: with the causal kernel, the next event):", ""]
    for one in found["differences"]:
        data, model, against = (one[key] for key in ("data", "model", "against"))
        low, high = (f"{100 * end:+.1f}" for end in one["interval"])
        lines.append(
            f"* {data}, {model} against {against}, {len(one['seeds'])} seeds: {100 * one['relative']:+.1f} % "
            f"({low} to {high} %)"
        )
    return "\n".join([*lines, ""])
