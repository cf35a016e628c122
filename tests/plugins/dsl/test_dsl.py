"""DSL-R (a derived design, not a reproduction) against the golden vector and the stated properties."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from recengine.contracts.batch import StepContext
from recengine.contracts.loss import LossInput
from recengine.hooks import host
from recengine.ops.competition import log_weights, slate_intensity
from recengine_plugins.dsl.config import DSLRConfig
from recengine_plugins.dsl.model import DSLR

S = torch.tensor([[0.72, 0.2, -0.1, 0.55, 0.9]], dtype=torch.float64)
C = torch.tensor([[0.8, 0.1, -0.3, 0.4, 0.05]], dtype=torch.float64)
LIVE = torch.ones(1, 5, dtype=torch.bool)
LATE = StepContext(epoch=50)


def core(kappa: float = 1.0, gamma: float = 1.0, centre: float = 0.5) -> tuple[Tensor, ...]:
    """w, slate, q, t and the loss of the golden row from the functions of the design."""
    weight = log_weights(S, C, LIVE, kappa, 0.5)
    slate, q = slate_intensity(weight, S - 0.6, LIVE, 0.1, 2)
    t = 0.1 * torch.exp(-gamma * (q - centre)).clamp(0.5, 2.0)
    x = weight + (S - 0.6) / t[:, None]
    return weight.exp(), slate, q, t, torch.logsumexp(x, 1) - math.log(5), torch.softmax(x, 1)


def test_golden_vector() -> None:
    w, slate, q, t, value, p = core()
    wanted = torch.tensor([[1.252729, 0.875950, 0.784508, 1.068842, 1.017971]], dtype=torch.float64)
    torch.testing.assert_close(w, wanted, rtol=0, atol=1e-6)
    assert sorted(slate[0].tolist()) == [0, 4]
    assert float(q) == pytest.approx(0.860549, abs=1e-6)
    assert float(t) == pytest.approx(0.069729, abs=1e-6)
    assert float(value) == pytest.approx(2.806120, abs=2e-6)
    share = torch.tensor([[0.084645, 0.000034, 0.0, 0.006307, 0.909013]], dtype=torch.float64)
    torch.testing.assert_close(p, share, rtol=0, atol=1e-6)
    assert float(-1 / t) == pytest.approx(-14.341172, abs=1e-4)


@pytest.mark.parametrize(
    ("kappa", "gamma", "value"),
    [(1.0, -1.0, 0.871467), (0.0, 0.0, 1.569924), (1.0, 0.0, 1.620210), (0.0, 1.0, 2.772020)],
)
def test_golden_values_of_the_branches(kappa: float, gamma: float, value: float) -> None:
    assert float(core(kappa, gamma)[4]) == pytest.approx(value, abs=2e-6)


def made(**settings: Any) -> DSLR:
    return DSLR(DSLRConfig(**{"temperature": 0.2, "warmup": 0, "ramp": 0, **settings}))


def given(rows: int = 8, items: int = 30, count: int = 12, dtype: torch.dtype = torch.float64) -> LossInput:
    generator = torch.Generator().manual_seed(5)
    return LossInput(
        torch.randn(rows, 6, dtype=dtype, generator=generator),
        torch.randn(items, 6, dtype=dtype, generator=generator),
        torch.randint(0, items, (rows,), generator=generator),
        torch.randint(0, items, (rows, count), generator=generator),
    )


def parts(loss: DSLR, case: LossInput) -> Any:
    unit = torch.nn.functional.normalize
    anchors, items = unit(case.anchors, dim=1), unit(case.items, dim=1)
    positive = (anchors * items[case.positives]).sum(1)
    live = case.negatives != case.positives[:, None]
    return loss.competition(anchors, items, case.positives, positive, case.negatives, live, 50), live


@pytest.mark.parametrize("gamma", [-1.0, 1.0])
@pytest.mark.parametrize("kappa", [0.0, 1.0])
def test_the_module_is_the_design(kappa: float, gamma: float) -> None:
    case, loss = given(), made(kappa=kappa, gamma=gamma, slate=3)
    found, live = parts(made(kappa=kappa, gamma=gamma, slate=3), case)
    unit = torch.nn.functional.normalize
    every = unit(case.anchors, dim=1) @ unit(case.items, dim=1).T
    s, p = every.gather(1, case.negatives), every.gather(1, case.positives[:, None])
    x = found.log_weight + (s - p) / found.temperature[:, None]
    x = x.masked_fill(~live, -torch.inf)
    wanted = (torch.logsumexp(x, 1) - live.sum(1).log()).mean()
    torch.testing.assert_close(loss(case, LATE), wanted)


def test_without_strengths_it_is_sl() -> None:
    case = given()
    entry = host().registries["loss"].get("sl")
    sl = entry.load()(entry.load_config()(temperature=0.2))(case, LATE)
    shift = (case.negatives != case.positives[:, None]).sum(1).log().mean()
    assert float(made(kappa=0.0, gamma=0.0)(case, LATE)) == pytest.approx(float(sl - shift), abs=1e-6)
    warming = made(warmup=5, ramp=5)
    assert float(warming(case, StepContext(epoch=4 - 1))) == pytest.approx(float(sl - shift), abs=1e-6)


def test_the_weight_of_the_sampled_side_is_bsls() -> None:
    case = given()
    entry = host().registries["loss"].get("bsl")
    bsl = entry.load()(
        entry.load_config().parse({"form": "grouped", "temperature": 0.2, "negative_weight": 1.25})
    )
    alone = replace(case, row_ids=torch.arange(case.anchors.shape[0]))  # no two rows of one user
    found = made(kappa=0.0, gamma=0.0, negative_weight=1.25)(case, StepContext())
    torch.testing.assert_close(found, bsl(alone, StepContext()))


@pytest.mark.parametrize("kappa", [0.0, 1.0])
def test_the_reach_weighs_rows_by_the_least_cosine_of_the_slate(kappa: float) -> None:
    case, loss = given(), made(kappa=kappa, gamma=0.0, slate=3, reach_temperature=0.7)
    found, live = parts(made(kappa=kappa, gamma=0.0, slate=3, reach_temperature=0.7), case)
    anchors = case.anchors.clone().requires_grad_()
    unit = torch.nn.functional.normalize
    every = unit(anchors, dim=1) @ unit(case.items, dim=1).T
    s, p = every.gather(1, case.negatives), every.gather(1, case.positives[:, None])
    least = torch.stack([s[r][found.slate[r]].min() for r in range(8)]).detach()
    torch.testing.assert_close(found.threshold, least)
    rows = torch.logsumexp((found.log_weight + (s - p) / 0.2).masked_fill(~live, -torch.inf), 1)
    wanted = (rows * torch.sigmoid((p[:, 0] - least) / 0.7)).mean()
    leaf = case.anchors.clone().requires_grad_()
    value = loss(replace(case, anchors=leaf), LATE)
    torch.testing.assert_close(value, wanted)
    torch.testing.assert_close(*torch.autograd.grad(value, leaf), *torch.autograd.grad(wanted, anchors))


def test_weights_have_mean_one_within_their_bounds() -> None:
    case = given()
    found, live = parts(made(kappa=4.0), case)
    w = found.log_weight.exp() * live
    torch.testing.assert_close(w.sum(1) / live.sum(1), torch.ones(8, dtype=torch.float64))
    assert bool((w[live] >= 1 / 5 - 1e-9).all())
    assert bool((w[live] <= 5 + 1e-9).all())


def test_permuting_negatives_changes_nothing() -> None:
    case = given()
    order = torch.randperm(12, generator=torch.Generator().manual_seed(2))
    mixed = LossInput(case.anchors, case.items, case.positives, case.negatives[:, order])
    assert float(made()(case, LATE)) == pytest.approx(float(made()(mixed, LATE)), abs=1e-10)


def test_equal_scores_give_no_nan() -> None:
    same = torch.full((2, 4), 0.3, dtype=torch.float64)
    live = torch.ones(2, 4, dtype=torch.bool)
    weight = log_weights(same, torch.zeros_like(same), live, 1.0, 1.0)
    torch.testing.assert_close(weight, torch.zeros_like(weight))
    _, q = slate_intensity(weight, torch.full((2, 4), -0.3, dtype=torch.float64), live, 0.2, 3)
    torch.testing.assert_close(q, torch.sigmoid(torch.tensor([-1.5, -1.5], dtype=torch.float64)))


@pytest.mark.parametrize("gamma", [-1.0, 2.0])
def test_the_gradient_holds_weights_and_temperatures(gamma: float) -> None:
    """Finite differences of the loss with w and t frozen."""
    case, loss = given(), made(gamma=gamma)
    found, live = parts(made(gamma=gamma), case)
    anchors = case.anchors.clone().requires_grad_()
    value = loss(LossInput(anchors, case.items, case.positives, case.negatives), LATE)
    gradient = torch.autograd.grad(value, anchors)[0]
    unit = torch.nn.functional.normalize

    def frozen(at: Tensor) -> Tensor:
        every = unit(at, dim=1) @ unit(case.items, dim=1).T
        s, p = every.gather(1, case.negatives), every.gather(1, case.positives[:, None])
        x = (found.log_weight + (s - p) / found.temperature[:, None]).masked_fill(~live, -torch.inf)
        return torch.logsumexp(x, 1).mean()

    direction = torch.randn(anchors.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    slope = (frozen(case.anchors + 1e-6 * direction) - frozen(case.anchors - 1e-6 * direction)) / 2e-6
    assert float((gradient * direction).sum()) == pytest.approx(float(slope), rel=1e-5)


def test_crowded_rows_are_sharpened_or_softened_by_the_sign() -> None:
    case = given()
    sharp, _ = parts(made(gamma=1.0, kappa=0.0), case)
    soft, _ = parts(made(gamma=-1.0, kappa=0.0), case)
    order = sharp.intensity.argsort()
    assert bool((sharp.temperature[order].diff() <= 1e-12).all())
    assert bool((soft.temperature[order].diff() >= -1e-12).all())
    mean = sharp.temperature.log().mean().exp()
    assert float(mean) == pytest.approx(0.2, rel=1e-9)  # nothing was clipped: the geometric mean stays


def test_the_centre_is_a_moving_average() -> None:
    case, loss = given(), made(momentum=0.9)
    first, _ = parts(loss, case)
    assert float(loss.centre) == pytest.approx(float(first.intensity.mean()), abs=1e-6)
    other = LossInput(-case.anchors, case.items, case.positives, case.negatives)
    second, _ = parts(loss, other)
    wanted = 0.9 * float(first.intensity.mean()) + 0.1 * float(second.intensity.mean())
    assert float(loss.centre) == pytest.approx(wanted, abs=1e-6)


def test_the_ramp() -> None:
    loss = made(warmup=2, ramp=4)
    assert [loss.strength(epoch) for epoch in range(8)] == [0.0, 0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_it_is_nowhere_called_a_reproduction() -> None:
    entry = host().registries["loss"].get("dsl_r")
    assert "DSL-R" in entry.summary
    assert "not a reproduction" in entry.summary
