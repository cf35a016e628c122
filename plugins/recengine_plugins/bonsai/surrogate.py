"""The surrogate: Gaussian processes over the unit cube, one a target."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

Kind = Literal["auto", "gp", "map_saas"]


def fit_surrogate(X: Tensor, Y: Tensor, kind: Kind) -> Any:
    """A fitted botorch model of Y [n, m] on X [n, d] in [0, 1].

    gp: SingleTaskGP, dimension-scaled log-normal lengthscale prior (botorch's default). map_saas: ensemble
    of maximum-a-posteriori fits under the sparse axis-aligned subspace prior (Eriksson and Jankowiak, 2021);
    auto takes it from 10 columns on.
    """
    from botorch.models import ModelListGP

    sparse = kind == "map_saas" or (kind == "auto" and X.shape[1] >= 10)
    models = [_one(X, column[:, None], sparse) for column in Y.unbind(dim=1)]
    return models[0] if len(models) == 1 else ModelListGP(*models)


def _one(X: Tensor, y: Tensor, sparse: bool) -> Any:
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import SingleTaskGP
    from botorch.models.map_saas import EnsembleMapSaasSingleTaskGP
    from gpytorch.mlls import ExactMarginalLogLikelihood

    make = EnsembleMapSaasSingleTaskGP if sparse else SingleTaskGP
    # botorch standardises by default; a constant objective has no scale to standardise by
    transform = {} if float(y.std()) > 1e-12 else {"outcome_transform": None}
    model = make(train_X=X, train_Y=y, **transform)
    fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
    return model


class Feasibility:
    """Probability that a point is feasible, from a Gaussian process on 0/1 outcomes: Phi((mean - 1/2)/sd)."""

    def __init__(self, X: Tensor, feasible: Tensor) -> None:
        self.model = None if bool(feasible.all()) else _one(X, feasible.to(X)[:, None], False)

    def log_probability(self, X: Tensor) -> Tensor:
        """log P(feasible) of X [b, q, d]: [b], the product over the q points."""
        if self.model is None:
            return X.new_zeros(X.shape[0])
        posterior = self.model.posterior(X)
        z = (posterior.mean - 0.5) / posterior.variance.clamp_min(1e-12).sqrt()
        return torch.special.log_ndtr(z).squeeze(-1).sum(dim=-1)
