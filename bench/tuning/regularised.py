"""Three earlier ways to keep proposals near a default, restated to compare with: sparsity by regularisation.

* ``sebo``: hypervolume improvement of (value, -L0), no weight to choose;
* ``internal``: improvement of value - lambda L0;
* ``external``: log improvement of the value, less lambda L0.

L0 is smoothed while it is optimised, L0_a(x) = d - sum_j exp(-(x_j - default_j)^2 / (2 a^2)), and a falls
from 0.2 to 0.001 in thirty steps, each starting where the last one ended; what is then within 0.01 of the
default is put there. The surrogate is BONSAI's. Values are in units of the measured values' standard
deviation, so that one lambda does for all problems. Real-valued parameters only. Source: S. Liu et al.,
"Sparse Bayesian optimization", AISTATS 2023.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from botorch.optim import optimize_acqf
from torch import Tensor, nn

from recengine.contracts.tuner import Observation
from recengine.tuning import Space
from recengine_plugins.bonsai.config import BonsaiConfig
from recengine_plugins.bonsai.improvement import improvement, predictor
from recengine_plugins.bonsai.knowledge import Knowledge

WEIGHT = 0.1
STEPS = 30
WIDTHS = np.geomspace(0.2, 1e-3, STEPS)
SNAP = 1e-2
KINDS = ("sebo", "internal", "external")


class Sparse(nn.Module):
    """One of the three at width ``a``: X [b, 1, d] -> [b]."""

    def __init__(self, kind: str, known: Knowledge, default: Tensor) -> None:
        super().__init__()
        self.kind, self.default, self.a = kind, default, 1.0
        self.predict = predictor(known.model)
        self.unit = float(known.Y.std()) or 1.0
        self.sparsity = (known.X - default).abs().gt(1e-9).sum(dim=1).to(known.X)
        with torch.no_grad():
            self.means = self.predict(known.X)[0] / self.unit  # [K, n]

    def forward(self, X: Tensor) -> Tensor:
        x = X.squeeze(-2)
        mean, deviation = (value / self.unit for value in self.predict(x))
        changed = x.shape[1] - (-((x - self.default) ** 2) / (2 * self.a**2)).exp().sum(dim=1)
        if self.kind == "external":
            best = self.means.max(dim=1, keepdim=True).values
            gain = improvement(mean - best, deviation).logsumexp(dim=0) - math.log(len(mean))
            return gain - WEIGHT * changed
        if self.kind == "internal":
            best = (self.means - WEIGHT * self.sparsity).max(dim=1, keepdim=True).values
            gain = improvement(mean - WEIGHT * changed - best, deviation)
            return gain.logsumexp(dim=0) - math.log(len(mean))
        return self._hypervolume(mean, deviation, changed)

    def _hypervolume(self, mean: Tensor, deviation: Tensor, changed: Tensor) -> Tensor:
        """sum over strips of the sparsity axis of width x EI over the best value that is at least as sparse.

        The second objective is known, so the expected improvement is a sum in closed form. Reference: all
        parameters changed, and a tenth of the range below the worst value.
        """
        levels = torch.cat([self.sparsity.unique(), torch.tensor([float(self.default.numel())])])
        low = self.means.min(dim=1).values - 0.1 * (self.means.max() - self.means.min())
        total = torch.zeros_like(mean)
        before = torch.zeros(())
        best = low
        for level in levels:
            # strip between two levels: points with at most ``before`` changes stand in the way there
            width = (level - torch.maximum(changed, before)).clamp_min(0.0)
            total = total + width * improvement(mean - best[:, None], deviation).exp()
            sparse_enough = self.sparsity <= level
            if bool(sparse_enough.any()):
                best = torch.maximum(best, self.means[:, sparse_enough].max(dim=1).values)
            before = level
        return total.mean(dim=0).clamp_min(1e-300).log()


class Regularised:
    """A tuner that proposes by one of KINDS."""

    def __init__(self, kind: str, config: BonsaiConfig, space: Space, seed: int) -> None:
        if any(parameter.kind != "float" for parameter in space.parameters) or space.limits:
            raise ValueError("real-valued parameters without limits only")
        self.kind, self.config, self.space, self.seed = kind, config, space, seed
        self.default = torch.as_tensor(space.encode(space.default))

    def propose(
        self, history: Sequence[Observation], n: int, pending: Sequence[Mapping[str, Any]] = ()
    ) -> list[dict[str, Any]]:
        """One point."""
        seed = self.seed + len(history)
        known = Knowledge.of(self.space, history, self.config, seed=seed)
        sparse = Sparse(self.kind, known, self.default)
        cube = torch.stack([torch.zeros_like(self.default), torch.ones_like(self.default)])
        optimise: Callable[..., Any] = optimize_acqf
        starts = None
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for width in WIDTHS:
                sparse.a = float(width)
                told = {"batch_initial_conditions": starts} if starts is not None else {}
                starts, values = optimise(
                    sparse,
                    cube,
                    q=1,
                    num_restarts=self.config.restarts,
                    raw_samples=self.config.raw_samples if starts is None else None,
                    options={"maxiter": 200 if starts is None else 50, "batch_limit": self.config.restarts},
                    return_best_only=False,
                    retry_on_optimization_warning=False,
                    **told,
                )
                starts = starts.detach()
        x = starts[int(values.argmax()), 0].clone()
        near = (x - self.default).abs() <= SNAP
        x[near] = self.default[near]
        return [self.space.decode(x.numpy())]
