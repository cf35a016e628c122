"""DSL-R (a derived design, not a reproduction) against the golden vector and the stated properties."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor

from recengine.contracts.batch import StepContext
from recengine.contracts.loss import LossInput
from recengine.hooks import host
from recengine.nn.threads import one_thread
from recengine.ops import sampled_scores
from recengine.ops.competition import log_weights, slate_intensity
from recengine_plugins.dsl import model as dsl
from recengine_plugins.dsl.config import DSLRConfig
from recengine_plugins.dsl.model import DSLR

S = [0.72, 0.2, -0.1, 0.55, 0.9]
C = [0.8, 0.1, -0.3, 0.4, 0.05]
POSITIVE = 0.6
LATE = StepContext(epoch=50)
DTYPES = [torch.float32, torch.float64]


def golden_row(dtype: torch.dtype) -> LossInput:
    """One row with the golden cosines: the anchor, its target (item 0) and five sampled items."""
    count = len(S)
    items = torch.zeros(count + 1, count + 2, dtype=torch.float64)
    for j, score in enumerate([POSITIVE, *S]):
        items[j, 0], items[j, j + 1] = score, math.sqrt(1 - score**2)
    anchor = torch.zeros(1, count + 2, dtype=dtype)
    anchor[0, 0] = 1.0
    return LossInput(anchor, items.to(dtype), torch.tensor([0]), torch.arange(1, count + 1)[None])


@pytest.fixture
def golden_likeness(monkeypatch: pytest.MonkeyPatch) -> None:
    """The golden likeness in place of that of the items: no vectors have these cosines with anchor and target
    at once."""

    def scores(anchors: Tensor, items: Tensor, negatives: Tensor) -> Tensor:
        if torch.equal(anchors, items[:1]):
            return torch.tensor([C], dtype=anchors.dtype)
        return sampled_scores(anchors, items, negatives)

    monkeypatch.setattr(dsl, "sampled_scores", scores)


def golden_loss(**settings: Any) -> DSLR:
    """The settings of the golden vector, with a mean intensity of 0.5 from the batches before."""
    made = DSLR(
        DSLRConfig(**{"temperature": 0.1, "slate": 2, "gamma": 1.0, "warmup": 0, "ramp": 0, **settings})
    )
    made.centre.fill_(0.5)
    return made


@pytest.mark.usefixtures("golden_likeness")
@pytest.mark.parametrize("dtype", DTYPES)
def test_golden_vector(dtype: torch.dtype) -> None:
    case = golden_row(dtype)
    found, _ = parts(golden_loss(), case)
    near = {"rtol": 0, "atol": 2e-6 if dtype == torch.float32 else 1e-6}
    wanted = torch.tensor([[1.252729, 0.875950, 0.784508, 1.068842, 1.017971]], dtype=dtype)
    torch.testing.assert_close(found.log_weight.exp(), wanted, **near)
    assert sorted(found.slate[0].tolist()) == [0, 4]
    assert float(found.intensity) == pytest.approx(0.860549, abs=1e-6)
    assert float(found.temperature) == pytest.approx(0.069729, abs=1e-6)
    items = case.items.clone().requires_grad_()
    value = golden_loss()(replace(case, items=items), LATE)
    assert float(value.detach()) == pytest.approx(2.806120, abs=1e-5)
    # the gradient of an item is that of its cosine, along what the anchor has across it
    (gradient,) = torch.autograd.grad(value, items)
    scores = torch.tensor([POSITIVE, *S], dtype=dtype)
    across = case.anchors - scores[:, None] * case.items
    slope = (gradient * across).sum(1) / (1 - scores**2)
    assert float(slope[0]) == pytest.approx(-14.341172, abs=1e-3)
    share = torch.tensor([0.084645, 0.000034, 0.0, 0.006307, 0.909013], dtype=dtype)
    torch.testing.assert_close(slope[1:] * 0.069729, share, rtol=0, atol=5e-6)


@pytest.mark.usefixtures("golden_likeness")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("kappa", "gamma", "value"),
    [(1.0, -1.0, 0.871467), (0.0, 0.0, 1.569924), (1.0, 0.0, 1.620210), (0.0, 1.0, 2.772020)],
)
def test_golden_values_of_the_branches(kappa: float, gamma: float, value: float, dtype: torch.dtype) -> None:
    made = golden_loss(kappa=kappa, gamma=gamma)
    assert float(made(golden_row(dtype), LATE)) == pytest.approx(value, abs=1e-5)


@pytest.mark.usefixtures("golden_likeness")
def test_the_golden_temperature_of_negative_gamma() -> None:
    found, _ = parts(golden_loss(gamma=-1.0), golden_row(torch.float32))
    assert float(found.temperature) == pytest.approx(0.143412, abs=1e-6)


def written_out(case: LossInput, config: DSLRConfig, centre: float) -> float:
    """The design's loss of a batch, row by row and entry by entry in plain numbers."""

    def cosine(x: Tensor, y: Tensor) -> float:
        return float(x @ y) / math.sqrt(float(x @ x) * float(y @ y))

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    assert case.negatives is not None
    total, t0 = 0.0, config.temperature
    for anchor, target, sampled in zip(case.anchors, case.positives, case.negatives, strict=True):
        own = case.items[target]
        entries = [case.items[j] for j in sampled if j != target]
        p, count = cosine(anchor, own), len(entries)
        s, c = [cosine(anchor, e) for e in entries], [cosine(own, e) for e in entries]
        mean = sum(s) / count
        spread = math.sqrt(sum((x - mean) ** 2 for x in s) / count)
        hardness = [sigmoid((x - mean) / (spread + 1e-6)) for x in s]
        g = [config.rho * h + (1 - config.rho) * max(x, 0.0) for h, x in zip(hardness, c, strict=True)]
        level = sum(1 + config.kappa * x for x in g) / count
        w = [(1 + config.kappa * x) / level for x in g]
        keys = [math.log(a) + (x - p) / t0 for a, x in zip(w, s, strict=True)]
        slate = sorted(range(count), key=lambda j: -keys[j])[: config.slate]
        q = sum(sigmoid((s[j] - p) / t0) for j in slate) / len(slate)
        ratio = min(max(math.exp(-config.gamma * (q - centre)), config.clip_low), config.clip_high)
        row = math.log(sum(a * math.exp((x - p) / (t0 * ratio)) for a, x in zip(w, s, strict=True)) / count)
        total += row * (ratio if config.scale_by_tau else 1.0)
    return total / len(case.anchors)


DESIGNS: list[dict[str, Any]] = [
    {"kappa": 2.0, "rho": 0.0},  # likeness alone
    {"kappa": 2.0, "rho": 0.5},
    {"kappa": 2.0, "rho": 1.0},  # hardness alone
    {"kappa": 0.0, "gamma": 2.0, "slate": 1},
    {"kappa": 0.0, "gamma": 2.0, "slate": 6},
    {"kappa": 0.0, "gamma": 2.0, "clip_low": 0.95},
    {"kappa": 0.0, "gamma": 2.0, "clip_high": 1.05},
    {"kappa": 1.0, "gamma": -1.0, "slate": 4, "scale_by_tau": True},
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("settings", DESIGNS, ids=str)
def test_the_loss_is_the_formula_written_out(settings: dict[str, Any], dtype: torch.dtype) -> None:
    case = given()
    loss = made(**{"gamma": -1.0, **settings})
    loss.centre.fill_(0.4)
    narrow = replace(case, anchors=case.anchors.to(dtype), items=case.items.to(dtype))
    wanted = written_out(case, loss.config, 0.4)
    assert float(loss(narrow, LATE)) == pytest.approx(wanted, abs=1e-5 if dtype == torch.float32 else 1e-7)


def test_every_setting_of_the_formula_tells() -> None:
    """The cases above differ from each other by more than they are compared to."""
    values = [written_out(given(), made(**{"gamma": -1.0, **one}).config, 0.4) for one in DESIGNS]
    assert min(abs(a - b) for a, b in combinations(values, 2)) > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gamma", [-1.0, 2.0])
def test_the_coldest_row_stays_finite(gamma: float, dtype: torch.dtype) -> None:
    """Differences of two at temperature 0.025, which gamma halves: logits of 160."""
    items = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    anchors = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    sampled = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 4]])
    case = LossInput(anchors, items, torch.tensor([0, 0]), sampled)
    loss = made(temperature=0.025, gamma=gamma, kappa=4.0, slate=2)
    loss.centre.fill_(0.5)
    wanted = written_out(case, loss.config, 0.5)
    leaves = [part.to(dtype).requires_grad_() for part in (anchors, items)]
    value = loss(replace(case, anchors=leaves[0], items=leaves[1]), LATE)
    assert float(value.detach()) == pytest.approx(wanted, rel=2e-2 if dtype == torch.bfloat16 else 1e-5)
    for gradient in torch.autograd.grad(value, leaves):
        assert bool(torch.isfinite(gradient).all())


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


@pytest.mark.parametrize("mended", [{}, {"negative_weight": 1.5}, {"reach_temperature": 0.7}], ids=str)
def test_the_warm_up_is_the_loss_without_strengths(mended: dict[str, float]) -> None:
    """SL less log N; a weight of the sampled side and a reach act in it as well."""
    case, first = given(), StepContext(epoch=0)
    warming = float(made(warmup=5, ramp=5, slate=3, **mended)(case, first))
    assert warming == float(made(kappa=0.0, gamma=0.0, slate=3, **mended)(case, first))
    entry = host().registries["loss"].get("sl")
    sl = float(entry.load()(entry.load_config()(temperature=0.2))(case, first))
    shift = float((case.negatives != case.positives[:, None]).sum(1).log().mean())
    assert (abs(warming - (sl - shift)) < 1e-6) == (not mended)
    text = DSLRConfig.model_fields["warmup"].description
    assert text is not None
    assert "but for the weight and the reach" in text


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


@pytest.mark.parametrize("shared", [False, True])
def test_the_competition_takes_all_threads_but_for_a_plain_product(
    shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, int]] = []

    def watched(name: str) -> None:
        real = getattr(dsl, name)

        def called(*given: Any, **more: Any) -> Any:
            seen.append((name, torch.get_num_threads()))
            return real(*given, **more)

        monkeypatch.setattr(dsl, name, called)

    watched("sampled_scores")
    watched("sampled_competition")
    case = given(dtype=torch.float32)
    if shared:
        assert case.negatives is not None
        case = replace(case, negatives=case.negatives[0])
    before, values = torch.get_num_threads(), []
    try:
        for threads in (2, 1):
            torch.set_num_threads(threads)
            with one_thread():
                values.append(made(shared=shared)(case, LATE))
                assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    product = 1 if shared else 2
    assert seen[:3] == [("sampled_scores", product), ("sampled_scores", product), ("sampled_competition", 2)]
    assert torch.equal(*values)


def test_the_ramp() -> None:
    loss = made(warmup=2, ramp=4)
    assert [loss.strength(epoch) for epoch in range(8)] == [0.0, 0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_it_is_nowhere_called_a_reproduction() -> None:
    entry = host().registries["loss"].get("dsl_r")
    assert "DSL-R" in entry.summary
    assert "not a reproduction" in entry.summary
