"""The policy: dense step, then pruning toward the default, in batch order."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recengine.contracts.tuner import Conclusion, Observation
from recengine.errors import UsageError
from recengine.tuning import Space
from recengine_plugins.bonsai.config import BonsaiConfig
from recengine_plugins.bonsai.limits import Limits
from recengine_plugins.bonsai.revert import Reverted, revert

try:
    import botorch  # noqa: F401
except ImportError as missing:
    raise UsageError(
        "this tuner needs botorch and gpytorch", found=str(missing), fix="pip install 'recengine[bonsai]'"
    ) from missing

from botorch.optim import optimize_acqf

from recengine_plugins.bonsai.acquisition import Acquisition, OnlyFeasibility, build
from recengine_plugins.bonsai.surrogate import Feasibility, fit_surrogate


class Bonsai:
    """Bayesian optimisation whose proposals differ from the default only where it pays (arXiv 2602.07144)."""

    def __init__(self, config: BonsaiConfig, space: Space, seed: int) -> None:
        self.config, self.space, self.seed = config, space, seed
        self.limits = Limits(space)
        self.default = torch.as_tensor(space.encode(space.default))

    def propose(
        self, history: Sequence[Observation], n: int, pending: Sequence[Mapping[str, Any]] = ()
    ) -> list[dict[str, Any]]:
        """n points: a Sobol design first, then model-based ones, each conditioned on those before it."""
        proposals: list[dict[str, Any]] = []
        taken = [dict(point) for point in pending]
        for _ in range(n):
            at = len(history) + len(taken)
            measured = [entry for entry in history if entry.values]
            if at < self.config.initial or len(measured) < 2:
                point = self._sobol(at)
                facts: dict[str, Any] = {"origin": "sobol"}
            else:
                with torch.random.fork_rng(), warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # botorch warns of every imperfect fit; trials are kept
                    torch.manual_seed(int(np.random.SeedSequence([self.seed, at]).generate_state(1)[0]))
                    point, facts = self._model_based(history, taken, at)
            taken.append(point)
            proposals.append({**point, "__facts__": facts})
        return proposals

    def conclude(self, history: Sequence[Observation]) -> Conclusion:
        """Prune the incumbent with the joint posterior; the frontier and the table of reversions."""
        from recengine_plugins.bonsai.final import recommend

        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(self.seed)
            return recommend(self.space, history, self.config)

    # --- the two kinds of proposal ----------------------------------------------------------------

    def _sobol(self, at: int) -> dict[str, Any]:
        engine = torch.quasirandom.SobolEngine(self.space.width, scramble=True, seed=self.seed)
        engine.fast_forward(at)
        for _ in range(10_000):
            point = self.space.decode(engine.draw(1, dtype=torch.float64)[0].numpy())
            if self.space.allows(point):
                return point
        raise UsageError("no point meets the linear limits", where="limits", fix="loosen the limits")

    def _model_based(
        self, history: Sequence[Observation], taken: Sequence[Mapping[str, Any]], at: int
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        encoded = torch.stack([torch.as_tensor(self.space.encode(entry.parameters)) for entry in history])
        feasible = torch.tensor([entry.feasible for entry in history])
        feasibility = Feasibility(encoded, feasible)
        valued = torch.tensor([bool(entry.values) for entry in history])
        pending = (
            torch.stack([torch.as_tensor(self.space.encode(point)) for point in taken]) if taken else None
        )
        if not bool((feasible & valued).any()):
            x = self._optimise(OnlyFeasibility(feasibility), at)
            return self.space.decode(x.numpy()), {"origin": "feasibility"}
        use = feasible & valued
        X = encoded[use]
        Y = torch.tensor(
            [entry.values for entry, keep in zip(history, use.tolist(), strict=True) if keep],
            dtype=torch.float64,
        )
        model = fit_surrogate(X, Y, self.config.surrogate)
        acquisition = build(self.config, model, X, Y, pending, feasibility, self.seed + at)
        dense = self._settle_discrete(acquisition, self._optimise(acquisition, at))
        every = self.config.dense_every
        if not self.config.prune or (every and at % every == every - 1):
            return self.space.decode(dense.numpy()), {"origin": "dense"}
        pruned = self._prune(acquisition, dense, X, at)
        point = self.space.decode(pruned.x.numpy())
        names = self.space.names
        return point, {
            "origin": "pruned",
            "gain": pruned.gain,
            "losses": {names[g]: loss for g, loss in pruned.losses.items()},
            "changed_dense": len(self.space.changed(self.space.decode(dense.numpy()))),
            "changed": len(self.space.changed(point)),
        }

    # --- pieces -----------------------------------------------------------------------------------

    def _optimise(self, acquisition: torch.nn.Module, at: int) -> Tensor:
        bounds = torch.stack([torch.zeros(self.space.width), torch.ones(self.space.width)]).double()
        x, _ = optimize_acqf(
            acquisition,
            bounds,
            q=1,
            num_restarts=self.config.restarts,
            raw_samples=self.config.raw_samples,
            inequality_constraints=self.limits.for_botorch(),
            options={"seed": self.seed + at, "maxiter": 200, "batch_limit": self.config.restarts},
        )
        return x[0].detach()

    def _settle_discrete(self, acquisition: Acquisition, x: Tensor) -> Tensor:
        """Round to real parameter values, then improve the choices one parameter at a time."""
        x = torch.as_tensor(self.space.encode(self.space.decode(x.numpy())))
        for parameter, columns in zip(self.space.parameters, self.space.groups, strict=True):
            if parameter.kind != "choice":
                continue
            options = x.repeat(len(parameter.choices), 1)
            for row, choice in zip(options, parameter.choices, strict=True):
                row[list(columns)] = torch.as_tensor(parameter.encode(choice))
            x = options[int(acquisition.natural(options).argmax())]
        return torch.as_tensor(self.space.encode(self.space.decode(x.numpy())))

    def _prune(self, acquisition: Acquisition, dense: Tensor, X: Tensor, at: int) -> Reverted:
        if self.config.baseline == "observed_max":
            base = (
                max(0.0, float(acquisition.natural(X).max()))
                if acquisition.is_log
                else float(acquisition.natural(X).max())
            )
        elif self.config.baseline == "default":
            base = float(acquisition.natural(self.default[None])[0])
        else:
            base = 0.0
        rho = self.config.rho
        if self.config.schedule == "no_regret":
            rho /= max(1.0, at - self.config.initial + 1) ** 0.5
        return revert(
            acquisition.natural,
            dense,
            self.default,
            self.space.groups,
            base=base,
            rho=rho,
            delta=self.config.delta,
            costs=[parameter.cost for parameter in self.space.parameters],
            pin=self.limits.pin if len(self.limits.A) else None,
        )


def plain_bo(config: BonsaiConfig, space: Space, seed: int) -> Bonsai:
    """Bayesian optimisation without pruning: the same surrogate, acquisition and optimiser."""
    return Bonsai(config.model_copy(update={"prune": False}), space, seed)
