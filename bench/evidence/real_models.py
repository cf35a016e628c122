"""What seeds do to real comparisons: popularity, EASE, iALS, BPR and SASRec, ten seeds, two data sets.

For each model the variance components of NDCG@10 (users, seeds, their interaction) and the seeds that a
relative gain of 1 % and 5 % would take; for each pair how often one seed each names the wrong winner. Fits
are kept between calls (fit_real_models.py, about 20 minutes on one core); this script only reads them.

    python bench/evidence/real_models.py [--store FOLDER] [--quick]
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from fit_real_models import DETERMINISTIC, FILES, SEEDS, SETTINGS, STORE, cells, complete, evaluation
from machine import RESULTS, facts
from scipy import stats

from docs import GAINS, put, real_models
from recengine.evaluation.comparing import compare_systems
from recengine.evaluation.statistics import VarianceComponents, minimum_detectable_effect, plan
from recengine.evaluation.statistics import variance_components as components
from recengine.evaluation.systems import System

METRIC = "ndcg@10"


def systems(store: Path, data: str, seeds: int) -> list[System]:
    return [
        System.of(
            model,
            {
                seed: evaluation(store, data, model, seed)
                for seed in range(1 if model in DETERMINISTIC else seeds)
            },
            deterministic=model in DETERMINISTIC,
        )
        for model in SETTINGS
    ]


def doubled(parts: VarianceComponents) -> VarianceComponents:
    """The difference of two systems that vary as this one does, seeds apart; users differ as the rest
    does."""
    return replace(parts, unit=parts.error, run=2 * parts.run, error=2 * parts.error)


def of_model(system: System) -> dict[str, Any]:
    table = system.scores[METRIC]
    mean = float(table.mean())
    row: dict[str, Any] = {"model": system.name, "seeds": len(system.seeds), "mean": mean}
    row["sd_user"] = float(table.mean(axis=1).std(ddof=1))
    if system.deterministic:
        row |= {"sd_seed": 0.0, "sd_rest": 0.0, "sd_run": 0.0, "range": 0.0}
        return row | {f"seeds_{100 * gain:.0f}%": None for gain in GAINS}
    parts = components(table)
    runs = table.mean(axis=0)
    row["sd_user"] = parts.unit**0.5
    row |= {"sd_seed": parts.run**0.5, "sd_rest": parts.error**0.5}
    row |= {"sd_run": float(runs.std(ddof=1)), "range": float(np.ptp(runs))}
    for gain in GAINS:
        made = plan(doubled(parts), gain * mean, target="fixed", most_seeds=5000)
        row[f"seeds_{100 * gain:.0f}%"] = made.seeds
    row["detectable_5_seeds"] = (
        minimum_detectable_effect(doubled(parts), users=parts.n_units, seeds=5, target="fixed") / mean
    )
    new_users = plan(doubled(parts), GAINS[1] * mean, target="population", most_seeds=200)
    row["new_users_5%_5_seeds"] = new_users.users_needed or (parts.n_units if new_users.seeds else None)
    return row


def of_pairs(found: list[System]) -> list[dict[str, Any]]:
    compared = compare_systems(found, metrics=[METRIC], correction="holm")
    fixed = compare_systems(found, metrics=[METRIC], correction="holm", target="fixed")
    by_name = {system.name: system.scores[METRIC] for system in found}
    rows = []
    for pair, here in zip(compared.pairs, fixed.pairs, strict=True):
        a, b = by_name[pair.first], by_name[pair.second]
        sign = np.sign(pair.test.difference)
        sure = wrong_and_sure(a, b, sign)
        rows.append(
            {
                "pair": f"{pair.first} - {pair.second}",
                "difference": pair.test.difference,
                "relative": pair.relative,
                "low": pair.test.low,
                "high": pair.test.high,
                "p new users": pair.p_adjusted,
                "p these users": here.p_adjusted,
                "wrong winner": None if pair.flip is None else pair.flip.share,
                "wrong winner, normal": None if pair.flip is None else pair.flip.expected,
                "significant by one seed": sure[0],
                "significant and wrong": sure[1],
                "single-run pairs": a.shape[1] * b.shape[1],
            }
        )
    return rows


def wrong_and_sure(a: np.ndarray, b: np.ndarray, sign: float) -> tuple[float, float]:
    """Share of single-run pairs whose per-user t test is significant; and, for the wrong winner."""
    sure = wrong = 0
    for i in range(a.shape[1]):
        for j in range(b.shape[1]):
            test = stats.ttest_1samp(a[:, i] - b[:, j], 0)
            sure += test.pvalue < 0.05
            wrong += test.pvalue < 0.05 and np.sign(test.statistic) != sign
    pairs = a.shape[1] * b.shape[1]
    return sure / pairs, wrong / pairs


def write(result: dict[str, dict[str, Any]], told: str) -> None:
    machine = facts(seeds=SEEDS, settings=SETTINGS)
    (RESULTS / "evidence_real_models.json").write_text(
        json.dumps({"machine": machine, "note": told, "results": result}, indent=1) + "\n"
    )
    title = "# Seeds in real comparisons"
    (RESULTS / "evidence_real_models.md").write_text(f"{title}\n\n{told}\n\n{real_models(result)}")
    put("real-models", real_models(result))


def main(store: Path, quick: bool) -> None:
    seeds = 3 if quick else SEEDS
    models = ("popularity", "bpr") if quick else tuple(SETTINGS)
    complete(store, cells(models, seeds))
    if quick:
        for data in FILES:
            table = np.stack([evaluation(store, data, "bpr", s).values(METRIC) for s in range(seeds)], axis=1)
            print(data, "bpr: standard deviation of a run", float(table.mean(axis=0).std(ddof=1)))
        return
    result: dict[str, dict[str, Any]] = {}
    for data in FILES:
        found = systems(store, data, seeds)
        result[data] = {
            "users": len(found[0].users),
            "models": [of_model(system) for system in found],
            "pairs": of_pairs(found),
        }
    told = (
        "bench/evidence/real_models.py. Leave-two-out by time (ties by a seeded hash), all items ranked, "
        "seen ones left out. SASRec: 50 epochs, the best by validation; iALS: penalty 20; other settings are "
        "the defaults. "
        "Seeds for a gain: 80 % power at level 5 %, for these users, against a system that varies alike."
    )
    write(result, told)
    print(real_models(result))
    worst = max(row["wrong winner"] or 0.0 for found in result.values() for row in found["pairs"])
    cases = sum(len(found["models"]) for found in result.values())
    pairs = sum(len(list(combinations(found["models"], 2))) for found in result.values())
    print(json.dumps({"claim": "evidence.real-models", "figure": cases}))
    print(json.dumps({"claim": "evidence.real-pairs", "figure": pairs}))
    print(json.dumps({"worst wrong winner": worst}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", type=Path, default=STORE, help="where the evaluations are kept")
    parser.add_argument("--quick", action="store_true", help="two models, three seeds, nothing written")
    asked = parser.parse_args()
    main(asked.store, asked.quick)
