"""The surrogate: Gaussian processes over the unit cube, one a target."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from recengine_plugins.bonsai.improvement import predictor
from recengine_plugins.bonsai.map_saas import LENGTHSCALE, NOISE, OUTPUTSCALE, fit_members

Kind = Literal["auto", "gp", "map_saas"]


def fit_surrogate(X: Tensor, Y: Tensor, kind: Kind, members: int, seed: int) -> Any:
    """A fitted botorch model of Y [n, m] on X [n, d] in [0, 1].

    gp: SingleTaskGP, dimension-scaled log-normal lengthscale prior (botorch's default). map_saas: ensemble
    of ``members`` maximum-a-posteriori fits under the sparse axis-aligned subspace prior
    (recengine_plugins.bonsai.map_saas); auto takes it from 10 columns on.
    """
    from botorch.models import ModelListGP

    sparse = kind == "map_saas" or (kind == "auto" and X.shape[1] >= 10)
    models = [
        _ensemble(X, y[:, None], members, np.random.default_rng([seed, at]))
        if sparse
        else _one(X, y[:, None])
        for at, y in enumerate(Y.unbind(dim=1))
    ]
    return models[0] if len(models) == 1 else ModelListGP(*models)


def _transform(y: Tensor) -> dict[str, Any]:
    """botorch standardises by default; a constant objective has no scale to standardise by."""
    return {} if float(y.std()) > 1e-12 else {"outcome_transform": None}


def _one(X: Tensor, y: Tensor) -> Any:
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import SingleTaskGP
    from gpytorch.mlls import ExactMarginalLogLikelihood

    model = SingleTaskGP(train_X=X, train_Y=y, **_transform(y))
    fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
    return model


def _ensemble(X: Tensor, y: Tensor, members: int, generator: np.random.Generator) -> Any:
    from botorch.models.map_saas import EnsembleMapSaasSingleTaskGP

    transform = _transform(y)
    standard = y if transform else (y - y.mean()) / y.std()
    fits = fit_members(X.numpy(), standard[:, 0].numpy(), members, generator)
    taus = torch.tensor([fit.tau for fit in fits], dtype=X.dtype)
    model = EnsembleMapSaasSingleTaskGP(train_X=X, train_Y=y, num_taus=members, taus=taus, **transform)
    within = 1e-6  # of the ends of a range, which botorch's constraints do not take
    kernel = model.covar_module
    kernel.base_kernel.lengthscale = _inside(np.stack([f.lengthscale for f in fits]), LENGTHSCALE, within)[
        :, None
    ]
    kernel.outputscale = _inside(np.array([f.outputscale for f in fits]), OUTPUTSCALE, within)
    model.likelihood.noise = _inside(np.array([f.noise for f in fits]), NOISE, within)[:, None]
    model.mean_module.constant = torch.tensor([f.mean for f in fits], dtype=X.dtype)
    return model.eval()


def _inside(values: Any, ends: tuple[float, float], share: float) -> Tensor:
    return torch.as_tensor(values).clamp(ends[0] * (1 + share), ends[1] * (1 - share))


class Feasibility:
    """Probability that a point is feasible, from Gaussian processes on 0/1 outcomes: Phi((mean - 1/2)/sd),
    the mean over the members of an ensemble."""

    def __init__(
        self, X: Tensor, feasible: Tensor, kind: Kind = "auto", members: int = 4, seed: int = 0
    ) -> None:
        self.model = None
        if not bool(feasible.all()):
            self.model = fit_surrogate(X, feasible.to(X)[:, None], kind, members, seed)
            self._predict = predictor(self.model)

    def log_probability(self, X: Tensor) -> Tensor:
        """log P(feasible) of X [b, q, d]: [b], the product over the q points."""
        if self.model is None:
            return X.new_zeros(X.shape[0])
        means, deviations = self._predict(X.reshape(-1, X.shape[-1]))
        each = torch.special.log_ndtr((means - 0.5) / deviations)
        return (each.logsumexp(dim=0) - math.log(len(each))).reshape(X.shape[:-1]).sum(dim=-1)
