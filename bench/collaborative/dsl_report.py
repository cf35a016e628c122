"""Tables and claims of the study of losses: what a store holds, beside what is written already.

Users' values are kept in the store alone, so intervals are told of runs that lie there together; of runs
whose store is gone the written rows stay, and a system that is added to them later is compared by its means.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from cells import RESULTS, Outcome, outcome
from dsl_courses import ABLATIONS, COURSES, LOSSES, OURS, final, trials
from searches import score

from recengine.evaluation.statistics import crossed_test, single_run_test
from recengine.training.record import environment

Run = dict[str, Any]  # an Outcome without its users' values
# The forms of DSL-R that are claimed, each searched by as many trials as another loss: the derived design,
# and the same with BSL's weight on the sampled side.
CLAIMED = {"dsl-r": "dsl_r", "dsl-r-weighted": "dsl_v"}


def finals(data: str, store: Path) -> dict[str, list[Outcome]]:
    """Runs that are there, by system."""
    found: dict[str, list[Outcome]] = {}
    for system in (*LOSSES, *ABLATIONS):
        for seed in range(5):
            if (store / f"{data}-{system}-s{seed}.json").is_file():
                made = outcome(final(system, data, seed, store), store)
                if made is not None:
                    found.setdefault(system, []).append(made)
    return found


def kept_form(runs: list[Outcome]) -> list[Run]:
    return [{k: v for k, v in vars(one).items() if k != "values"} for one in runs]


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


def ratio_of_means(one: list[Run], other: list[Run]) -> float:
    """Of NDCG@20, over the seeds that both have."""
    seeds = {run["cell"]["seed"] for run in one} & {run["cell"]["seed"] for run in other}
    first, second = (
        np.mean([run["ndcg"] for run in runs if run["cell"]["seed"] in seeds]) for runs in (one, other)
    )
    return float(first / second)


def tail(runs: list[Run]) -> float:
    """NDCG@20 of users whose targets are in the rarest tenth."""
    return float(np.mean([run["deciles"].get("1", np.nan) for run in runs]))


def figures(data: str, runs: dict[str, list[Run]]) -> list[dict[str, Any]]:
    """The claims that the runs of a data set bear on: of either claimed form of DSL-R the smallest ratio to
    another loss. What is claimed of its branches and of rare items is of the form without a weight."""
    made = []
    others = [name for name in LOSSES if name not in OURS and name in runs]
    for claim, form in CLAIMED.items():
        if form in runs and others:
            ratios = {other: ratio_of_means(runs[form], runs[other]) for other in others}
            best = min(ratios, key=ratios.__getitem__)
            name = f"collaborative.{claim}-{COURSES[data].claim}"
            made.append({"claim": name, "figure": round(ratios[best], 4), "over": best})
    if data != "electronic" or "sl" not in runs or "dsl_r" not in runs:
        return made
    ours = runs["dsl_r"]
    ratio = ratio_of_means(ours, runs["sl"])
    made.append({"claim": "collaborative.dsl-r-over-sl", "figure": round(ratio, 4)})
    made.append({"claim": "collaborative.dsl-r-tail", "figure": round(tail(ours) / tail(runs["sl"]), 4)})
    alone = [runs[part] for part in ABLATIONS[:2] if part in runs]
    if len(alone) == 2:
        ratio = min(ratio_of_means(ours, part) for part in alone)
        made.append({"claim": "collaborative.dsl-r-branches", "figure": round(ratio, 4)})
    return made


def best_validation(loss: str, data: str, store: Path) -> float:
    found = [outcome(cell, store) for cell in trials(loss, data, store)]
    return max(score(one) for one in found if one is not None)


def words(setting: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in setting.items() if k not in ("name", "shared", "negatives"))


def rate_of(one: Outcome) -> str:
    slow = one.cell["loss"]["name"] == "bpr"
    return f"rate {one.cell['rate']}, decay {one.cell['decay']}" if slow else ""


def row(name: str, runs: list[Outcome], validation: str, versus: str, p: str) -> str:
    recall = np.mean([one.over_all_users(one.recall or 0.0) for one in runs])
    ndcg = np.mean([one.over_all_users(one.ndcg or 0.0) for one in runs])
    return (
        f"| {name} | {words(runs[0].cell['loss'])}{rate_of(runs[0])} | {validation} | {len(runs)} "
        f"| {recall:.4f} | {ndcg:.4f} | {tail(kept_form(runs)):.4f} | {versus} | {p} |"
    )


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
        lines.append(row(name, runs, searched, versus, p))
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


def with_added(
    data: str, lines: list[str], kept: dict[str, list[Run]], systems: dict[str, list[Outcome]], store: Path
) -> list[str]:
    """The written tables of a data set, and in them the systems of the store that they have not."""
    for name, runs in systems.items():
        if any(line.startswith(f"| {name} |") for line in lines):
            continue
        own = kept_form(runs)
        searched = "" if "-" in name else f"{best_validation(name, data, store):.4f}"
        ratio = ratio_of_means(own, kept["sl"]) if "sl" in kept else float("nan")
        last = max(at for at, line in enumerate(lines) if line.startswith("| "))
        added = row(name, runs, searched, f"{ratio:.3f}", "–")
        shown = [
            f"{other} {ratio_of_means(own, kept[other]):.3f}"
            for other in LOSSES
            if other not in OURS and other in kept
        ]
        told = f"{name} over {'; '.join(shown)} (run later, of the others only means are kept: no intervals)."
        lines = [*lines[: last + 1], added, *lines[last + 1 :], told, ""]
    return lines


def trials_of(data: str, store: Path) -> list[str]:
    """A row for every loss whose trials were run."""
    lines = []
    for loss in LOSSES:
        if (store / f"{data}-trial-{loss}-0.json").is_file():
            found = [outcome(cell, store) for cell in trials(loss, data, store)]
            shown = [f"{words(one.cell['loss'])}{rate_of(one)}: {score(one):.4f}" for one in found if one]
            lines.append(f"| {data} | {loss} | {'; '.join(shown)} |")
    return lines


def kept_sets() -> dict[str, Any]:
    """What is written already: of each data set its tables, trials, runs and claims."""
    return dict(json.loads((RESULTS / "collaborative_dsl.json").read_text())["sets"])


def written(
    data: str, kept: dict[str, Any] | None, systems: dict[str, list[Outcome]], store: Path
) -> dict[str, Any]:
    """A data set's part of the record: the store's runs, beside the written ones that it has not."""
    fresh = {name: kept_form(runs) for name, runs in systems.items()}
    told = trials_of(data, store)
    if kept is None or set(kept["runs"]) <= set(fresh):
        tables, runs = of_data(data, systems, store), fresh
    else:
        tables = with_added(data, kept["tables"], kept["runs"], systems, store)
        runs = {**fresh, **kept["runs"]}
        heads = [line.split(" | ")[:2] for line in kept["trials"]]
        told = kept["trials"] + [line for line in told if line.split(" | ")[:2] not in heads]
    where = environment() if kept is None or tables != kept["tables"] else kept["environment"]
    return {
        "environment": where,
        "tables": tables,
        "trials": told,
        "runs": runs,
        "claims": figures(data, runs),
    }


def write(store: Path) -> None:
    """bench/results/collaborative_dsl.{json,md}: what is in the store, and what is written already; of sets
    that are in the store the claims' figures are printed."""
    sets = kept_sets()
    for data in COURSES:
        systems = finals(data, store)
        if systems:
            sets[data] = written(data, sets.get(data), systems, store)
            for claim in sets[data]["claims"]:
                print(json.dumps(claim))
    sets = {data: sets[data] for data in COURSES if data in sets}
    for data, one in sets.items():
        one["claims"] = figures(data, one["runs"])
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
    "searched, not measured on its test part. Two forms are claimed, each by itself with six trials: "
    "`dsl_r`, and `dsl_v` (in the claims: weighted); none is picked by what it gave. The searches do not go "
    "past their edges: SL@20's widest weight (3.0) is its best on most sets, and a corner of BSL's grid on "
    "two."
)
