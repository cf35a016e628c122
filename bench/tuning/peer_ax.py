"""Ax's side of the comparison: runs under the interpreter of the peer 'ax', JSON lines in and out.

First line in: {"parameters", "limits", "default", "seed", "simplify", "outcome", "initial": [[point, value,
feasible], ...]}. Then for every point that it prints, one line {"value", "feasible"} comes back.

The model is the one that Ax names for BONSAI, EnsembleMapSaasSingleTaskGP; everything else is Ax's choice.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings

import torch
from ax.api.client import Client
from ax.api.configs import ChoiceParameterConfig, RangeParameterConfig
from ax.api.utils.generation_strategy_dispatch import choose_generation_strategy
from ax.api.utils.structs import GenerationStrategyDispatchStruct
from ax.generators.torch.botorch_modular.surrogate import ModelConfig
from botorch.models.map_saas import EnsembleMapSaasSingleTaskGP


def parameter(told: dict) -> ChoiceParameterConfig | RangeParameterConfig:
    if told["kind"] == "choice":
        kind = {bool: "bool", str: "str", int: "int", float: "float"}[type(told["choices"][0])]
        return ChoiceParameterConfig(
            name=told["name"],
            values=told["choices"],
            parameter_type=kind,
            is_ordered=len(told["choices"]) == 2,
        )
    ends = (told["low"], told["high"])
    if told["kind"] == "int":
        ends = (int(ends[0]), int(ends[1]))
    return RangeParameterConfig(
        name=told["name"],
        bounds=ends,
        parameter_type=told["kind"],
        scaling="log" if told["log"] else "linear",
    )


def client(given: dict) -> Client:
    made = Client(random_seed=given["seed"])
    made.configure_experiment(
        parameters=[parameter(told) for told in given["parameters"]], parameter_constraints=given["limits"]
    )
    made.configure_optimization(
        objective="value",
        outcome_constraints=["ok >= 0.5"] if given["outcome"] else None,
        pruning_target_parameterization=given["default"],
    )
    made.set_generation_strategy(
        choose_generation_strategy(
            GenerationStrategyDispatchStruct(
                method="custom",
                initialization_budget=0,
                initialize_with_center=False,
                simplify_parameter_changes=given["simplify"],
            ),
            model_config=ModelConfig(botorch_model_class=EnsembleMapSaasSingleTaskGP, name="MAP-SAAS"),
        )
    )
    return made


def told(given: dict, value: float, feasible: bool) -> dict:
    return {"value": value, "ok": float(feasible)} if given["outcome"] else {"value": value}


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    given = json.loads(sys.stdin.readline())
    torch.manual_seed(given["seed"])
    made = client(given)
    for point, value, feasible in given["initial"]:
        index = made.attach_trial(parameters=point)
        made.complete_trial(trial_index=index, raw_data=told(given, value, feasible))
    while True:
        start = time.perf_counter()
        (index, point), *_ = made.get_next_trials(max_trials=1).items()
        print(json.dumps({"point": point, "seconds": time.perf_counter() - start}), flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        answer = json.loads(line)
        made.complete_trial(trial_index=index, raw_data=told(given, answer["value"], answer["feasible"]))


if __name__ == "__main__":
    main()
