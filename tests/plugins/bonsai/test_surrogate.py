"""The ensemble's fits, and expected improvement in closed form."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("botorch")

from scipy.optimize import approx_fprime
from scipy.stats import norm

from recengine_plugins.bonsai.improvement import LogImprovement, improvement, log_h, predictor
from recengine_plugins.bonsai.map_saas import fit_members, negative_log_posterior
from recengine_plugins.bonsai.surrogate import fit_surrogate


def planted(n: int, d: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """n points among d columns of which the first two matter."""
    X = np.random.default_rng(seed).random((n, d))
    return torch.as_tensor(X), torch.as_tensor(np.sin(5 * X[:, 0]) + 2 * X[:, 1])


def standard(y: torch.Tensor) -> Any:
    return ((y - y.mean()) / y.std()).numpy()


def test_the_gradient_of_a_fit_is_that_of_its_value() -> None:
    X, y = planted(12, 5, 0)
    first, second = np.triu_indices(12, 1)
    squares = np.square(X.numpy()[first] - X.numpy()[second])
    theta = np.random.default_rng(1).normal(size=8) * 0.5
    theta[6] = -3.0

    def value(at: Any) -> float:
        return negative_log_posterior(at, squares, standard(y), 0.1)[0]

    gradient = negative_log_posterior(theta, squares, standard(y), 0.1)[1]
    np.testing.assert_allclose(gradient, approx_fprime(theta, value, 1e-6), atol=1e-4)


def test_the_value_of_a_fit_is_botorchs() -> None:
    """Up to a constant: differences between two settings of the hyperparameters agree."""
    from gpytorch.mlls import ExactMarginalLogLikelihood

    X, y = planted(12, 5, 0)
    model = fit_surrogate(X, y[:, None], "map_saas", 1, 0)
    mll = ExactMarginalLogLikelihood(model.likelihood, model).train()
    first, second = np.triu_indices(12, 1)
    squares = np.square(X.numpy()[first] - X.numpy()[second])
    ours, theirs = [], []
    for scale in (0.7, 3.0):
        model.covar_module.base_kernel.lengthscale = torch.linspace(0.5, 2.0, 5).double() * scale
        model.covar_module.outputscale = 2.0 * scale
        model.likelihood.noise = 0.01 * scale
        model.mean_module.constant = torch.tensor([0.1 * scale]).double()
        theta = np.concatenate(
            [np.log(np.linspace(0.5, 2.0, 5) * scale), np.log([2.0 * scale, 0.01 * scale]), [0.1 * scale]]
        )
        ours.append(-negative_log_posterior(theta, squares, standard(y), float(model.taus[0]))[0])
        with torch.no_grad():
            theirs.append(12 * float(mll(model(*model.train_inputs), model.train_targets)))
    assert ours[0] - ours[1] == pytest.approx(theirs[0] - theirs[1], abs=1e-3)


def test_fits_find_what_matters() -> None:
    X, y = planted(40, 12, 3)
    members = fit_members(X.numpy(), standard(y), 6, np.random.default_rng(0))
    best = max(members, key=lambda member: member.value)
    assert best.lengthscale[:2].max() < best.lengthscale[2:].min()


def test_the_predictor_says_what_botorchs_posterior_says() -> None:
    X, y = planted(14, 11, 5)
    model = fit_surrogate(X, 3 * y[:, None] + 7, "map_saas", 3, 0)
    at = torch.rand(6, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean, deviation = predictor(model)(at)
    with torch.no_grad():
        posterior = model.posterior(at[:, None])
    torch.testing.assert_close(mean, posterior.mean[:, :, 0, 0].T, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(deviation, posterior.variance[:, :, 0, 0].T.sqrt(), atol=1e-4, rtol=1e-3)


def test_improvement_is_that_of_the_textbook_and_of_its_asymptote() -> None:
    u = np.linspace(-6, 4, 41)
    expected = np.log(norm.pdf(u) + u * norm.cdf(u))
    np.testing.assert_allclose(log_h(torch.as_tensor(u)).numpy(), expected, rtol=1e-6)
    far = torch.tensor([-1e3, -1e7], dtype=torch.float64)
    # h(u) -> phi(u) / u^2
    expected_far = -0.5 * far**2 - 0.5 * math.log(2 * math.pi) - 2 * (-far).log()
    torch.testing.assert_close(log_h(far), expected_far, rtol=1e-9, atol=1e-4)
    both = improvement(torch.tensor([2.0]).double(), torch.tensor([1e-9]).double())
    assert float(both) == pytest.approx(math.log(2.0))


def test_improvement_of_an_ensemble_is_the_mean_over_its_members() -> None:
    X, y = planted(14, 11, 6)
    model = fit_surrogate(X, y[:, None], "map_saas", 3, 0)
    at = torch.rand(4, 1, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    means, deviations = predictor(model)(at[:, 0])
    best = predictor(model)(X)[0].max(dim=1).values
    u = ((means - best[:, None]) / deviations).detach().numpy()
    expected = (deviations.detach().numpy() * (norm.pdf(u) + u * norm.cdf(u))).mean(axis=0)
    found = LogImprovement(model, X)(at).detach().exp().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-6)
