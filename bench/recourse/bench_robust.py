"""Robustness under retraining and perturbation: this method and its peers on nine tables, linear and nets.

python bench/recourse/bench_robust.py [--quick] [--kind linear|net] [--work FOLDER] [--sets NAME...]
       [--seeds N] [--first N] [--coarse] [--published] [--most P] [--report]

Every answered step (a method at one strength on one table) is kept in --work and not computed again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "evidence"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import restated
import tables
from cells import L2, Cell, cells, with_bias
from nets import Net
from retrained import adversarial, draws, noisy, refit_linear, refit_nets

from peers.runner import PeerMissingError, run
from recengine.contracts.recourse import Classifier
from recengine.recourse import Layer, Layers, compile_constraints
from recengine_plugins.ellice.box import solve_box
from recengine_plugins.ellice.config import ElliCEConfig
from recengine_plugins.ellice.logistic import fit_layer, logistic_problem
from recengine_plugins.ellice.method import ElliCE
from recengine_plugins.ellice.rashomon import Ellipsoid, eps_from_level

Array = NDArray[np.float64]
PEOPLE = 8
MODELS = 20
CHOOSERS = 20
HIDDEN = 16
STEPS = 300
ROWS = {"linear": 1_500, "net": 800}
SHARES = (0.02, 0.1, 0.3, 0.7)
DELTAS = (0.005, 0.02, 0.05, 0.2)
CHANCES = (0.5, 0.7, 0.9)
KNOBS: dict[str, tuple[float, ...]] = {
    "ours": SHARES,
    "ours, default eps": (0.0,),
    "ours, nearest row": SHARES,
    "ellice 0.1.4": SHARES,
    "Wachter": CHANCES,
    "DiCE": (0.0, 1.0, 2.0),
    "ROAR": DELTAS,
    "T-Rex:I": CHANCES,
    "T-Rex:NN": CHANCES,
    "RNCE": DELTAS,
    "PROPLACE": DELTAS,
}
"""Strengths: eps / eps* for the ellipsoid; probability, logit margin, delta, tau, tau, delta, delta."""
PUBLISHED = {"dice-ml genetic": CHANCES}
"""dice-ml 0.12 as published, its genetic search (--published); the probability asked for."""
SPREADS = (1.0, 2.0, 4.0, 6.0)
FOR_NETS = {**KNOBS, "ours": SPREADS, "ours, last layer": SHARES, "PROPLACE": DELTAS[::2]}
"""Nets: standard deviations of REFITS bootstrap refits (and eps = 0.06 of eps* a deviation, at most 0.3)."""
FINE = {"linear": (0.04, 0.06, 0.15, 0.2, 0.45, 0.6, 0.85), "net": (0.25, 0.5, 0.75, 1.5, 2.5, 3.0, 5.0)}
"""More strengths of our own for the comparison at equal robustness; they are not chosen from."""
REFITS = 80
DEADLINE = [float("inf")]
"""No new step is begun after this time (--budget), so that a run fits where it may run."""


@dataclass(frozen=True)
class Case:
    """A cell with its base model, the people asked about (validation first, then test), and eps*."""

    cell: Cell
    base: Net
    theta: Array
    H: Array
    star: float
    default_eps: float
    people: Array
    validation: int

    @property
    def phi(self) -> Array:
        return self.base.phi(torch.from_numpy(self.cell.X))[0].numpy()


def case_of(cell: Cell, kind: str) -> Case | None:
    """None where the model rejects nobody on one of the two sides."""
    if kind == "linear":
        layer, base = cell.layer, Net.linear(cell.layer.theta)
    else:
        start = draws("seeds", cell.y, 1, np.random.default_rng([cell.seed, cell.fold]))
        net = refit_nets(cell.X, start, hidden=HIDDEN, l2=L2, steps=STEPS)
        phi = net.phi(torch.from_numpy(cell.X))[0].numpy()
        layer = fit_layer(logistic_problem(phi, cell.y, l2=L2, penalise_bias=True))
        base = Net(net.W1, net.b1, *_tensors(layer.theta))
    rejected = [
        x[base.logits(torch.from_numpy(x))[0].numpy() < 0]
        for x in (np.clip(cell.X, cell.low, cell.high), np.clip(cell.test, cell.low, cell.high))
    ]
    generator = np.random.default_rng([cell.seed, cell.fold, 1])
    chosen = [x[generator.permutation(len(x))[:PEOPLE]] for x in rejected]
    if not all(len(x) for x in chosen):
        return None
    star = Ellipsoid.of(layer, 0.0).largest_eps()
    eps = min(eps_from_level(layer, 0.95, joint=True), 0.5 * star)
    return Case(cell, base, layer.theta, layer.hessian, star, eps, np.concatenate(chosen), len(chosen[0]))


def _tensors(theta: Array) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(theta[None, :-1].copy()), torch.from_numpy(theta[-1:].copy())


def our_points(case: Case, eps: float, spread: float | None = None) -> Array:
    """Linear: the ellipsoid. Nets: the ellipsoid of the last layer, and ``spread`` deviations of refits."""
    low, high = case.cell.box(case.people)
    if case.base.W1 is None:
        ellipsoid = Ellipsoid.around(case.theta, case.H, eps)
        return solve_box(ellipsoid, case.people, np.ones(low.shape[1]), low, high, tau=1e-6).points
    names = tuple(f"x{j}" for j in range(low.shape[1]))
    config = ElliCEConfig(eps=eps, l2=L2, deviations=spread or 3.0)
    again = () if spread is None else refits(case, names)
    method = ElliCE.of(classifier(case.base, 0, names), case.cell.X, case.cell.y, config, refits=again)
    rules = {n: {"range": [a, b]} for n, a, b in zip(names, case.cell.low, case.cell.high, strict=True)}
    return method.solve(case.people, compile_constraints({"features": rules}, list(names))).points


def classifier(net: Net, k: int, names: tuple[str, ...]) -> Classifier:
    hidden = Layer(net.W1[k].numpy(), net.b1[k].numpy(), (0.0, 1.0))
    return Classifier(Layers((hidden,)), (0, 1), names, np.r_[net.w2[k].numpy(), float(net.b2[k])])


_REFITS: dict[tuple[str, int, int], list[Classifier]] = {}


def refits(case: Case, names: tuple[str, ...]) -> list[Classifier]:
    """Nets fitted to bootstrap rows from starts of their own; none of them is among the judges."""
    key = (case.cell.name, case.cell.seed, case.cell.fold)
    if key not in _REFITS:
        drawn = draws("bootstrap", case.cell.y, REFITS, np.random.default_rng([*key[1:], 3]))
        nets = refit_nets(case.cell.X, drawn, hidden=HIDDEN, l2=L2, steps=STEPS)
        _REFITS[key] = [classifier(nets, k, names) for k in range(REFITS)]
    return _REFITS[key]


def our_rows(case: Case, eps: float) -> Array:
    ellipsoid = Ellipsoid.around(case.theta, case.H, eps)
    kept = ellipsoid.worst_logit(with_bias(case.phi)) >= 1e-6
    return _nearest(case, kept)


def _nearest(case: Case, kept: NDArray[np.bool_]) -> Array:
    rows = torch.from_numpy(case.cell.X[kept])
    return restated.nearest(rows, torch.from_numpy(case.people)).numpy()


def _proplace(case: Case, delta: float) -> Array:
    rows = torch.from_numpy(case.cell.X)
    robust = case.cell.X[restated.lower_rows(case.base, rows, delta).numpy() >= 0]
    found = [restated.proplace(case.base, x0, robust, delta) for x0 in case.people]
    return np.stack([np.full(len(case.people[0]), np.nan) if x is None else x for x in found])


def by_case(cases: list[Case], method: str, knob: float) -> list[Array]:
    """Methods that go case by case."""
    made = []
    for case in cases:
        rows = torch.from_numpy(case.cell.X)
        if method == "ours" and case.base.W1 is not None:
            made.append(our_points(case, min(0.06 * knob, 0.3) * case.star, knob))
        elif method in ("ours", "ours, last layer"):
            made.append(our_points(case, knob * case.star))
        elif method == "ours, default eps":
            made.append(our_points(case, case.default_eps))
        elif method == "ours, nearest row":
            made.append(our_rows(case, knob * case.star))
        elif method == "T-Rex:NN":
            made.append(_nearest(case, restated.trex_rows(case.base, rows).numpy() >= knob))
        elif method == "RNCE":
            made.append(_nearest(case, restated.lower_rows(case.base, rows, knob).numpy() >= 0))
        else:
            made.append(_proplace(case, knob))
    return made


def together(cases: list[Case], method: str, knob: float) -> list[Array]:
    """Gradient methods: everybody of all cases in one batch, each with the model of the own case."""
    boxes = [case.cell.box(case.people) for case in cases]
    counts = [len(case.people) for case in cases]
    stack = Net.stack([case.base for case in cases])
    model = stack[torch.repeat_interleave(torch.arange(len(cases)), torch.tensor(counts))]
    crowd = restated.Crowd(
        torch.from_numpy(np.concatenate([case.people for case in cases])),
        torch.from_numpy(np.concatenate([low for low, _ in boxes])),
        torch.from_numpy(np.concatenate([high for _, high in boxes])),
        model,
    )
    call = {
        "Wachter": restated.wachter,
        "DiCE": restated.dice,
        "ROAR": restated.roar,
        "T-Rex:I": restated.trex,
    }
    return np.split(call[method](crowd, knob).numpy(), np.cumsum(counts)[:-1])


def library(cases: list[Case], work: Path, knob: float) -> tuple[list[Array], float]:
    """ellice 0.1.4 under its own interpreter; seconds of its generate calls."""
    given = []
    for k, case in enumerate(cases):
        file = work / f"peer-{os.getpid()}-{k}.npz"
        net = {} if case.base.W1 is None else {"W1": case.base.W1[0].numpy(), "b1": case.base.b1[0].numpy()}
        np.savez(file, X=case.cell.X, y=case.cell.y, theta=case.theta, people=case.people, **net)
        given.append(
            {"file": str(file), "eps": knob * case.star, "l2": L2, "requires": "robust", "options": {}}
        )
    reply = run(
        "ellice", Path(__file__).with_name("peer_ellice.py"), {"cells": given, "threads": 1, "warm": 1}
    )
    points = [np.load(entry["file"] + ".points.npy") for entry in given]
    for entry in given:
        for name in (entry["file"], entry["file"] + ".points.npy"):
            Path(name).unlink()
    return points, float(sum(sum(cell["seconds"]) for cell in reply.answer["cells"]))


def published(cases: list[Case], work: Path, method: str, knob: float) -> tuple[list[Array], float]:
    """dice-ml under its own interpreter; the nearest of four a person, and seconds of its calls."""
    given = []
    for k, case in enumerate(cases):
        file = work / f"dice-{os.getpid()}-{k}.npz"
        net = {} if case.base.W1 is None else {"W1": case.base.W1[0].numpy(), "b1": case.base.b1[0].numpy()}
        np.savez(file, X=case.cell.X, y=case.cell.y, theta=case.theta, people=case.people, **net)
        given.append({"file": str(file), "probability": knob, "method": method.split()[-1], "count": 4})
    reply = run("dice-ml", Path(__file__).with_name("peer_dice.py"), {"cells": given}, threads=1)
    points = [np.load(entry["file"] + ".points.npy") for entry in given]
    for entry in given:
        for name in (entry["file"], entry["file"] + ".points.npy"):
            Path(name).unlink()
    return points, float(sum(sum(cell["seconds"]) for cell in reply.answer["cells"]))


def answers(cases: list[Case], kind: str, name: str, method: str, knob: float, work: Path) -> dict[str, Any]:
    """Points of each case and milliseconds a person, from --work when they are there."""
    tag = "".join(c if c.isalnum() else "_" for c in f"{kind}-{name}-{len(cases)}-{method}-{knob:g}")
    file = work / f"{tag}.npz"
    if not file.exists():
        began = time.perf_counter()
        if began > DEADLINE[0]:
            sys.exit("the time given is spent; run again to go on")
        if method == "ellice 0.1.4":
            points, seconds = library(cases, work, knob)
        elif method in PUBLISHED:
            points, seconds = published(cases, work, method, knob)
        else:
            gradient = method in ("Wachter", "DiCE", "ROAR", "T-Rex:I")
            points = together(cases, method, knob) if gradient else by_case(cases, method, knob)
            seconds = time.perf_counter() - began
        people = sum(len(case.people) for case in cases)
        part = work / f"{tag}.part.npz"
        np.savez(part, ms=1e3 * seconds / people, **{f"p{k}": x for k, x in enumerate(points)})
        part.replace(file)
        print(f"{tag}: {seconds:.1f} s", flush=True)
    held = np.load(file)
    return {"ms": float(held["ms"]), "points": [held[f"p{k}"] for k in range(len(cases))]}


def judges(case: Case, kind: str) -> tuple[dict[str, Net], dict[str, Net]]:
    """Models for choosing the strength, and others, of the same sets, for the report."""
    cell = case.cell
    generator = np.random.default_rng([cell.seed, cell.fold, 2])
    names = ["bootstrap", "subsample", "noise", "time"] + (["seeds"] if kind == "net" else [])
    sizes = [CHOOSERS] * len(names) + [MODELS] * len(names)
    drawn = [draws(n, cell.y, size, generator) for n, size in zip(2 * names, sizes, strict=True)]
    if kind == "linear":
        made = [refit_linear(cell.X, d, case.theta, L2) for d in drawn]
    else:
        whole = type(drawn[0])(
            np.concatenate([d.weight for d in drawn]),
            np.concatenate([d.label for d in drawn]),
            [seed for d in drawn for seed in d.seeds],
        )
        nets = refit_nets(cell.X, whole, hidden=HIDDEN, l2=L2, steps=STEPS)
        ends = np.cumsum(sizes)
        made = [nets[slice(end - size, end)] for end, size in zip(ends, sizes, strict=True)]
    sides = [
        dict(zip(names, made[: len(names)], strict=True)),
        dict(zip(names, made[len(names) :], strict=True)),
    ]
    for side, size in zip(sides, (CHOOSERS, MODELS), strict=True):
        side["awp"] = adversarial(case.base, cell.X, cell.y, size, generator, L2)
        side["dropout"] = noisy(case.base, cell.X, cell.y, size, generator, L2)
    return sides[0], sides[1]


def accepted(net: Net, points: Array) -> Array:
    """Share of the models that accept each point; 0 for NaN."""
    found = np.isfinite(points).all(axis=1)
    share = np.zeros(len(points))
    if found.any():
        share[found] = (net.logits(torch.from_numpy(points[found])).numpy() > 0).mean(axis=0)
    return share


def measure(case: Case, models: dict[str, Net], points: Array, rows: slice) -> dict[str, Any]:
    """Sums over the people of ``rows``; divided in ``report``."""
    x0, x = case.people[rows], points[rows]
    found = np.isfinite(x).all(axis=1)
    valid = accepted(case.base, x) > 0
    move = np.abs(x[valid] - x0[valid])
    made: dict[str, Any] = {
        "asked": len(x0),
        "found": int(found.sum()),
        "valid": int(valid.sum()),
        "l2": float(np.linalg.norm(move, axis=1).sum()),
        "l1": float(move.sum()),
        "changed": float((move > 1e-3).sum()),
    }
    for name, net in models.items():
        share = accepted(net, x)
        made[f"all_{name}"] = float((share[valid] == 1).sum())
        made[f"mean_{name}"] = float(share[valid].sum())
    return made


def outliers(case: Case, points: Array) -> float:
    """Median LOF, k = 20, against the training rows: near 1 inside the data. (Repeated rows make single
    values arbitrarily large.)"""
    from sklearn.neighbors import LocalOutlierFactor

    finder = LocalOutlierFactor(n_neighbors=20, novelty=True).fit(case.cell.X)
    return float(np.median(-finder.score_samples(points))) if len(points) else 0.0


def robustness(record: dict[str, Any]) -> float:
    """People whose point all models of a set accept, mean over the sets."""
    return float(np.mean([value for key, value in record.items() if key.startswith("all_")]))


def one_set(
    kind: str,
    name: str,
    seeds: tuple[int, ...],
    work: Path,
    quick: bool,
    methods: dict[str, tuple[float, ...]] | None = None,
    finer: bool = True,
) -> list[dict[str, Any]]:
    """A record for each method, strength and cell; ``chosen`` marks the strength that validation picks for
    the seed: the most robust for all who ask, of equally robust ones (0.005) the least. methods: others
    than the usual ones. finer: our own further strengths too."""
    later = f"-from{seeds[0]}" if seeds[0] else ""
    which = "" if methods is None else "-published"
    methods = methods or (KNOBS if kind == "linear" else FOR_NETS)
    file = work / f"measured-{kind}-{name}-{len(seeds)}{later}{which}-{int(quick)}.json"
    if file.exists():
        return json.loads(file.read_text())
    rows = 400 if quick else ROWS[kind]
    cases = [case for cell in cells(name, seeds, rows) if (case := case_of(cell, kind)) is not None]
    found: dict[tuple[str, float], dict[str, Any]] = {}
    for method, knobs in methods.items():
        extra = FINE[kind] if method == "ours" and finer else ()
        for knob in knobs[::3] if quick else (*knobs, *extra):
            try:
                found[method, knob] = answers(
                    cases, kind, name + later + ("-quick" if quick else ""), method, knob, work
                )
            except PeerMissingError as missing:
                print(missing, flush=True)
    began = time.perf_counter()
    judged = [judges(case, kind) for case in cases]
    records = []
    for seed in seeds:
        mine = [k for k, case in enumerate(cases) if case.cell.seed == seed]
        for method, knobs in methods.items():
            tried = []
            for knob in (knob for knob in knobs if (method, knob) in found):
                sums = [
                    measure(
                        cases[k], judged[k][0], found[method, knob]["points"][k], slice(cases[k].validation)
                    )
                    for k in mine
                ]
                asked = sum(record["asked"] for record in sums)
                tried.append((knob, sum(map(robustness, sums)) / asked))
            if not tried:
                continue
            shares = dict(tried)
            best = max(shares.values())
            chosen = next(knob for knob, robust in tried if robust >= best - 0.005)
            for (which, knob), answer in found.items():
                if which != method:
                    continue
                for k in mine:
                    case, points = cases[k], answer["points"][k]
                    asked_ = slice(case.validation, None)
                    record = measure(case, judged[k][1], points, asked_)
                    if knob == chosen:
                        kept = points[asked_][accepted(case.base, points[asked_]) > 0]
                        record["lof"] = outliers(case, kept) * len(kept)
                    records.append(
                        record
                        | {
                            "kind": kind, "set": name, "seed": seed, "fold": case.cell.fold, "method": method,
                            "knob": knob, "chosen": knob == chosen, "ms": answer["ms"],
                            **({"validation": shares[knob]} if knob in shares else {}),
                        }
                    )  # fmt: skip
    print(f"{kind} {name}: judged in {time.perf_counter() - began:.0f} s", flush=True)
    part = file.with_suffix(".part")
    part.write_text(json.dumps(records))
    part.replace(file)
    return records


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one seed, 400 rows, two strengths a method")
    parser.add_argument("--kind", choices=["linear", "net"])
    parser.add_argument("--sets", nargs="*", default=list(tables.NAMES))
    parser.add_argument("--seeds", type=int, help="how many; default: 5, for nets 1")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument(
        "--work", type=Path, default=Path(os.environ.get("TMPDIR", "/tmp")) / "recourse-robust"
    )
    parser.add_argument("--budget", type=float, default=1e9, help="begin nothing new after so many seconds")
    parser.add_argument("--coarse", action="store_true", help="without the finer strengths of our own")
    parser.add_argument("--published", action="store_true", help="dice-ml alone, beside the usual ones")
    parser.add_argument("--most", type=float, default=1.0, help="with --published: probabilities up to this")
    parser.add_argument("--report", action="store_true", help="only write the results of what --work holds")
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    DEADLINE[0] = time.perf_counter() + asked.budget
    from robust_report import report

    if not asked.report:
        for kind in (asked.kind,) if asked.kind else ("linear", "net"):
            count = 1 if asked.quick else asked.seeds or (5 if kind == "linear" else 1)
            for name in asked.sets:
                seeds = tuple(range(asked.first, asked.first + count))
                published = {m: tuple(p for p in ps if p <= asked.most) for m, ps in PUBLISHED.items()}
                methods = published if asked.published else None
                one_set(kind, name, seeds, asked.work, asked.quick, methods, not asked.coarse)
    report(asked.work, quick=asked.quick)


if __name__ == "__main__":
    main()
