"""Each loss against its formula, in float64, with every gradient."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import recengine
from recengine.contracts.batch import StepContext
from recengine.contracts.loss import LossInput
from recengine.contracts.model import DataFacts
from recengine.errors import UsageError
from recengine.hooks import host
from recengine.testing.worlds import planted
from recengine.training.build import build_model
from recengine.training.config import resolve

ROWS, ITEMS, DIM, COUNT = 7, 11, 5, 4


def loss(name: str, **settings: Any) -> Any:
    entry = host().registries["loss"].get(name)
    return entry.load()(entry.load_config()(**settings))


def given(shared: bool = False, bias: bool = True, log_q: bool = False) -> LossInput:
    torch.manual_seed(3)
    shape = (COUNT,) if shared else (ROWS, COUNT)
    return LossInput(
        torch.randn(ROWS, DIM, dtype=torch.float64, requires_grad=True),
        torch.randn(ITEMS, DIM, dtype=torch.float64, requires_grad=True),
        torch.randint(0, ITEMS, (ROWS,)),
        torch.randint(0, ITEMS, shape),
        torch.randn(shape, dtype=torch.float64) - 3 if log_q else None,
        torch.randn(ITEMS, dtype=torch.float64, requires_grad=True) if bias else None,
    )


def by_rows(case: LossInput, formula: Any) -> Tensor:
    """Mean over rows of formula(score of the target, of sampled items that are not it, their log q)."""
    logits = case.anchors @ case.items.T + (0 if case.bias is None else case.bias)
    total = torch.zeros((), dtype=torch.float64)
    assert case.negatives is not None
    for row in range(ROWS):
        sampled = case.negatives if case.negatives.ndim == 1 else case.negatives[row]
        kept = sampled != case.positives[row]
        log_q = None
        if case.log_q is not None:
            log_q = (case.log_q if case.log_q.ndim == 1 else case.log_q[row])[kept]
        total = total + formula(logits[row, case.positives[row]], logits[row, sampled[kept]], log_q)
    return total / ROWS


def gbce(positive: Tensor, negative: Tensor, log_q: Tensor | None) -> Tensor:
    alpha = COUNT / (ITEMS - 1)
    beta = alpha * (0.75 * (1 - 1 / alpha) + 1 / alpha)
    return -(beta * torch.sigmoid(positive).log() + torch.sigmoid(-negative).log().sum()) / (COUNT + 1)


def sampled_softmax(positive: Tensor, negative: Tensor, log_q: Tensor | None) -> Tensor:
    log_q = torch.tensor(-math.log(ITEMS), dtype=torch.float64) if log_q is None else log_q
    corrected = negative / 0.5 - math.log(COUNT) - log_q
    return torch.logsumexp(torch.cat([positive[None] / 0.5, corrected]), 0) - positive / 0.5


def bpr(positive: Tensor, negative: Tensor, log_q: Tensor | None) -> Tensor:
    return -torch.sigmoid(positive - negative).log().sum() / COUNT


def bce(positive: Tensor, negative: Tensor, log_q: Tensor | None) -> Tensor:
    return -torch.sigmoid(positive).log() - torch.sigmoid(-negative).log().sum() / COUNT


FORMULAS = {
    "gbce": (gbce, {"calibration": 0.75, "balanced": False}),
    "sampled_softmax": (sampled_softmax, {"temperature": 0.5}),
    "bpr": (bpr, {}),
    "bce": (bce, {}),
}


@pytest.mark.parametrize("log_q", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("name", FORMULAS)
def test_value_and_gradients(name: str, shared: bool, bias: bool, log_q: bool) -> None:
    formula, settings = FORMULAS[name]
    case = given(shared, bias, log_q)
    inputs = [case.anchors, case.items, *([case.bias] if case.bias is not None else [])]
    found = loss(name, negatives=COUNT, shared=shared, **settings)(case, StepContext())
    wanted = by_rows(case, formula)
    torch.testing.assert_close(found, wanted)
    for ours, theirs in zip(
        torch.autograd.grad(found, inputs), torch.autograd.grad(wanted, inputs), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", ["bpr", "bce"])
def test_only_the_hardest_count(name: str, bias: bool) -> None:
    """The best scored, biases and all; the row's own target never is one of them."""
    case = given(bias=bias)
    assert case.negatives is not None
    logits = case.anchors @ case.items.T + (0 if case.bias is None else case.bias)
    ranked = logits.gather(1, case.negatives).masked_fill(
        case.negatives == case.positives[:, None], -torch.inf
    )
    best = case.negatives.gather(1, ranked.topk(2, dim=1).indices)
    inputs = [case.anchors, case.items, *([case.bias] if case.bias is not None else [])]
    found = loss(name, negatives=COUNT, hardest=2)(case, StepContext())
    wanted = loss(name, negatives=2)(replace(case, negatives=best), StepContext())
    torch.testing.assert_close(found, wanted)
    for ours, theirs in zip(
        torch.autograd.grad(found, inputs), torch.autograd.grad(wanted, inputs), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", ["bpr", "bce"])
def test_shared_items_can_be_rejected(name: str) -> None:
    """A rejected item counts as little as the row's own target among its sampled items does."""
    case = given(shared=True)
    assert case.negatives is not None
    met = case.negatives[torch.arange(ROWS) % COUNT]  # each user was trained on one of the sampled items
    asked = replace(case, row_ids=torch.arange(ROWS), user_items=(torch.arange(ROWS + 1), met))
    own = torch.where(case.negatives == met[:, None], case.positives[:, None], case.negatives)
    made = loss(name, negatives=COUNT, shared=True, reject=True)
    assert {"row_ids", "user_items"} <= made.needs
    wanted = loss(name, negatives=COUNT)(replace(case, negatives=own), StepContext())
    torch.testing.assert_close(made(asked, StepContext()), wanted)
    with pytest.raises(UsageError, match="reject"):
        made(case, StepContext())


@pytest.mark.parametrize("name", FORMULAS)
def test_the_power_of_the_popularity_reaches_the_sampler(name: str) -> None:
    assert loss(name, sampler="popularity", power=0.5).power == 0.5
    given = {"loss": {"name": name, "sampler": "popularity", "power": 0.5}}
    model = build_model("mf", resolve("mf", given, host()), DataFacts(5, 6), 0, host())
    assert model.feed().power == 0.5  # type: ignore[operator]


def test_dynamic_negative_sampling_is_bpr_with_its_hardest() -> None:
    settings = {"training.epochs": 2, "loss": {"name": "bpr", "negatives": 8, "hardest": 1}}
    fits = [recengine.fit("mf", planted().split, settings=settings) for _ in range(2)]
    assert fits[0].history[-1]["loss"] < fits[0].history[0]["loss"]
    assert torch.equal(fits[0].model.items.weight, fits[1].model.items.weight)  # type: ignore[union-attr]


def test_a_balanced_gbce_pulls_as_much_as_it_pushes_at_zero_scores() -> None:
    case = given(bias=True)
    assert case.bias is not None
    assert case.negatives is not None
    free = (case.negatives != case.positives[:, None]).all(1)  # a collision is one push less
    rows = {
        "anchors": case.anchors[free] * 0,
        "positives": case.positives[free],
        "negatives": case.negatives[free],
    }
    bias = torch.zeros_like(case.bias).requires_grad_()
    (slope,) = torch.autograd.grad(
        loss("gbce", negatives=COUNT, shared=False)(replace(case, bias=bias, **rows), StepContext()), bias
    )
    assert float(slope.sum()) == pytest.approx(0, abs=1e-12)
    plain = loss("gbce", negatives=COUNT, shared=False, balanced=False)
    (pushed,) = torch.autograd.grad(plain(replace(case, bias=bias, **rows), StepContext()), bias)
    assert float(pushed.sum()) > 0.1


def test_softmax_is_cross_entropy_over_the_catalogue() -> None:
    """Of s / T with s = <a, e> + b, by which the model ranks: the bias is divided as well."""
    case = given()
    found = loss("softmax", temperature=0.7)(case, StepContext())
    assert case.bias is not None
    logits = (case.anchors @ case.items.T + case.bias) / 0.7
    wanted = torch.nn.functional.cross_entropy(logits, case.positives)
    torch.testing.assert_close(found, wanted)
    leaves = [case.anchors, case.items, case.bias]
    expected = torch.autograd.grad(wanted, leaves)
    for ours, theirs in zip(torch.autograd.grad(found, leaves), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_softmax_is_the_sampled_one_over_every_item() -> None:
    case = given()
    every = replace(case, negatives=torch.arange(ITEMS))
    sampled = loss("sampled_softmax", negatives=ITEMS, log_q=False, temperature=0.5)(every, StepContext())
    torch.testing.assert_close(loss("softmax", temperature=0.5)(case, StepContext()), sampled)


@pytest.mark.parametrize("name", ["softmax", "sl", "directau", "dsl_r"])
def test_biases_are_refused_beside_cosines(name: str) -> None:
    case = replace(given(), row_ids=torch.arange(ROWS))
    made = loss(name, **({"score": "cosine"} if name == "softmax" else {}))
    with pytest.raises(UsageError, match="no place for item biases"):
        made(case, StepContext())
    made(replace(case, bias=None), StepContext())


def test_the_correction_makes_the_sampled_normaliser_unbiased() -> None:
    generator = torch.Generator().manual_seed(0)
    anchors, items = torch.randn(1, DIM, generator=generator), torch.randn(50, DIM, generator=generator)
    q = torch.softmax(torch.randn(50, generator=generator), 0)
    drawn = torch.multinomial(q, 20_000, replacement=True, generator=generator)
    case = LossInput(anchors, items, torch.tensor([0]), drawn, q[drawn].log())
    found = loss("sampled_softmax", negatives=20_000)(case, StepContext())
    wanted = torch.nn.functional.cross_entropy(anchors @ items.T, case.positives)
    assert abs(float(found - wanted)) < 0.05


@pytest.mark.parametrize("name", FORMULAS)
def test_a_missing_sample_is_named(name: str) -> None:
    case = given()
    without = LossInput(case.anchors, case.items, case.positives)
    with pytest.raises(UsageError, match="sampled items"):
        loss(name)(without, StepContext())
