"""Expected improvement in closed form, for one Gaussian process or the mean over an ensemble.

    EI(x) = mean_k s_k(x) h((m_k(x) - best_k) / s_k(x)),   h(u) = phi(u) + u Phi(u)

m_k and s_k: posterior mean and standard deviation of member k (without noise); best_k: the largest posterior
mean of member k at a measured point, so that noisy measurements are not taken at their word. Computed as a
logarithm (Ament et al., "Unexpected improvements to expected improvement", NeurIPS 2023).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Predict = Callable[[Tensor], tuple[Tensor, Tensor]]  # X [b, d] -> means and deviations [K, b]
_LOG_ROOT_2PI = 0.5 * math.log(2 * math.pi)
_FAR = 1e5  # standard deviations from which h is its first asymptotic term
_ROOT5 = 5.0**0.5


class LogImprovement(nn.Module):
    """log EI of X [b, 1, d]: [b]. X_known [n, d]: the measured points."""

    def __init__(self, model: Any, X_known: Tensor) -> None:
        super().__init__()
        self.model = model
        self._predict = predictor(model)
        with torch.no_grad():
            self._best = self._predict(X_known)[0].max(dim=1, keepdim=True).values

    def forward(self, X: Tensor) -> Tensor:
        mean, deviation = self._predict(X.squeeze(-2))
        each = improvement(mean - self._best, deviation)
        return each.logsumexp(dim=0) - math.log(len(each))


def predictor(model: Any) -> Predict:
    """Means and deviations of the members of a fitted surrogate (of one member, if it is none of several)."""
    return _of_ensemble(model) if hasattr(model, "taus") else _of_posterior(model)


def improvement(gain: Tensor, deviation: Tensor) -> Tensor:
    """log E max(0, z) of normal z with mean ``gain`` and that standard deviation."""
    return deviation.log() + log_h(gain / deviation)


def log_h(u: Tensor) -> Tensor:
    """log(phi(u) + u Phi(u)), accurate however far below zero u lies."""
    near = u.clamp_min(-1.0)
    direct = ((-0.5 * near**2 - _LOG_ROOT_2PI).exp() + near * torch.special.ndtr(near)).log()
    below = (-u).clamp(1.0, _FAR)
    rest = torch.log1p(-below * math.sqrt(math.pi / 2) * torch.special.erfcx(below / math.sqrt(2)))
    tail = torch.where(u > -_FAR, rest, -2 * (-u).clamp_min(1.0).log())
    return torch.where(u > -1.0, direct, tail - 0.5 * u.clamp_max(-1.0) ** 2 - _LOG_ROOT_2PI)


def _of_posterior(model: Any) -> Predict:
    def predict(X: Tensor) -> tuple[Tensor, Tensor]:
        posterior = model.posterior(X[:, None])
        return posterior.mean[None, :, 0, 0], posterior.variance[None, :, 0, 0].clamp_min(1e-12).sqrt()

    return predict


def _of_ensemble(model: Any) -> Predict:
    """What botorch's posterior of the MAP-SAAS ensemble says, at a tenth of the time for a few points."""
    with torch.no_grad():
        inverse = 1 / model.covar_module.base_kernel.lengthscale  # [K, 1, d]
        scale = model.covar_module.outputscale[:, None]  # [K, 1]
        mean = model.mean_module.constant[:, None]
        noise = model.likelihood.noise
        known = model.train_inputs[0][0] * inverse
        kernel = _matern(known, known, scale)
        kernel = kernel + (noise + 1e-8)[..., None] * torch.eye(known.shape[1], dtype=known.dtype)
        factor = torch.linalg.cholesky(kernel)
        eye = torch.eye(known.shape[1], dtype=known.dtype).expand_as(kernel)
        whiten = torch.linalg.solve_triangular(factor, eye, upper=False)  # [K, n, n]
        weights = whiten.mT @ (whiten @ (model.train_targets - mean)[..., None])
        offset, unit = torch.zeros(()), torch.ones(())
        if hasattr(model, "outcome_transform"):
            offset, unit = model.outcome_transform.means[0], model.outcome_transform.stdvs[0]

    def predict(X: Tensor) -> tuple[Tensor, Tensor]:
        cross = _matern(X * inverse, known, scale)
        means = mean + (cross @ weights)[..., 0]
        variance = scale - (cross @ whiten.mT).square().sum(dim=-1)
        return offset + unit * means, unit * variance.clamp_min(1e-12).sqrt()

    return predict


def _matern(first: Tensor, second: Tensor, scale: Tensor) -> Tensor:
    """Matern 5/2 of scaled rows [K, b, d] and [K, n, d]: [K, b, n]."""
    squared = first.square().sum(-1)[..., None] + second.square().sum(-1)[:, None] - 2 * first @ second.mT
    r = squared.clamp_min(1e-14).sqrt()
    return scale[..., None] * (1 + _ROOT5 * r + (5 / 3) * r * r) * (-_ROOT5 * r).exp()
