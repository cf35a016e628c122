"""The catalogue of losses against golden values, plain formulas and stated properties."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from recengine.contracts.batch import StepContext
from recengine.contracts.loss import LossInput
from recengine.contracts.model import DataFacts
from recengine.errors import ConfigError, UsageError
from recengine.hooks import host
from recengine_plugins.losses.adaptive import lambert_w

S = torch.tensor([0.72, 0.2, -0.1, 0.55, 0.9])
POSITIVE = 0.6
ROWS, ITEMS, DIM, COUNT = 6, 13, 5, 4
SAMPLED = ["sl", "ssm", "bsl", "psl", "advinfonce", "adap_tau", "ccl", "drrl", "llpauc", "simce", "sogclr"]
SAMPLED += ["sl_at_k", "sogsl_at_k", "lambdaloss", "mse", "dsl_r"]
TEMPERED = ["sl", "ssm", "bsl", "psl", "advinfonce", "sogclr", "sl_at_k", "sogsl_at_k", "dsl_r"]


def loss(name: str, rows: int = ROWS, items: int = ITEMS, **settings: Any) -> Any:
    entry = host().registries["loss"].get(name)
    made = entry.load()(entry.load_config().parse(settings))
    if hasattr(made, "prepare"):
        torch.manual_seed(0)
        made.prepare(DataFacts(rows, items))
    return made


def golden(positive: float = POSITIVE, scores: Tensor = S) -> LossInput:
    """One row whose cosines (and inner products) are the given ones: item 0 is the target."""
    count = len(scores)
    items = torch.zeros(count + 1, count + 2)
    items[0, 0], items[0, 1] = positive, math.sqrt(1 - positive**2)
    for j, score in enumerate(scores.tolist()):
        items[j + 1, 0], items[j + 1, j + 2] = score, math.sqrt(1 - score**2)
    anchor = torch.zeros(1, count + 2)
    anchor[0, 0] = 1.0
    history = torch.tensor([0, 1]), torch.tensor([0])
    negatives = torch.arange(1, count + 1)[None]
    return LossInput(
        anchor,
        items,
        torch.tensor([0]),
        negatives,
        row_ids=torch.tensor([0]),
        popularity=torch.ones(count + 1),
        user_items=history,
    )


def given(seed: int = 3, dtype: torch.dtype = torch.float64) -> LossInput:
    generator = torch.Generator().manual_seed(seed)
    return LossInput(
        torch.randn(ROWS, DIM, dtype=dtype, generator=generator),
        torch.randn(ITEMS, DIM, dtype=dtype, generator=generator),
        torch.randint(0, ITEMS, (ROWS,), generator=generator),
        torch.randint(0, ITEMS, (ROWS, COUNT), generator=generator),
        row_ids=torch.arange(ROWS),
        popularity=torch.ones(ITEMS),
        user_items=(torch.arange(ROWS + 1) * 2, torch.randint(0, ITEMS, (2 * ROWS,), generator=generator)),
    )


def cosines(case: LossInput) -> tuple[Tensor, Tensor, Tensor]:
    """Cosines with the target [R] and the sampled items [R, N], and which of those are not the target."""
    unit = torch.nn.functional.normalize
    anchors, items = unit(case.anchors, dim=1), unit(case.items, dim=1)
    every = anchors @ items.T
    assert case.negatives is not None
    positive = every.gather(1, case.positives[:, None]).squeeze(1)
    return positive, every.gather(1, case.negatives), case.negatives != case.positives[:, None]


GOLDEN = [
    ("sl", {"temperature": 0.1}, 3.179362),
    ("ssm", {"temperature": 0.1}, 3.220132),
    ("bsl", {"temperature": 0.1, "positive_temperature": 0.2}, 1.589681),
    ("psl", {"temperature": 0.05, "activation": "tanh"}, 2.989222),
    ("psl", {"temperature": 0.05, "activation": "atan"}, 2.989290),
    ("psl", {"temperature": 0.05, "activation": "relu"}, 3.005092),
    ("simce", {"margin": 0.2}, 0.5),
    ("ccl", {"margin": 0.4, "weight": 1.0}, 0.594),
]


@pytest.mark.parametrize(("name", "settings", "value"), GOLDEN)
def test_golden_values(name: str, settings: dict[str, Any], value: float) -> None:
    assert float(loss(name, 1, 6, **settings)(golden(), StepContext())) == pytest.approx(value, abs=2e-6)


def test_golden_value_of_sl_at_k() -> None:
    made = loss("sl_at_k", 1, 6, temperature=0.1, weight_temperature=2.25)
    made.thresholds.fill_(0.65)
    assert float(made(golden(), StepContext())) == pytest.approx(1.572018, abs=2e-6)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def llpauc_at_its_start(positive: float, sampled: list[float], alpha: float, beta: float) -> float:
    """a = 1, b = 0, s1 = s2 = 0.5, g = 0, both prices 0.5."""

    def softplus(y: float) -> float:
        return math.log1p(math.exp(5 * y)) / 5

    x = sigmoid(positive)
    gain = softplus(-((x - 1) ** 2) + 2 * x - 0.5) / alpha
    cost = sum(softplus(y**2 + 2 * y - 0.5) for y in map(sigmoid, sampled)) / len(sampled) / beta
    return -0.5 - gain + 0.5 + cost + 0.5 + 0.5


def test_values_of_the_losses_without_a_golden_one() -> None:
    """The catalogue's formulas, written out for the golden row."""
    sampled = S.tolist()
    excess = [0.1 + max(0.0, s) for s in sampled]
    mse = (sigmoid(POSITIVE) - 1) ** 2 + sum(sigmoid(s) ** 2 for s in sampled) / 5
    bce = -math.log(sigmoid(POSITIVE)) - sum(math.log(1 - sigmoid(s)) for s in sampled) / 5
    wanted: list[tuple[str, dict[str, Any], float]] = [
        ("mse", {}, mse),
        ("bce", {}, bce),
        ("drrl", {"order": 2.0}, 0.4 + math.sqrt(sum(e * e for e in excess) / 5)),
        ("drrl", {"order": 3.0}, 0.4 + (sum(e**1.5 for e in excess) / 5) ** (2 / 3)),
        ("llpauc", {"alpha": 0.7, "beta": 0.1}, llpauc_at_its_start(POSITIVE, sampled, 0.7, 0.1)),
        # the moving average is its own first value, and one row's weight is one over its mean
        ("sogclr", {"temperature": 0.1}, 1 - POSITIVE / 0.1),
        ("sogsl_at_k", {"temperature": 0.1}, 1 - POSITIVE / 0.1),
        ("bsl", {"form": "grouped", "temperature": 0.1, "negative_weight": 1.1},
         1.1 * (1.569924 + POSITIVE / 0.1) - POSITIVE / 0.1),
        ("softmax", {"score": "cosine", "temperature": 0.1}, 3.220132),
    ]  # fmt: skip
    for name, settings, value in wanted:
        found = float(loss(name, 1, 6, **settings)(golden(), StepContext()).detach())
        assert found == pytest.approx(value, rel=2e-6), name


def test_an_adversary_that_prefers_nothing_only_weighs() -> None:
    made = loss("advinfonce", 1, 6, temperature=0.1, negative_weight=64.0)
    made.adversary_items.zero_()
    wanted = math.log1p(64 * math.exp(3.179362))
    assert float(made(golden(), StepContext())) == pytest.approx(wanted, abs=2e-6)


def test_golden_value_of_bpr() -> None:
    first = replace(golden(), negatives=torch.tensor([[1]]))
    assert float(loss("bpr", 1, 6)(first, StepContext())) == pytest.approx(0.754946, abs=1e-6)


FORMULAS: dict[str, tuple[dict[str, Any], Any]] = {
    "sl": ({"temperature": 0.2}, lambda p, s: torch.logsumexp((s - p) / 0.2, 0)),
    "ssm": ({"temperature": 0.2}, lambda p, s: torch.log1p(torch.exp((s - p) / 0.2).sum())),
    "bsl": (
        {"temperature": 0.2, "positive_temperature": 0.3},
        lambda p, s: 0.2 / 0.3 * torch.logsumexp(s / 0.2, 0) - p / 0.3,
    ),
    "psl": (
        {"temperature": 0.1, "activation": "atan"},
        lambda p, s: torch.logsumexp(torch.log1p(torch.atan((s - p) / 2)) / 0.1, 0),
    ),
    "ccl": (
        {"margin": 0.1, "weight": 3.0},
        lambda p, s: 1 - p + 3 * torch.relu(s - 0.1).mean(),
    ),
}


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_value_and_gradients_against_the_formula(name: str, dtype: torch.dtype) -> None:
    settings, formula = FORMULAS[name]
    case = given()
    wide = [case.anchors.requires_grad_(), case.items.requires_grad_()]
    positive, sampled, live = cosines(case)
    wanted = torch.stack([formula(p, s[k]) for p, s, k in zip(positive, sampled, live, strict=True)]).mean()
    narrow = [part.detach().to(dtype).requires_grad_() for part in wide]
    found = loss(name, **settings)(replace(case, anchors=narrow[0], items=narrow[1]), StepContext())
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(found.double(), wanted, **tolerance)
    expected = torch.autograd.grad(wanted, wide)
    for ours, theirs in zip(torch.autograd.grad(found, narrow), expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs, **tolerance)


def test_bilateral_softmax_with_equal_temperatures_is_sl() -> None:
    case = given()
    both = loss("bsl", temperature=0.1, positive_temperature=0.1)(case, StepContext())
    torch.testing.assert_close(both, loss("sl", temperature=0.1)(case, StepContext()))


def test_the_grouped_form_pools_the_rows_of_a_user() -> None:
    case = replace(given(), row_ids=torch.tensor([0, 0, 1, 2, 2, 2]))
    positive, sampled, live = cosines(case)
    pooled = []
    for user in (0, 1, 2):
        mine = positive[case.row_ids == user] / 0.2
        pooled += [torch.logsumexp(mine, 0) - math.log(len(mine))] * len(mine)
    negative = [
        torch.logsumexp(s[k] / 0.2, 0) - math.log(int(k.sum())) for s, k in zip(sampled, live, strict=True)
    ]
    wanted = (1.2 * torch.stack(negative) - torch.stack(pooled)).mean()
    made = loss("bsl", form="grouped", temperature=0.2, negative_weight=1.2)
    torch.testing.assert_close(made(case, StepContext()), wanted)


def test_log_q_undoes_the_sampling() -> None:
    """Draws from any q estimate the same sum over the catalogue."""
    generator = torch.Generator().manual_seed(0)
    case = given()
    q = torch.softmax(torch.randn(ITEMS, generator=generator), 0)
    drawn = torch.multinomial(q, 60_000, replacement=True, generator=generator).view(ROWS, -1)
    uniform = torch.randint(0, ITEMS, drawn.shape, generator=generator)
    log_q = q.log()[drawn].double()
    weighed = loss("ssm", temperature=0.5)(replace(case, negatives=drawn, log_q=log_q), StepContext())
    flat = torch.full(uniform.shape, -math.log(ITEMS), dtype=torch.float64)
    plain = loss("ssm", temperature=0.5)(replace(case, negatives=uniform, log_q=flat), StepContext())
    assert abs(float(weighed - plain)) < 0.02


def test_sogclr_ends_with_the_gradient_of_the_softmax() -> None:
    """Where the average has settled, the gradient is that of -s/t + log E exp(s_j / t)."""
    case = given()
    anchors = case.anchors.requires_grad_()
    made = loss("sogclr", temperature=0.5)
    for _ in range(3):  # the same sample again and again: g is its mean
        value = made(case, StepContext())
    found = torch.autograd.grad(value, anchors)[0]
    wanted = torch.autograd.grad(loss("sl", temperature=0.5)(case, StepContext()), anchors)[0]
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["sogclr", "sogsl_at_k"])
def test_a_row_without_a_negative_says_nothing_of_its_users_average(name: str) -> None:
    """Of user 0 both rows have no entry, of user 1 one of two."""
    case = given()
    negatives, users = case.negatives.clone(), torch.tensor([0, 0, 1, 1, 2, 3])
    assert case.user_items is not None
    for row in (0, 1, 2):
        negatives[row] = case.positives[row]
    made = loss(name, temperature=0.01)
    value = made(replace(case, negatives=negatives, row_ids=users), StepContext())
    assert math.isfinite(float(value.detach()))
    _, sampled, live = cosines(case)
    for row, user in ((3, 1), (4, 2), (5, 3)):
        kept = sampled[row][live[row]] / 0.01
        wanted = float(torch.logsumexp(kept, 0)) - math.log(len(kept))
        assert float(made.log_g[user]) == pytest.approx(wanted, rel=1e-5)
    assert float(made.log_g[0]) == -math.inf
    before = made.log_g.clone()
    nobody = torch.full_like(negatives, -1).copy_(case.positives[:, None].expand_as(negatives))
    made(replace(case, negatives=nobody, row_ids=users), StepContext())
    assert torch.equal(made.log_g, before)


def test_coupled_psl_is_the_mean_over_the_entries_that_count() -> None:
    case = given()
    negatives = case.negatives.clone()
    negatives[1, :3] = case.positives[1]
    case = replace(case, negatives=negatives)
    positive, sampled, live = cosines(case)
    assert not bool(live.all())
    entries = ((1 + (sampled - positive[:, None]) / 2).log() / 0.05).exp()[live]
    found = loss("psl", coupled=True, temperature=0.05, activation="relu")(case, StepContext())
    torch.testing.assert_close(found, entries.mean().log())
    own = replace(case, negatives=case.positives[:, None].expand(ROWS, COUNT))
    assert float(loss("psl", coupled=True)(own, StepContext())) == 0.0


def test_the_adversary_climbs_and_then_rests() -> None:
    case = given()
    made = loss("advinfonce", temperature=0.2, adversary_rate=0.05, every=1, adversary_epochs=10)
    before = float(made(case, StepContext(epoch=20)))
    for _ in range(5):
        made(case, StepContext(epoch=0))
    raised = float(made(case, StepContext(epoch=20)))
    assert raised > before
    held = made.adversary_items.clone()
    made(case, StepContext(epoch=20))
    assert torch.equal(held, made.adversary_items)


def test_the_threshold_is_the_kth_largest_of_own_and_sampled_items() -> None:
    case = given()
    made = loss("sl_at_k", k=3, refresh=1, temperature=0.2)
    made(case, StepContext(epoch=0))
    positive, sampled, _ = cosines(case)
    unit = torch.nn.functional.normalize
    every = unit(case.anchors, dim=1) @ unit(case.items, dim=1).T
    for row in range(ROWS):
        own = case.user_items[1][2 * row : 2 * row + 2]
        wanted = torch.cat([every[row, own], sampled[row]]).sort(descending=True).values[2]
        assert float(made.thresholds[row]) == pytest.approx(float(wanted), abs=1e-6)
    assert positive.shape == (ROWS,)


def test_adaptive_temperatures_soften_for_badly_fitted_users() -> None:
    case = given()
    made = loss("adap_tau", beta=1.0, lowest=1e-3, highest=10.0)
    made(case, StepContext(epoch=0))
    losses = made.sums.clone()
    made(case, StepContext(epoch=1))
    order = losses.argsort()
    assert bool((made.factors[order].diff() >= 0).all())
    assert made.factors.max() > 1 > made.factors.min()


def test_the_common_temperature_is_read_from_the_training_counts() -> None:
    """1 / t_0 = (log 1/2 + log(U I) - log E) / (mean cosine of pairs - mean cosine of everything)."""
    case = replace(golden(0.9, torch.tensor([0.1, 0.0, -0.2])), popularity=torch.tensor([3.0, 1, 1, 0]))
    made = loss("adap_tau", 10, 4, lowest=1e-3, highest=10.0)
    made(case, StepContext(epoch=0))
    apart = 0.9 - (0.9 + 0.1 + 0.0 - 0.2) / 4
    assert float(made.common[0]) == pytest.approx(apart / math.log(0.5 * 10 * 4 / 5), rel=1e-5)
    with pytest.raises(UsageError, match="popularity"):
        made(replace(case, popularity=None), StepContext(epoch=1))


def test_bounds_of_the_temperature_out_of_order_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"lowest 0\.5 is above highest 0\.1"):
        loss("adap_tau", lowest=0.5, highest=0.1)
    assert loss("adap_tau", lowest=0.2, highest=0.2).lowest == 0.2


def test_lambert_w_inverts() -> None:
    w = torch.linspace(-0.999, 4, 50, dtype=torch.float64)
    torch.testing.assert_close(lambert_w(w * w.exp()), w, rtol=1e-6, atol=1e-6)


def test_lambda_pairs_weigh_what_an_exchange_is_worth() -> None:
    case = given()
    scores = case.anchors @ case.items.T
    ranks = scores.argsort(1, descending=True).argsort(1) + 1
    discount = torch.where(ranks <= 5, 1 / torch.log2(1 + ranks.double()), 0.0)
    total = []
    for row in range(ROWS):
        p = int(case.positives[row])
        kept = [int(j) for j in case.negatives[row] if int(j) != p]
        pairs = [
            (discount[row, p] - discount[row, j]).abs()
            * torch.nn.functional.softplus(scores[row, j] - scores[row, p])
            for j in kept
        ]
        total.append(torch.stack(pairs).mean())
    torch.testing.assert_close(loss("lambdaloss", k=5)(case, StepContext()), torch.stack(total).mean())


def test_alignment_and_uniformity() -> None:
    case = replace(
        given(), row_ids=torch.tensor([0, 1, 1, 2, 3, 4]), positives=torch.tensor([0, 1, 2, 2, 3, 4])
    )
    unit = torch.nn.functional.normalize
    x, y = unit(case.anchors, dim=1), unit(case.items, dim=1)[case.positives]

    def spread(vectors: Tensor) -> Tensor:
        return torch.pdist(vectors).square().mul(-2).exp().mean().log()

    users, items = x[[0, 1, 3, 4, 5]], y[[0, 1, 2, 4, 5]]  # the first row of each
    wanted = (x - y).square().sum(1).mean() + 0.5 * 0.7 * (spread(users) + spread(items))
    torch.testing.assert_close(loss("directau", uniformity=0.7)(case, StepContext()), wanted)


@pytest.mark.parametrize("name", SAMPLED)
def test_permuting_and_repeating_negatives_changes_nothing(name: str) -> None:
    case = given()
    one = float(loss(name)(case, StepContext()).detach())
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(1))
    other = loss(name)(replace(case, negatives=case.negatives[:, order]), StepContext()).detach()
    assert float(other) == pytest.approx(one, rel=1e-7)
    twice = loss(name)(replace(case, negatives=case.negatives.repeat(1, 2)), StepContext())
    assert math.isfinite(float(twice.detach()))


@pytest.mark.parametrize("name", SAMPLED)
def test_items_shared_by_the_batch_are_those_items_for_every_row(name: str) -> None:
    found = []
    for shared in (True, False):
        case = given()
        anchors, items = case.anchors.requires_grad_(), case.items.requires_grad_()
        sampled = case.negatives[0] if shared else case.negatives[:1].expand(ROWS, -1)
        case = replace(case, anchors=anchors, items=items, negatives=sampled)
        torch.manual_seed(1)
        value = loss(name)(case, StepContext(epoch=20))
        found.append((value.detach(), *torch.autograd.grad(value, (anchors, items))))
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("name", ["sl", "ssm", "bsl", "psl", "sl_at_k", "dsl_r", "sogclr", "adap_tau"])
def test_the_coldest_temperature_stays_finite(name: str) -> None:
    """Differences up to 2 at temperature 0.01: logits of 200."""
    settings = {} if name == "adap_tau" else {"temperature": 0.01}
    case = golden(-0.999, torch.tensor([0.999, 0.999, -0.999]))
    anchors, items = case.anchors.requires_grad_(), case.items.requires_grad_()
    value = loss(name, 1, 4, **settings)(replace(case, anchors=anchors, items=items), StepContext())
    assert math.isfinite(float(value.detach()))
    for part in torch.autograd.grad(value, (anchors, items)):
        assert torch.isfinite(part).all()


@pytest.mark.parametrize("name", SAMPLED)
def test_a_row_whose_negatives_are_all_its_own_item_adds_nothing(name: str) -> None:
    case = given()
    own = case.negatives.clone()
    own[2] = case.positives[2]
    value = loss(name)(replace(case, negatives=own), StepContext())
    assert math.isfinite(float(value.detach()))


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        *((name, "temperature") for name in [*TEMPERED, "softmax", "sampled_softmax"]),
        ("bsl", "positive_temperature"),
        ("adap_tau", "lowest"),
        ("sl_at_k", "weight_temperature"),
        ("dsl_r", "reach_temperature"),
    ],
)
@pytest.mark.parametrize("value", [1e-320, 1e-39, 1e-7])
def test_a_temperature_by_which_scores_overflow_is_refused_by_name(
    name: str, setting: str, value: float
) -> None:
    with pytest.raises(ConfigError, match=rf"{setting}[\s\S]*(0.000001|1e-06)"):
        loss(name, **{setting: value})


@pytest.mark.parametrize("name", TEMPERED)
def test_the_least_temperature_is_finite(name: str) -> None:
    case = golden(-0.999, torch.tensor([0.999, 0.999, -0.999]))
    anchors, items = case.anchors.requires_grad_(), case.items.requires_grad_()
    case = replace(case, anchors=anchors, items=items)
    value = loss(name, 1, 4, temperature=1e-6)(case, StepContext())
    assert math.isfinite(float(value.detach()))
    for part in torch.autograd.grad(value, (anchors, items)):
        assert torch.isfinite(part).all()


@pytest.mark.parametrize("name", TEMPERED)
@pytest.mark.parametrize("value", [0.0, -0.1])
def test_a_temperature_that_is_not_positive_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match="temperature"):
        loss(name, temperature=value)


@pytest.mark.parametrize("name", [*SAMPLED, "softmax", "directau"])
@pytest.mark.parametrize("where", ["anchors", "items"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_vectors_that_are_not_finite_are_named(name: str, where: str, value: float) -> None:
    case = given()
    wrong = getattr(case, where).clone()
    wrong[1, 2] = value
    with pytest.raises(UsageError, match=rf"{where} given to the loss are not finite[\s\S]*learning_rate"):
        loss(name)(replace(case, **{where: wrong}), StepContext())


@pytest.mark.parametrize("name", ["drrl", "advinfonce", "adap_tau", "sogclr", "sl_at_k"])
def test_what_a_model_does_not_supply_is_named(name: str) -> None:
    with pytest.raises(UsageError, match="row_ids"):
        loss(name)(replace(given(), row_ids=None), StepContext())
    entry = host().registries["loss"].get(name)
    with pytest.raises(UsageError, match="how many users"):
        entry.load()(entry.load_config()())(given(), StepContext())


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("name", ["lambdaloss", "llpauc", "mse", "simce"])
def test_inner_products_have_the_biases_of_the_items(name: str, shared: bool) -> None:
    case, generator = given(), torch.Generator().manual_seed(5)
    anchors = torch.randn(ROWS, 8, dtype=torch.float64, generator=generator)
    items = torch.randn(ITEMS, 8, dtype=torch.float64, generator=generator)
    bias = torch.randn(ITEMS, dtype=torch.float64, generator=generator).requires_grad_()
    negatives = case.negatives if not shared else torch.arange(1, ITEMS, 2)
    case = replace(case, anchors=anchors, items=items, negatives=negatives)
    # vectors whose inner products with these anchors are <a_r, e_i> + b_i
    direction = torch.linalg.pinv(anchors) @ torch.ones(ROWS, dtype=torch.float64)
    moved = items + bias[:, None] * direction
    wanted = loss(name)(replace(case, items=moved), StepContext())
    found = loss(name)(replace(case, bias=bias), StepContext())
    torch.testing.assert_close(found, wanted)
    (expected,) = torch.autograd.grad(wanted, bias, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(found, bias)[0], expected)
    assert float(expected.abs().sum()) > 0.0
    assert not torch.isclose(found, loss(name)(case, StepContext()), atol=1e-6)


def test_only_the_hardest_count() -> None:
    case = given()
    _, sampled, live = cosines(case)
    best = sampled.masked_fill(~live, -torch.inf).topk(2, dim=1).indices
    wanted = loss("sl")(replace(case, negatives=case.negatives.gather(1, best)), StepContext())
    torch.testing.assert_close(loss("sl", hardest=2)(case, StepContext()), wanted)


@pytest.mark.parametrize("settings", [{"shared": True}, {"sampler": "in_batch"}, {"negatives": 3}])
def test_the_hardest_must_be_the_rows_own(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="hardest"):
        loss("sl", **{"negatives": 8, "hardest": 4, **settings})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SAMPLED)
def test_shared_items_can_be_rejected_like_the_rows_own(name: str, dtype: torch.dtype) -> None:
    """A rejected item counts as little as the row's own target among its sampled items does."""
    case = given(dtype=dtype)
    assert case.user_items is not None
    shared = torch.tensor([0, 3, 5, 3, 8, 12])
    indptr, history = case.user_items
    met = torch.stack([torch.isin(shared, history[a:b]) for a, b in pairwise(indptr)])
    assert met.any()
    own = torch.where(met, case.positives[:, None], shared)
    results = []
    for negatives, settings in ((shared, {"shared": True, "reject": True}), (own, {})):
        anchors, items = case.anchors.clone().requires_grad_(), case.items.clone().requires_grad_()
        made = loss(name, **settings)
        value = made(replace(case, anchors=anchors, items=items, negatives=negatives), StepContext(epoch=50))
        results.append((value, *torch.autograd.grad(value, (anchors, items), allow_unused=True)))
    for found, wanted in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("name", ["sl", "dsl_r"])
def test_rejection_needs_shared_items_and_histories(name: str) -> None:
    with pytest.raises(ConfigError, match="reject"):
        loss(name, reject=True)
    made = loss(name, shared=True, reject=True)
    assert {"row_ids", "user_items"} <= made.needs
    case = replace(given(), negatives=torch.tensor([0, 3]), user_items=None)
    with pytest.raises(UsageError, match="reject"):
        made(case, StepContext())


def test_the_adversary_gives_no_share_to_what_is_rejected() -> None:
    """Of two sampled items one is rejected: the other has the adversary's whole weight, K times one."""
    case = replace(given(), negatives=torch.tensor([0, 3]))
    case = replace(case, user_items=(torch.arange(ROWS + 1), torch.full((ROWS,), 3)))
    _, sampled, live = cosines(replace(case, negatives=torch.tensor([[0]]).expand(ROWS, 1)))
    positive = cosines(replace(case, negatives=torch.tensor([[0]]).expand(ROWS, 1)))[0] / 0.1
    entry = (sampled[:, 0] / 0.1 + math.log(64.0)).masked_fill(~live[:, 0], -torch.inf)
    wanted = (torch.logaddexp(positive, entry) - positive).mean()
    made = loss("advinfonce", shared=True, reject=True, adversary_epochs=1, every=1)
    torch.testing.assert_close(made(case, StepContext()), wanted)
    assert bool(torch.isfinite(made.adversary_items).all())


def test_the_adversary_gives_no_share_to_the_rows_own_target() -> None:
    """delta is a softmax over what counts, times the number of it."""
    case = given()
    negatives = case.negatives.clone()
    negatives[:, :2] = case.positives[:, None]
    case = replace(case, negatives=negatives)
    positive, sampled, live = cosines(case)
    made = loss("advinfonce", temperature=0.2, adversary_rate=0.05, every=1, adversary_epochs=10)
    preferred = (made.adversary_users @ made.adversary_items.T).double().gather(1, negatives)
    rows = [
        torch.log1p(64 * len(s[k]) * (torch.softmax(a[k], 0) * torch.exp((s[k] - p) / 0.2)).sum())
        for p, s, a, k in zip(positive, sampled, preferred, live, strict=True)
    ]
    torch.testing.assert_close(made(case, StepContext(epoch=20)), torch.stack(rows).mean())
    own = replace(case, negatives=case.positives[:, None].expand(ROWS, COUNT))
    tables = made.adversary_users.clone(), made.adversary_items.clone()
    made(own, StepContext(epoch=0))  # nothing to climb on
    assert torch.equal(tables[0], made.adversary_users)
    assert torch.equal(tables[1], made.adversary_items)
