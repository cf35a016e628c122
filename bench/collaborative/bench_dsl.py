"""DSL-R against BPR, BSL, PSL, SL and SL@20: equal tuning, seeds, intervals, ablations, popularity shift.

    python bench/collaborative/bench_dsl.py --store RUNS --claim dsl-r-mf-cd          (all that a claim needs)
    python bench/collaborative/bench_dsl.py --store RUNS --trials electronic sl       (resumable)
    python bench/collaborative/bench_dsl.py --store RUNS --finals electronic sl dsl_r --seeds 0 1 2
    python bench/collaborative/bench_dsl.py --store RUNS --write

DSL-R is a derived design that agrees with the public description of DSL; it is no reproduction of the paper.

Six trials a loss, and six for each claimed form of DSL-R, on the validation items alone; SL@20, BSL and
DSL-R start from the temperature that SL's trials found. The best trial is then fitted on the whole training
part with every seed and measured on the test part. Differences: crossed t test over users and seeds.

--claim runs what it needs, an hour or more, and tells its figure; with the same store it goes on where it
stopped.

--quick runs one trial for one epoch on the smallest set and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from cells import run
from dsl_courses import ABLATIONS, COURSES, LOSSES, OURS, final, trials
from dsl_report import CLAIMED, figures, finals, kept_form, words, write

OF_ELECTRONICS = {"dsl-r-over-sl": ["sl", "dsl_r"], "dsl-r-tail": ["sl", "dsl_r"]}
OF_ELECTRONICS["dsl-r-branches"] = ["sl", "dsl_r", *ABLATIONS[:2]]


def needed(claim: str) -> tuple[str, list[str]]:
    """The data set of a claim and the systems that it stands on, SL first."""
    if claim in OF_ELECTRONICS:
        return "electronic", OF_ELECTRONICS[claim]
    for prefix, form in CLAIMED.items():
        for data, course in COURSES.items():
            if claim == f"{prefix}-{course.claim}":
                return data, ["sl", *[name for name in LOSSES if name not in (*OURS, "sl")], form]
    sys.exit(f"no claim of this bench: {claim}; see: python bench/claims.py list")


def search(data: str, loss: str, store: Path) -> None:
    for cell in trials(loss, data, store):
        found = run(cell, store)
        print(cell.name, words(cell.loss), found.validation, found.seconds, flush=True)


def fit(data: str, system: str, seed: int, store: Path) -> None:
    cell = final(system, data, seed, store)
    found = run(cell, store)
    print(cell.name, words(cell.loss), found.recall, found.ndcg, found.seconds, flush=True)


def measure(claim: str, store: Path) -> None:
    """Trials and runs that a claim stands on, as far as the store has them not; its figure, of them alone."""
    data, systems = needed(claim)
    for loss in dict.fromkeys(system.partition("-")[0] for system in systems):
        search(data, loss, store)
    for system in systems:
        for seed in range(COURSES[data].seeds):
            fit(data, system, seed, store)
    own = {name: kept_form(runs) for name, runs in finals(data, store).items() if name in systems}
    for found in figures(data, own):
        if found["claim"] == f"collaborative.{claim}":
            print(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--store", type=Path)
    parser.add_argument("--claim", help="the name of a claim without its topic")
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
    if asked.claim:
        measure(asked.claim, asked.store)
    for loss in asked.trials[1:]:
        search(asked.trials[0], loss, asked.store)
    for seed in asked.seeds:
        for system in asked.finals[1:]:
            fit(asked.finals[0], system, seed, asked.store)
    if asked.write:
        write(asked.store)


if __name__ == "__main__":
    main()
