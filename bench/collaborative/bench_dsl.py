"""DSL-R against BPR, BSL, PSL, SL and SL@20: equal tuning, seeds, intervals, ablations, popularity shift.

    python bench/collaborative/bench_dsl.py --store RUNS --trials electronic sl       (resumable)
    python bench/collaborative/bench_dsl.py --store RUNS --finals electronic sl dsl_r --seeds 0 1 2
    python bench/collaborative/bench_dsl.py --store RUNS --write

DSL-R is a derived design that agrees with the public description of DSL; it is no reproduction of the paper.

Six trials a loss on the validation items alone; SL@20 and DSL-R take the temperature that SL's trials found,
as both designs say. The best trial is then fitted on the whole training part with every seed and measured on
the test part. Differences: crossed t test over users and seeds. Sets of which the store has no runs keep the
tables that are written already.

--quick runs one trial for one epoch on the smallest set and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from cells import RESULTS, Outcome, outcome, run
from dsl_courses import ABLATIONS, COURSES, LOSSES, OURS, final, trials
from searches import score

from recengine.evaluation.statistics import crossed_test, single_run_test
from recengine.training.record import environment


def finals(data: str, store: Path) -> dict[str, list[Outcome]]:
    """Runs that are there, by system, for the seeds that all of its runs have."""
    found: dict[str, list[Outcome]] = {}
    for system in (*LOSSES, *ABLATIONS):
        for seed in range(5):
            if (store / f"{data}-{system}-s{seed}.json").is_file():
                made = outcome(final(system, data, seed, store), store)
                if made is not None:
                    found.setdefault(system, []).append(made)
    return found


def table(runs: list[Outcome]) -> np.ndarray:
    """NDCG@20 [users, seeds]."""
    return np.stack([one.values for one in runs if one.values is not None], axis=1)


def ratio_with_interval(one: list[Outcome], other: list[Outcome]) -> dict[str, float]:
    """Ratio of the mean NDCG@20, and the 95 % interval of the difference over ``other``'s mean, for the seeds
    that both have."""
    seeds = sorted({r.cell["seed"] for r in one} & {r.cell["seed"] for r in other})
    first, second = (table([r for r in runs if r.cell["seed"] in seeds]) for runs in (one, other))
    test = crossed_test if len(seeds) > 1 else single_run_test
    found = test(first - second)
    base = float(second.mean())
    return {
        "ratio": float(first.mean()) / base,
        "low": 1 + found.low / base,
        "high": 1 + found.high / base,
        "p": found.p_value,
        "seeds": len(seeds),
    }


def tail(runs: list[Outcome]) -> float:
    """NDCG@20 of users whose targets are in the rarest tenth."""
    return float(np.mean([one.deciles.get("1", np.nan) for one in runs]))


def figures(
    data: str, systems: dict[str, list[Outcome]], validation: Mapping[str, float]
) -> list[dict[str, Any]]:
    """The claims that the runs of a data set bear on. Against the other losses it is the smallest ratio that
    counts, of the form of DSL-R that was best on validation among those with the most seeds. What is claimed
    of its branches is of the form without a weight."""
    made = []
    forms = [name for name in ("dsl_r", "dsl_w", "dsl_v") if name in systems]
    form = max(forms, key=lambda name: (len(systems[name]), validation[name]), default=None)
    others = [name for name in LOSSES if name not in OURS and name in systems]
    if form is not None and others:
        ratio = min(ratio_with_interval(systems[form], systems[other])["ratio"] for other in others)
        claim = f"collaborative.dsl-r-{COURSES[data].claim}"
        made.append({"claim": claim, "figure": round(ratio, 4), "form": form})
    if data != "electronic" or "sl" not in systems or "dsl_r" not in systems:
        return made
    ours = systems["dsl_r"]
    ratio = ratio_with_interval(ours, systems["sl"])["ratio"]
    made.append({"claim": "collaborative.dsl-r-over-sl", "figure": round(ratio, 4)})
    made.append({"claim": "collaborative.dsl-r-tail", "figure": round(tail(ours) / tail(systems["sl"]), 4)})
    alone = [systems[part] for part in ABLATIONS[:2] if part in systems]
    if len(alone) == 2:
        ratio = min(ratio_with_interval(ours, part)["ratio"] for part in alone)
        made.append({"claim": "collaborative.dsl-r-branches", "figure": round(ratio, 4)})
    return made


def best_validation(loss: str, data: str, store: Path) -> float:
    found = [outcome(cell, store) for cell in trials(loss, data, store)]
    return max(score(one) for one in found if one is not None)


def words(setting: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in setting.items() if k not in ("name", "shared", "negatives"))


def of_data(data: str, systems: dict[str, list[Outcome]], store: Path) -> list[str]:
    """The tables of one data set."""
    course = COURSES[data]
    lines = [
        f"## {course.title}",
        "",
        f"{course.model}, 64 factors, {course.negatives:,} uniform negatives shared by the batch"
        f"{' (those the user was trained on do not count)' if course.reject else ''}, batch "
        f"{course.batch:,}, Adam at "
        f"0.03 (BPR: searched) with a cosine course, {course.trial_epochs} epochs a trial, {course.epochs} "
        f"a run. {environment()['processor']}.",
        "",
        "| system | setting | validation NDCG@20 (trial) | seeds | Recall@20 | NDCG@20 | rarest tenth "
        "| over SL (95 %) | p |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, runs in systems.items():
        loss = name.partition("-")[0]
        searched = "" if "-" in name else f"{best_validation(loss, data, store):.4f}"
        versus = p = "–"
        if "sl" in systems and name != "sl":
            found = ratio_with_interval(runs, systems["sl"])
            versus = f"{found['ratio']:.3f} ({found['low']:.3f} to {found['high']:.3f})"
            p = f"{found['p']:.3f}"
        recall = np.mean([one.over_all_users(one.recall or 0.0) for one in runs])
        ndcg = np.mean([one.over_all_users(one.ndcg or 0.0) for one in runs])
        lines.append(
            f"| {name} | {words(runs[0].cell['loss'])}{rate_of(runs[0])} | {searched} | {len(runs)} "
            f"| {recall:.4f} | {ndcg:.4f} | {tail(runs):.4f} | {versus} | {p} |"
        )
    for name in OURS:
        shown = []
        for other in (loss for loss in LOSSES if loss not in OURS and loss in systems):
            if name in systems:
                found = ratio_with_interval(systems[name], systems[other])
                shown.append(
                    f"{other} {found['ratio']:.3f} ({found['low']:.3f} to {found['high']:.3f}, "
                    f"p = {found['p']:.3f}, {found['seeds']} seeds)"
                )
        if shown:
            lines += ["", f"{name} over " + "; ".join(shown) + "."]
    return [*lines, ""]


def trials_of(data: str, store: Path) -> list[str]:
    """A row for every loss whose trials were run."""
    lines = []
    for loss in LOSSES:
        if (store / f"{data}-trial-{loss}-0.json").is_file():
            found = [outcome(cell, store) for cell in trials(loss, data, store)]
            shown = [f"{words(one.cell['loss'])}{rate_of(one)}: {score(one):.4f}" for one in found if one]
            lines.append(f"| {data} | {loss} | {'; '.join(shown)} |")
    return lines


def rate_of(one: Outcome) -> str:
    slow = one.cell["loss"]["name"] == "bpr"
    return f"rate {one.cell['rate']}, decay {one.cell['decay']}" if slow else ""


def kept() -> dict[str, Any]:
    """What is written already: of each data set its tables, trials, runs and claims."""
    return dict(json.loads((RESULTS / "collaborative_dsl.json").read_text())["sets"])


def write(store: Path) -> None:
    """bench/results/collaborative_dsl.{json,md}: what is in the store, and of other sets what is written
    already; the claims' figures printed."""
    sets = kept()
    for data in COURSES:
        systems = finals(data, store)
        if systems:
            sets[data] = {
                "environment": environment(),
                "tables": of_data(data, systems, store),
                "trials": trials_of(data, store),
                "runs": {
                    name: [{k: v for k, v in vars(one).items() if k != "values"} for one in runs]
                    for name, runs in systems.items()
                },
                "claims": figures(
                    data,
                    systems,
                    {name: best_validation(name, data, store) for name in OURS if name in systems},
                ),
            }
    sets = {data: sets[data] for data in COURSES if data in sets}
    claims = [claim for one in sets.values() for claim in one["claims"]]
    lines = ["# DSL-R against the softmax family", "", HEAD, ""]
    lines += [line for one in sets.values() for line in one["tables"]]
    lines += ["## Trials", "", "| data | loss | settings: validation NDCG@20 |", "|---|---|---|"]
    lines += [line for one in sets.values() for line in one["trials"]]
    lines += ["", *[f"* `{claim['claim']}`: {claim['figure']}" for claim in claims]]
    command = "python bench/collaborative/bench_dsl.py --store RUNS --write"
    record = {"command": command, "sets": sets}
    (RESULTS / "collaborative_dsl.json").write_text(json.dumps(record, indent=1) + "\n")
    (RESULTS / "collaborative_dsl.md").write_text("\n".join(lines) + "\n")
    for claim in claims:
        print(json.dumps(claim))


HEAD = (
    "**DSL-R is a derived design that agrees with the public description of DSL, not a reproduction of the "
    "paper.** IR-Benchmark's files; six trials a loss on validation items alone (SL@20 and DSL-R at the "
    "temperature that SL's trials found), the best one fitted on the whole training part with every seed. "
    "On shifted sets the validation part is drawn as the test part was, and means count users without a test "
    "item as zero. *Over SL*: ratio of mean NDCG@20, interval of the crossed t test over users and seeds "
    "divided by SL's mean, p not corrected for the number of comparisons. *Rarest tenth*: users whose "
    "targets are in the least popular decile of items. Ablations keep DSL-R's chosen setting with one "
    "strength at zero, or the other sign of gamma. `dsl_w`, `dsl_v` and `dsl_k` are the mendings that were "
    "tried: DSL-R with BSL's weight on the sampled side, at SL's temperature; the same with gamma -1 and the "
    "temperature searched together with the weight, as BSL's is; and DSL-R whose rows are weighed by their "
    "reach of the slate, as SL@K does; six trials each. `bsl` is the authors' form; IR-Benchmark's form is "
    "SL times a constant, which Adam does not see. A set whose trials are listed without a table was "
    "searched, not measured on its test part."
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--store", type=Path)
    parser.add_argument("--trials", nargs="*", default=[], metavar="DATA LOSS ...")
    parser.add_argument("--finals", nargs="*", default=[], metavar="DATA SYSTEM ...")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    if asked.quick:
        with tempfile.TemporaryDirectory() as folder:
            cell = replace(trials("sl", "beauty", Path(folder))[0], final=True)
            print(json.dumps({"claim": "", "figure": run(cell, Path(folder), epochs=1).ndcg}))
        return
    if asked.store is None:
        sys.exit("--store DIR: where fits and what they gave are kept")
    for loss in asked.trials[1:]:
        for cell in trials(loss, asked.trials[0], asked.store):
            found = run(cell, asked.store)
            print(cell.name, words(cell.loss), found.validation, found.seconds, flush=True)
    for seed in asked.seeds:
        for system in asked.finals[1:]:
            cell = final(system, asked.finals[0], seed, asked.store)
            found = run(cell, asked.store)
            print(cell.name, words(cell.loss), found.recall, found.ndcg, found.seconds, flush=True)
    if asked.write:
        write(asked.store)


if __name__ == "__main__":
    main()
