"""Tree-structured Parzen estimators, as Optuna has them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from recengine.contracts.tuner import Observation
from recengine.errors import UsageError
from recengine.tuning import Parameter, Space, walk
from recengine_plugins.tuners.config import TPEConfig

try:
    import optuna
    from optuna.distributions import (
        BaseDistribution,
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )
    from optuna.trial import TrialState, create_trial
except ImportError as missing:
    raise UsageError(
        "the tuner 'tpe' stands on Optuna",
        found=f"no module '{missing.name}'",
        fix="pip install 'recengine[optuna]'",
    ) from missing


class TPE:
    """Draws what is likely under the better trials and unlikely under the others.

    Points being tried count as bad ones (constant liar), infeasible trials count as failed. Several
    objectives: the multi-objective form. Source: Bergstra et al., NeurIPS 2011; Watanabe, arXiv 2304.11127.
    """

    def __init__(self, config: TPEConfig, space: Space, seed: int) -> None:
        self.config, self.space, self.seed = config, space, seed
        self.distributions = {parameter.name: _distribution(parameter) for parameter in space.parameters}

    def propose(
        self, history: Sequence[Observation], n: int, pending: Sequence[Mapping[str, Any]] = ()
    ) -> list[dict[str, Any]]:
        study = self._study(history, pending)
        found: list[dict[str, Any]] = []
        for _ in range(self.config.most_draws):
            trial = study.ask(self.distributions)
            point = self._named(trial.params)
            if self.space.allows(point):
                found.append(point)
                if len(found) == n:
                    return found
            else:
                study.tell(trial, state=TrialState.FAIL)
        generator = np.random.default_rng([self.seed, len(history), len(pending)])
        return [*found, *islice(walk(self.space, generator), n - len(found))]

    def _study(self, history: Sequence[Observation], pending: Sequence[Mapping[str, Any]]) -> Any:
        """An Optuna study in memory that knows what is known; nothing of it is kept."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        drawn = np.random.SeedSequence([self.seed, len(history), len(pending)]).generate_state(1)
        objectives = max((len(seen.values) for seen in history if seen.feasible), default=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(
                n_startup_trials=self.config.startup,
                n_ei_candidates=self.config.candidates,
                multivariate=True,
                constant_liar=True,
                seed=int(drawn[0]),
            )
        study = optuna.create_study(directions=["maximize"] * objectives, sampler=sampler)
        for seen in history:
            known = seen.feasible and bool(np.isfinite(seen.values).all())
            study.add_trial(
                create_trial(
                    params=self._indexed(seen.parameters),
                    distributions=self.distributions,
                    values=list(seen.values) if known else None,
                    state=TrialState.COMPLETE if known else TrialState.FAIL,
                )
            )
        for point in pending:
            study.enqueue_trial(self._indexed(point))
            study.ask(self.distributions)
        return study

    def _indexed(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """Choices by their index: Optuna keeps only plain values apart, and True is not 1 here. What may be
        switched off, by its place in the unit interval."""
        return {
            p.name: _index(p, point[p.name])
            if p.kind == "choice"
            else float(p.encode(point[p.name])[0])
            if p.off
            else point[p.name]
            for p in self.space.parameters
        }

    def _named(self, params: Mapping[str, Any]) -> dict[str, Any]:
        point = {
            p.name: p.choices[params[p.name]]
            if p.kind == "choice"
            else p.decode(np.array([params[p.name]]))
            if p.off
            else params[p.name]
            for p in self.space.parameters
        }
        return self.space.settle(point)


def _index(parameter: Parameter, value: Any) -> int:
    return next(i for i, c in enumerate(parameter.choices) if type(c) is type(value) and c == value)


def _distribution(parameter: Parameter) -> BaseDistribution:
    if parameter.kind == "choice":
        return CategoricalDistribution(tuple(range(len(parameter.choices))))
    if parameter.off:  # neither of Optuna's logarithms holds 0: drawn on the unit interval
        return FloatDistribution(0.0, 1.0)
    if parameter.kind == "int":
        return IntDistribution(int(parameter.low), int(parameter.high), log=parameter.log)
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log)
