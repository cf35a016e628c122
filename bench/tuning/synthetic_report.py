"""Table, figure and claims of the runs on planted problems (bench_synthetic.py report)."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import wilcoxon

from recengine.training.record import environment

RESULTS = Path(__file__).resolve().parents[1] / "results"
Row = dict[str, Any]
METHODS = ("bonsai", "bonsai-sobol", "ax", "sebo", "internal", "external", "bo", "sobol", "random")
COLOURS = ("#1b6ca8", "#9fc5e8", "#c8553d", "#7d5ba6", "#b07aa1", "#4e9f9b", "#6b7a2f", "#8d8d8d", "#c9a227")
DRAWS = 500
USUAL = 30  # trials


def regret(row: Row, upto: int | None = None) -> float:
    """Optimum less the best feasible value among the first ``upto`` trials (all)."""
    seen = zip(row["values"][:upto], row["feasible"][:upto], strict=True)
    return row["best"] - max(value for value, feasible in seen if feasible)


def proposals(row: Row, initial: int) -> list[int]:
    """Changed parameters of the model's proposals, without design and confirmations."""
    own = zip(row["changed"][initial:], row["origins"], strict=True)
    return [changed for changed, origin in own if origin != "confirmation"]


def last_third(row: Row, initial: int) -> float:
    own = proposals(row, initial)
    return statistics.mean(own[-max(1, len(own) // 3) :])


def volume(row: Row) -> float:
    """Hypervolume of (changed, best): mean over k = 1..d of the share of the way from the default to the
    optimum that points with at most k changes have gone."""
    way = row["best"] - row["values"][0]
    seen = [(c, v) for c, v, f in zip(row["changed"], row["values"], row["feasible"], strict=True) if f]
    reached = [max(v for c, v in seen if c <= k) - row["values"][0] for k in range(1, row["parameters"] + 1)]
    return statistics.mean(reached) / way


def paired(rows: list[Row], trials: int) -> list[tuple[Row, Row]]:
    """Runs of bonsai with Ax's of the same problem and seed; ValueError where their defaults differ."""
    known = {(r["problem"], r["seed"], r["method"]): r for r in rows if r["trials"] == trials}
    pairs = [
        (own, known[problem, seed, "ax"])
        for (problem, seed, method), own in sorted(known.items())
        if method == "bonsai" and (problem, seed, "ax") in known
    ]
    for own, other in pairs:
        if own["values"][0] != other["values"][0]:
            raise ValueError(f"{own['problem']}, seed {own['seed']}: another default")
    return pairs


def table(rows: list[Row], initial: int) -> list[str]:
    lines = [
        "| problem | method | seeds | regret at T, median | changed a proposal | in the last third "
        "| changed, final | of them irrelevant | regret, final | hypervolume | s a proposal |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for problem in dict.fromkeys(r["problem"] for r in rows):
        for method in METHODS:
            own = [r for r in rows if (r["problem"], r["method"]) == (problem, method)]
            if not own:
                continue
            mean = statistics.mean
            lines.append(
                f"| {problem} | {method} | {len(own)} | {statistics.median(map(regret, own)):.3f} "
                f"| {mean(mean(proposals(r, initial)) for r in own):.1f} "
                f"| {mean(last_third(r, initial) for r in own):.1f} "
                f"| {mean(r['final_changed'] for r in own):.1f} "
                f"| {mean(r['final_irrelevant'] for r in own):.1f} "
                f"| {statistics.median(r['best'] - r['final_value'] for r in own):.3f} "
                f"| {mean(map(volume, own)):.3f} | {mean(mean(r['seconds']) for r in own):.1f} |"
            )
    return lines


def claims(pairs: list[tuple[Row, Row]], initial: int) -> dict[str, float]:
    """Over the seeds that both have: medians and means a problem, then shares and ratios over problems."""
    problems: dict[str, list[tuple[Row, Row]]] = {}
    for pair in pairs:
        problems.setdefault(pair[0]["problem"], []).append(pair)
    good, thirds, finals, volumes = [], [], [], []
    for own in problems.values():
        ours, theirs = ([pair[side] for pair in own] for side in (0, 1))
        mean = statistics.mean
        changed = [mean(mean(proposals(r, initial)) for r in side) for side in (ours, theirs)]
        regrets = [statistics.median(map(regret, side)) for side in (ours, theirs)]
        good.append(changed[0] <= changed[1] and regrets[0] <= regrets[1])
        thirds.append([mean(last_third(r, initial) for r in side) for side in (ours, theirs)])
        finals.append(mean(r["final_changed"] for r in ours) <= mean(r["final_changed"] for r in theirs))
        volumes.append(mean(map(volume, ours)) >= mean(map(volume, theirs)))
    return {
        "tuning.fewer-changes-at-equal-regret": round(statistics.mean(good), 3),
        "tuning.last-third-changes": round(sum(a for a, _ in thirds) / sum(b for _, b in thirds), 3),
        "tuning.final-changes": round(statistics.mean(finals), 3),
        "tuning.hypervolume": round(statistics.mean(volumes), 3),
    }


def intervals(pairs: list[tuple[Row, Row]], initial: int) -> dict[str, tuple[float, float]]:
    """95 % bootstrap intervals of the claims: seeds drawn anew within each problem, problems kept."""
    generator = np.random.default_rng(0)
    problems: dict[str, list[tuple[Row, Row]]] = {}
    for pair in pairs:
        problems.setdefault(pair[0]["problem"], []).append(pair)
    drawn: dict[str, list[float]] = {}
    for _ in range(DRAWS):
        again = [own[i] for own in problems.values() for i in generator.integers(len(own), size=len(own))]
        for name, figure in claims(again, initial).items():
            drawn.setdefault(name, []).append(figure)
    return {
        name: (float(np.quantile(values, 0.025)), float(np.quantile(values, 0.975)))
        for name, values in drawn.items()
    }


def normalised(row: Row) -> float:
    """Regret over that of the default, so that problems of other scales weigh the same."""
    return regret(row) / (row["best"] - row["values"][0])


def signed_rank(pairs: list[tuple[Row, Row]], measure: Callable[[Row], float]) -> dict[str, float]:
    """Of these pairs: in how many bonsai is lower or equal, medians of both, p of Wilcoxon's test."""
    ours, theirs = ([measure(pair[side]) for pair in pairs] for side in (0, 1))
    differ = any(a != b for a, b in zip(ours, theirs, strict=True))
    return {
        "pairs": len(pairs),
        "lower": sum(a < b for a, b in zip(ours, theirs, strict=True)),
        "equal": sum(a == b for a, b in zip(ours, theirs, strict=True)),
        "bonsai": statistics.median(ours),
        "ax": statistics.median(theirs),
        "p": float(wilcoxon(ours, theirs).pvalue) if differ else 1.0,
    }


def tests(pairs: list[tuple[Row, Row]], initial: int) -> dict[str, dict[str, float]]:
    """Paired over all problems and seeds, by measure."""
    measures: dict[str, Callable[[Row], float]] = {
        "regret at T": regret,
        "regret at T over the default's": normalised,
        "changed a proposal": lambda r: statistics.mean(proposals(r, initial)),
        "changed in the last third": lambda r: last_third(r, initial),
        "changed, final": lambda r: r["final_changed"],
        "hypervolume": volume,
        "seconds a proposal": lambda r: statistics.mean(r["seconds"]),
    }
    return {name: signed_rank(pairs, measure) for name, measure in measures.items()}


def by_problem(pairs: list[tuple[Row, Row]]) -> dict[str, dict[str, float]]:
    """Regret over the default's, tested within each problem."""
    problems = dict.fromkeys(own["problem"] for own, _ in pairs)
    return {
        name: signed_rank([pair for pair in pairs if pair[0]["problem"] == name], normalised)
        for name in problems
    }


def signed_rank_of_problems(each: dict[str, dict[str, float]]) -> dict[str, float]:
    """Wilcoxon's test over the problems, by the medians of both."""
    ours, theirs = ([one[side] for one in each.values()] for side in ("bonsai", "ax"))
    lower = sum(a < b for a, b in zip(ours, theirs, strict=True))
    return {"problems": len(each), "lower": lower, "p": float(wilcoxon(ours, theirs).pvalue) if each else 1.0}


def worded(name: str, found: dict[str, float]) -> str:
    return (
        f"* {name}: bonsai lower in {found['lower']}, equal in {found['equal']} of {found['pairs']} pairs, "
        f"p = {found['p']:.3g}"
    )


def figure(rows: list[Row], initial: int, path: Path) -> None:
    """Median regret and mean changed parameters over trials, a panel a problem."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    problems = list(dict.fromkeys(r["problem"] for r in rows))
    colours = dict(zip(METHODS, COLOURS, strict=True))
    picture, axes = plt.subplots(4, 5, figsize=(17, 11), sharex=True)
    for at, problem in enumerate(problems):
        upper, lower = axes[2 * (at // 5)][at % 5], axes[2 * (at // 5) + 1][at % 5]
        for method in METHODS:
            own = [r for r in rows if (r["problem"], r["method"]) == (problem, method)]
            if not own:
                continue
            n = min(len(r["values"]) for r in own)
            steps = range(initial, n + 1)
            upper.plot(
                steps,
                [statistics.median(regret(r, t) for r in own) for t in steps],
                color=colours[method],
                label=method,
            )
            if method in ("bonsai", "ax"):
                places = range(initial, n)
                lower.plot(
                    [t + 1 for t in places],
                    [statistics.mean(r["changed"][t] for r in own) for t in places],
                    color=colours[method],
                )
        upper.set_title(problem, fontsize=10)
        upper.set_ylabel("regret", fontsize=8)
        lower.set_ylabel("changed", fontsize=8)
        lower.set_ylim(bottom=0)
    drawn = {
        label: handle
        for panel in axes[::2].flat
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    picture.legend(drawn.values(), drawn.keys(), loc="upper center", ncols=len(drawn), frameon=False)
    picture.supxlabel("trials")
    picture.tight_layout(rect=(0, 0, 1, 0.97))
    picture.savefig(path, dpi=90)


def stem_of(trials: int) -> str:
    """Files and claims of another number of trials than ``USUAL`` carry it in their names."""
    return "_".join(["tuning_synthetic", *([] if trials == USUAL else [str(trials)])])


def kept(trials: int) -> dict[str, Any]:
    """What bench/results keeps of runs of so many trials."""
    record: dict[str, Any] = json.loads(RESULTS.joinpath(f"{stem_of(trials)}.json").read_text())
    return record


def write(
    rows: list[Row], initial: int, trials: int, keep: bool = True, where: dict[str, Any] | None = None
) -> dict[str, float]:
    """Write bench/results/tuning_synthetic.* (where ``keep``); returns the claims' figures.

    where: environment of the runs, this process's by default; runs that are reported again keep theirs, and
    their picture.
    """
    suffix = [] if trials == USUAL else [str(trials)]
    stem = stem_of(trials)
    order = {name: at for at, name in enumerate(METHODS)}
    rows = sorted(
        (r for r in rows if r["trials"] == trials and r["method"] in order),
        key=lambda r: (r["problem"], order[r["method"]], r["seed"]),
    )
    pairs = paired(rows, trials)
    found = claims(pairs, initial)
    ends = intervals(pairs, initial)
    tested, each = tests(pairs, initial), by_problem(pairs)
    over = signed_rank_of_problems(each)
    text = [
        "# Tuners on planted problems",
        "",
        f"T = {trials} trials. They begin with the default and {initial - 1} Sobol points, the same for",
        "all methods of a seed but `bonsai`, which has a design of its own: as many points in which blocks",
        "of parameters are moved away from the default. `bonsai-sobol` is the same policy after Sobol's",
        "points. `bonsai` spends up to two of the T on confirming what it recommends (trials, not",
        "proposals). Settings were chosen on other problems (DEVELOPMENT in problems.py, other seeds);",
        "where earlier versions lost trials was read off their runs on these problems.",
        "Ax 1.3.1 in its own environment with `simplify_parameter_changes`, the default as its pruning",
        "target, and the surrogate that its authors name for it (EnsembleMapSaasSingleTaskGP), all else its",
        "own choice. One thread a run. Seconds were taken beside other work and are indicative.",
        f"Claims compare the {len(pairs)} runs (problem, seed) that `bonsai` and `ax` share.",
        "",
        *table(rows, initial),
        "",
        f"Paired over {len(pairs)} pairs of runs (problem, seed), Wilcoxon signed-rank:",
        "",
        *(worded(name, one) for name, one in tested.items()),
        "",
        "Regret over the default's, a problem at a time (with five pairs p is .06 at the least); of the",
        f"{over['problems']} medians bonsai's is lower in {over['lower']}, p = {over['p']:.3g}.",
        "",
        *(
            f"{worded(name, one)}; medians {one['bonsai']:.3f} and {one['ax']:.3f}"
            for name, one in each.items()
        ),
        "",
        "Figures of the claims, with 95 % bootstrap intervals (seeds drawn anew within each problem):",
        "",
        *(
            f"* {name.removeprefix('tuning.')}: {figure} ({ends[name][0]:.2f} to {ends[name][1]:.2f})"
            for name, figure in found.items()
        ),
        "",
        f"![regret and changed parameters over trials]({stem}.png)",
    ]
    print("\n".join(text))
    if keep:
        RESULTS.joinpath(f"{stem}.md").write_text("\n".join(text) + "\n")
        notes = {  # what the claims' notes say, to be copied from here
            "pairs": len(pairs),
            "claims": {
                name: {"figure": value, "low": ends[name][0], "high": ends[name][1]}
                for name, value in found.items()
            },
            "tests": tested,
            "problems": each,
            "over problems": over,
        }
        record = {
            "script": "bench/tuning/bench_synthetic.py",
            "environment": where or environment(),
            "notes": notes,
            "cells": rows,
        }
        RESULTS.joinpath(f"{stem}.json").write_text(json.dumps(record) + "\n")
        shared = {(own["problem"], own["seed"]) for own, _ in pairs}
        comparable = [r for r in rows if (r["problem"], r["seed"]) in shared]
        if where is None:
            figure(comparable, initial, RESULTS / f"{stem}.png")
    return {"-".join([name, *suffix]): value for name, value in found.items()}
