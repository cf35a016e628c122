"""One proposal of BONSAI: what pruning costs, and that it keeps to what matters.

    python bench/tuning/bench_proposal.py [--only time]    (claims tuning.pruning-share, .proposal-overhead)
    python bench/tuning/bench_proposal.py --only support   (claim tuning.support)

time: Hartmann6 among 25 parameters, histories of 15, 20 and 30 points; plain Bayesian optimisation and BONSAI
propose from the same history in turns, the faster of ``--rounds`` counts. Surrogate (MAP-SAAS ensemble),
acquisition and its optimisation are the same code with the same seeds and bounds, so the difference is the
pruning.

support: the theory's case. Lengthscales are known (infinite where a parameter does nothing), rho = 0: every
proposal must lie within the six that matter, whatever the optimiser's starts changed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
from problems import PROBLEMS, Problem

from recengine.contracts.tuner import Observation
from recengine.training.record import environment
from recengine_plugins.bonsai import policy
from recengine_plugins.bonsai.config import BonsaiConfig
from recengine_plugins.bonsai.knowledge import Knowledge
from recengine_plugins.bonsai.policy import Bonsai, plain_bo

RESULTS = Path(__file__).resolve().parents[1] / "results"
CONFIG = BonsaiConfig(dense_every=0)


class Timed:
    """Seconds spent in a function of the policy, which it stands in for."""

    def __init__(self, name: str) -> None:
        self.name, self.inner, self.seconds = name, getattr(policy, name), 0.0

    def __call__(self, *args: Any, **told: Any) -> Any:
        start = time.perf_counter()
        try:
            return self.inner(*args, **told)
        finally:
            self.seconds += time.perf_counter() - start


def history_of(problem: Problem, n: int, seed: int) -> list[Observation]:
    design = plain_bo(CONFIG.model_copy(update={"initial": 10**6}), problem.space, seed)
    history = [Observation(problem.space.default, (problem.value(problem.space.default),))]
    while len(history) < n:
        point = {k: v for k, v in design.propose(history, 1)[0].items() if k != "__facts__"}
        history.append(Observation(point, (problem.value(point),)))
    return history


def times(rounds: int, sizes: tuple[int, ...], name: str = "hartmann25") -> list[dict[str, float]]:
    problem = PROBLEMS[name]()
    parts = {"dense": Timed("dense_step"), "prune": Timed("revert"), "refine": Timed("refine")}
    policy.dense_step, policy.revert, policy.refine = parts["dense"], parts["prune"], parts["refine"]
    rows = []
    for n in sizes:
        history = history_of(problem, n, n)
        best = dict.fromkeys(("bo", "bonsai", *parts), float("inf"))
        for _ in range(rounds):
            for kind, prune in (("bo", False), ("bonsai", True)):
                for part in parts.values():
                    part.seconds = 0.0
                start = time.perf_counter()
                Bonsai(CONFIG.model_copy(update={"prune": prune}), problem.space, 0).propose(history, 1)
                best[kind] = min(best[kind], time.perf_counter() - start)
            for name_of, part in parts.items():
                best[name_of] = min(best[name_of], part.seconds)
        rows.append({"parameters": len(problem.space.names), "trials": n, **best})
    return rows


def support(proposals: int) -> tuple[int, int, list[int]]:
    """Proposals within the relevant set, proposals, and how many parameters the dense ones had changed."""
    problem = PROBLEMS["hartmann25"]()
    config = BonsaiConfig(rho=0.0, delta_share=0.0, dense_every=0, surrogate="gp")
    tuner = Bonsai(config, problem.space, 0)
    history = history_of(problem, 10, 0)
    inside, dense = 0, []
    for _ in range(proposals):
        known = Knowledge.of(problem.space, history, config)
        scales = known.model.covar_module.lengthscale.detach().clone()
        scales[..., len(problem.relevant) :] = 1e12
        known.model.covar_module.lengthscale = scales
        point, facts = tuner._model_based(known, [], 0, len(history))
        inside += set(problem.space.changed(point)) <= set(problem.relevant)
        dense.append(facts["changed_dense"])
        history.append(Observation(point, (problem.value(point),)))
    return inside, proposals, dense


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=("time", "support"), default="time")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--proposals", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="one round, few proposals, nothing written")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    record: dict[str, Any] = {"script": "bench/tuning/bench_proposal.py", "environment": environment()}
    if asked.only == "support":
        inside, proposals, dense = support(3 if asked.quick else asked.proposals)
        record |= {"inside": inside, "proposals": proposals, "changed by the dense step": dense}
        text = [
            "# Support of proposals at rho = 0",
            "",
            "Hartmann6 among 25 parameters, known lengthscales: "
            f"{inside} of {proposals} proposals lie within the six that matter; the dense step had changed "
            f"{min(dense)} to {max(dense)} parameters.",
        ]
        claims = {"tuning.support": inside / proposals}
    else:
        rows = times(1 if asked.quick else asked.rounds, (15,) if asked.quick else (15, 20, 30))
        record["rows"] = rows
        text = [
            "# Time of one proposal",
            "",
            "Seconds, one thread, the fastest of the rounds. Plain: the same surrogate, acquisition and",
            "optimiser without pruning. Pruning: all reversions, and the local search over what they left.",
            "",
            "| parameters | trials known | plain | BONSAI | acquisition | reversions | local search "
            "| pruning / acquisition |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        for row in rows:
            text.append(
                f"| {row['parameters']} | {row['trials']} | {row['bo']:.2f} | {row['bonsai']:.2f} "
                f"| {row['dense']:.2f} | {row['prune']:.3f} | {row['refine']:.3f} "
                f"| {(row['prune'] + row['refine']) / row['dense']:.3f} |"
            )
        whole = {kind: sum(row[kind] for row in rows) for kind in rows[0]}
        claims = {
            "tuning.pruning-share": round((whole["prune"] + whole["refine"]) / whole["dense"], 3),
            "tuning.proposal-overhead": round(whole["bonsai"] / whole["bo"], 3),
        }
    if not asked.quick:
        stem = RESULTS / f"tuning_{'support' if asked.only == 'support' else 'proposal'}"
        stem.with_suffix(".md").write_text("\n".join(text) + "\n")
        stem.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    print("\n".join(text))
    for name, figure in claims.items():
        print(json.dumps({"claim": name, "figure": figure}))


if __name__ == "__main__":
    main()
