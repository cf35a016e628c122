"""Tuners on planted problems: regret, and how many parameters they change.

    python bench/tuning/bench_synthetic.py run [--problems A,B] [--methods A,B] [--seeds 0,1] --out FILE
    python bench/tuning/bench_synthetic.py report --out FILE...
    python bench/tuning/bench_synthetic.py again [--trials 50]     (reports the runs in bench/results anew)
    python bench/tuning/bench_synthetic.py all [--trials 50]       (both; hours)

A cell is problem x method x seed; ``run`` appends one JSON line a cell and skips those that are there.
All methods of a seed start from the same default and, but for ``bonsai``, from the same nine Sobol points;
``bonsai`` has its own nine, in each of which about two ninths of the parameters are where they are in the
Sobol point. ``bonsai-sobol`` is the same policy after Sobol's. Ax runs in its own environment
(python bench/peers/install.py ax), with the same kind of surrogate as ours.

``bonsai`` uses its last trials to confirm what it recommends; every other method recommends the best point
that it has measured.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
from problems import DEVELOPMENT, PROBLEMS, Problem
from regularised import KINDS, Regularised
from synthetic_report import USUAL, kept, proposals, write

from peers.runner import interpreter
from recengine.contracts.tuner import Observation
from recengine.tuning import Parameter, confirmed, unconfirmed
from recengine_plugins.bonsai.config import BonsaiConfig
from recengine_plugins.bonsai.policy import Bonsai, plain_bo
from recengine_plugins.tuners.config import SearchConfig
from recengine_plugins.tuners.search import RandomSearch

INITIAL = 10
CONFIRMATIONS = 2
VARIANTS: dict[str, dict[str, Any]] = {
    "bonsai": {},
    "bonsai-sobol": {"design": "sobol"},
    "bonsai-always": {"dense_every": 0},
    "bonsai-dense": {"explore": "dense"},
    "bonsai-plain": {"refine": False},
    "bonsai-relative": {"delta_share": 0.0},
}
Proposal = tuple[dict[str, Any], float, str]  # point, seconds, where it comes from
Ask = Callable[[list[Observation]], Proposal]


def observed(problem: Problem, point: dict[str, Any]) -> Observation:
    return Observation(point, (problem.value(point),), problem.allows(point))


def start(problem: Problem, seed: int, config: BonsaiConfig | None = None) -> list[Observation]:
    """The default and a design: Sobol's, the same for all methods, or that of a policy with ``config``."""
    history = [observed(problem, problem.space.default)]
    space = problem.space
    design = Bonsai(config, space, seed) if config else plain_bo(BonsaiConfig(initial=INITIAL), space, seed)
    while len(history) < INITIAL:
        point = {k: v for k, v in design.propose(history, 1)[0].items() if k != "__facts__"}
        history.append(observed(problem, point))
    return history


@contextmanager
def tuner(made: Any) -> Iterator[Ask]:
    """A tuner of ours."""

    def ask(history: list[Observation]) -> Proposal:
        before = time.perf_counter()
        point = made.propose(history, 1)[0]
        took = time.perf_counter() - before
        return point, took, point.pop("__facts__", {}).get("origin", "tuner")

    yield ask


@contextmanager
def ax(problem: Problem, seed: int, simplify: bool, initial: list[Observation]) -> Iterator[Ask]:
    """Ax in a process of its own."""
    given = {
        "parameters": [described(p) for p in problem.space.parameters],
        "limits": [
            " + ".join(f"{factor} * {name}" for name, factor in limit.coefficients) + f" <= {limit.at_most}"
            for limit in problem.space.limits
        ],
        "default": problem.space.default,
        "seed": seed,
        "simplify": simplify,
        "outcome": problem.feasible is not None,
        "initial": [[seen.parameters, seen.values[0], seen.feasible] for seen in initial],
    }
    worker = subprocess.Popen(
        [interpreter("ax"), str(Path(__file__).with_name("peer_ax.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdin is not None
    assert worker.stdout is not None
    told = len(initial)
    worker.stdin.write(json.dumps(given) + "\n")

    def ask(history: list[Observation]) -> Proposal:
        nonlocal told
        for seen in history[told:]:
            worker.stdin.write(json.dumps({"value": seen.values[0], "feasible": seen.feasible}) + "\n")
        told = len(history)
        worker.stdin.flush()
        line = worker.stdout.readline()
        if not line:
            raise RuntimeError(f"Ax ended with {worker.wait()}")
        reply = json.loads(line)
        return settled(problem, reply["point"]), reply["seconds"], "ax"

    try:
        yield ask
    finally:
        worker.kill()
        worker.wait()


def described(parameter: Parameter) -> dict[str, Any]:
    names = ("name", "kind", "low", "high", "log")
    return {name: getattr(parameter, name) for name in names} | {"choices": list(parameter.choices)}


def settled(problem: Problem, point: dict[str, Any]) -> dict[str, Any]:
    """Ax's point with rounding taken away: the default where it comes back up to 1e-9 of the range."""
    return problem.space.decode(problem.space.encode(point))


def opened(method: str, problem: Problem, seed: int, initial: list[Observation]) -> Any:
    config = BonsaiConfig(initial=INITIAL)
    if method.startswith("ax"):
        return ax(problem, seed, method == "ax", initial)
    if method == "bo":
        return tuner(plain_bo(config, problem.space, seed))
    if method == "random":
        return tuner(RandomSearch(SearchConfig(), problem.space, seed))
    if method == "sobol":
        return tuner(plain_bo(config.model_copy(update={"initial": 10**6}), problem.space, seed))
    if method in KINDS:
        return tuner(Regularised(method, config, problem.space, seed))
    return tuner(Bonsai(config.model_copy(update=VARIANTS[method]), problem.space, seed))


def cell(name: str, method: str, seed: int, trials: int) -> dict[str, Any]:
    """One run: the design, then proposals; ``bonsai`` spends its last trials on its recommendation where that
    was not measured."""
    problem = (PROBLEMS | DEVELOPMENT)[name]()
    config = BonsaiConfig(initial=INITIAL, **VARIANTS[method]) if is_bonsai(method) else None
    history = start(problem, seed, config)
    rows: list[dict[str, Any]] = []
    policy = Bonsai(config, problem.space, seed) if config else None
    with opened(method, problem, seed, history) as ask:
        while len(history) < trials:
            found = None
            if policy is not None and trials - len(history) <= CONFIRMATIONS:
                found = unconfirmed(problem.space, policy.conclude(history), history)
            if found is not None:
                point, seconds, origin = found, 0.0, "confirmation"
            else:
                point, seconds, origin = ask(history)
            history.append(observed(problem, point))
            rows.append({"origin": origin, "seconds": seconds})
    final = best(history).parameters
    if policy is not None:
        final = confirmed(problem.space, policy.conclude(history), history)
    changes = [len(problem.space.changed(seen.parameters)) for seen in history]
    return {
        "problem": name,
        "method": method,
        "seed": seed,
        "trials": trials,
        "values": [seen.values[0] for seen in history],
        "feasible": [seen.feasible for seen in history],
        "changed": changes,
        "origins": [row["origin"] for row in rows],
        "seconds": [round(row["seconds"], 3) for row in rows],
        "final_value": problem.value(final),
        "final_changed": len(problem.space.changed(final)),
        "final_irrelevant": len(set(problem.space.changed(final)) - set(problem.relevant)),
        "best": problem.best,
        "parameters": len(problem.space.names),
    }


def is_bonsai(method: str) -> bool:
    return method.startswith("bonsai")


def best(history: list[Observation]) -> Observation:
    return max((seen for seen in history if seen.feasible), key=lambda seen: seen.values[0])


def run(asked: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    done = {(r["problem"], r["method"], r["seed"], r["trials"]) for r in lines(asked.out)}
    for seed in map(int, asked.seeds.split(",")):
        for name in asked.problems.split(","):
            for method in asked.methods.split(","):
                if (name, method, seed, asked.trials) in done:
                    continue
                before = time.perf_counter()
                found = cell(name, method, seed, asked.trials) | {"wall": time.perf_counter() - before}
                with asked.out[0].open("a") as file:
                    file.write(json.dumps(found) + "\n")
                bo = proposals(found, INITIAL)
                print(
                    f"{name} {method} {seed}: {found['wall']:.0f} s, "
                    f"regret {found['best'] - found['final_value']:.3f}, changed {sum(bo) / len(bo):.1f}, "
                    f"final {found['final_changed']}",
                    flush=True,
                )


def lines(files: list[Path]) -> list[dict[str, Any]]:
    return [json.loads(line) for file in files if file.exists() for line in file.read_text().splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("verb", choices=("run", "report", "all", "again"))
    parser.add_argument("--problems", default=",".join(PROBLEMS))
    parser.add_argument("--methods", default="bonsai,ax,bo,sobol,random")
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--trials", type=int, default=USUAL)
    parser.add_argument("--out", type=Path, nargs="+", help="JSON lines, outside the checkout")
    parser.add_argument(
        "--quick", action="store_true", help="one problem, one seed, three proposals; nothing kept"
    )
    asked = parser.parse_args()
    asked.out = asked.out or [Path(tempfile.gettempdir()) / f"tuning_synthetic{'-quick' * asked.quick}.jsonl"]
    if asked.quick:
        asked.problems, asked.methods, asked.seeds, asked.trials = "hartmann25", "bonsai,ax", "0", 13
        asked.out[0].unlink(missing_ok=True)  # another day's cells would be taken for this code's
    if asked.verb in ("run", "all"):
        run(asked)
    found: dict[str, float] = {}
    if asked.verb == "again":
        record = kept(asked.trials)
        found = write(record["cells"], INITIAL, asked.trials, where=record["environment"])
    elif asked.verb != "run":
        found = write(lines(asked.out), INITIAL, asked.trials, not asked.quick)
    for name, figure in found.items():
        print(json.dumps({"claim": name, "figure": figure}))


if __name__ == "__main__":
    main()
