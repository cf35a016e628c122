"""The usual click models against their formulas, written out."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from recengine.contracts.batch import FeatureBatch, StepContext
from recengine.contracts.model import DataFacts
from recengine.data.clicks import prepare
from recengine.errors import ConfigError, UsageError
from recengine.hooks import host
from recengine.testing import planted_clicks
from recengine.training import resolve
from recengine.training.build import build_model

SPLIT = prepare(planted_clicks(300))
BATCH = FeatureBatch(**SPLIT.train.take(np.arange(20)).tensors())


def make(name: str, **settings: Any) -> Any:
    config = resolve(name, {"model": settings}, host())
    model = build_model(name, config, DataFacts(0, 0, SPLIT.extras()), 0, host()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.2)
    return model


def by_hand(vectors: Any, row: int) -> torch.Tensor:
    """[F, d]: every vector of a row looked up one by one."""
    found = []
    for fact in SPLIT.encoder.facts():
        given = BATCH.features[fact["name"]]
        if fact["kind"] == "number":
            at = vectors.numbers.index(fact["name"])
            found.append(given[row] * vectors.number_weight[at] + vectors.number_bias[at])
        elif fact["kind"] == "one":
            found.append(vectors.table[int(given[row]) + vectors.shifts[fact["name"]]])
        else:
            values, offsets = given
            rows = values[offsets[row] : offsets[row + 1]] + vectors.shifts[fact["name"]]
            found.append(vectors.table[rows].mean(0))
    return torch.stack(found)


def test_vectors_are_rows_means_and_multiples() -> None:
    model = make("fm", embedding_dim=5)
    got = model.vectors(BATCH.features)
    for row in range(20):
        torch.testing.assert_close(got[row], by_hand(model.vectors, row))
    assert model.vectors.shifts["seen"] == model.vectors.shifts["item"], "shared tables are one table"


def test_fm_is_the_sum_over_pairs() -> None:
    model = make("fm", embedding_dim=5)
    got = model(BATCH.features)
    for row in range(20):
        v = by_hand(model.vectors, row)
        pairs = sum((a * b).sum() for a, b in itertools.combinations(v, 2))
        first = by_hand(model.first.weights, row).sum()
        torch.testing.assert_close(got[row], model.bias + first + pairs, rtol=1e-4, atol=1e-5)


def test_lr_is_a_sum_of_weights() -> None:
    model = make("lr")
    got = model(BATCH.features)
    for row in range(20):
        torch.testing.assert_close(got[row], model.bias + by_hand(model.vectors, row).sum())


def test_deepfm_is_fm_and_a_tower() -> None:
    model = make("deepfm", embedding_dim=4, hidden=(7,))
    v = model.vectors(BATCH.features)
    s = v.sum(1)
    fm = 0.5 * ((s * s).sum(1) - (v * v).sum((1, 2)))
    expected = model.bias + model.first(BATCH.features) + fm + model.tower(v.flatten(1)).squeeze(1)
    torch.testing.assert_close(model(BATCH.features), expected)


@pytest.mark.parametrize("structure", ["parallel", "stacked"])
def test_cross_layers_by_hand(structure: str) -> None:
    model = make("dcnv2", embedding_dim=4, hidden=(7,), cross_layers=2, structure=structure)
    x0 = x = model.vectors(BATCH.features).flatten(1)
    for layer in model.cross:
        x = x0 * (x @ layer.weight.T + layer.bias) + x
    end = model.tower(x) if structure == "stacked" else torch.cat([x, model.tower(x0)], 1)
    expected = model.bias + (end @ model.out.weight.T + model.out.bias).squeeze(1)
    torch.testing.assert_close(model(BATCH.features), expected)


def test_dlrm_takes_every_pair_once() -> None:
    model = make("dlrm", embedding_dim=4, hidden=(7,), bottom=(3,))
    v = model.vectors(BATCH.features)[:, model.kept]
    z = model.bottom(BATCH.features["price"][:, None])
    every = torch.cat([z[:, None], v], 1)
    pairs = [(every[:, i] * every[:, j]).sum(1) for i, j in itertools.combinations(range(every.shape[1]), 2)]
    expected = model.bias + model.tower(torch.cat([z, torch.stack(pairs, 1)], 1)).squeeze(1)
    torch.testing.assert_close(model(BATCH.features), expected)


def test_attention_between_features_by_hand() -> None:
    model = make("autoint", embedding_dim=6, attention_dim=8, n_heads=2, layers=1)
    layer, x = model.layers[0], model.vectors(BATCH.features)
    q, k, v = (x @ layer.project.weight.T).chunk(3, -1)
    heads = []
    for head in range(2):
        part = slice(4 * head, 4 * head + 4)
        heads.append(((q[..., part] @ k[..., part].transpose(1, 2)) / 2).softmax(-1) @ v[..., part])
    expected = torch.relu(torch.cat(heads, -1) + x @ layer.residual.weight.T)
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


def test_a_wukong_layer_by_hand() -> None:
    model = make("wukong", embedding_dim=4, compressed=3, interacted=2, rank=5, hidden=(6,), layers=2)
    layer, x = model.layers[0], model.vectors(BATCH.features)
    crossed = x @ (x.transpose(1, 2) @ layer.columns.weight.T)
    fm = layer.tower(layer.norm(crossed.flatten(1))).view(20, 2, 4)
    linear = layer.compress.weight @ x
    expected = layer.out(torch.cat([fm, linear], 1) + layer.residual.weight @ x)
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)
    assert isinstance(model.layers[1].residual, torch.nn.Identity)


def test_the_first_prediction_is_the_click_rate() -> None:
    facts = DataFacts(0, 0, {**SPLIT.extras(), "click_rate": 0.003})
    model = build_model("lr", resolve("lr", {}, host()), facts, 0, host())
    assert model.bias.sigmoid().item() == pytest.approx(0.003)


def test_a_click_model_without_features_says_what_it_needs() -> None:
    with pytest.raises(UsageError, match="features of a click log"):
        build_model("fm", resolve("fm", {}, host()), DataFacts(10, 10), 0, host())


def test_heads_must_divide() -> None:
    with pytest.raises(ConfigError, match="does not divide"):
        make("autoint", attention_dim=6, n_heads=4)


def test_the_pull_of_the_tables_counts_every_row() -> None:
    plain, pulled = (
        make("deepfm", embedding_dim=4, hidden=()),
        make("deepfm", embedding_dim=4, hidden=(), table_l2=0.3),
    )
    tables = [pulled.vectors.table, pulled.first.weights.table]
    expected = 0.5 * 0.3 * sum(float(table.detach().square().sum()) for table in tables)
    context = StepContext(0, 0, 1, 1, {})
    losses = [one.training_loss(BATCH, context).item() for one in (pulled, plain)]
    got = losses[0] - losses[1]
    assert got == pytest.approx(expected, rel=1e-4)


def test_a_tower_normalises_batches_and_meets_a_single_row() -> None:
    model = make("dcnv2", embedding_dim=4, hidden=(6,), batch_norm=True).train()
    seen: list[torch.Tensor] = []
    norm = next(part for part in model.modules() if isinstance(part, torch.nn.BatchNorm1d))
    with torch.no_grad():
        norm.weight.fill_(1.0), norm.bias.zero_()
    norm.register_forward_hook(lambda module, given, made: seen.append(made))
    model(BATCH.features)
    torch.testing.assert_close(seen[0].mean(0), torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(seen[0].var(0, unbiased=False), torch.ones(6), atol=1e-2, rtol=0)
    single = FeatureBatch(**SPLIT.train.take(np.arange(1)).tensors())
    before = norm.running_mean.clone()
    assert torch.isfinite(model(single.features)).all()
    torch.testing.assert_close(norm.running_mean, before)


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("deepfm", "hidden"),
        ("dcnv2", "hidden"),
        ("dlrm", "hidden"),
        ("dlrm", "bottom"),
        ("wukong", "hidden"),
        ("wukong", "top"),
    ],
)
def test_every_width_of_a_tower_is_one_or_more(name: str, setting: str) -> None:
    for widths in ((-3,), (8, 0)):
        with pytest.raises(ConfigError, match=rf"model\.{setting}") as caught:
            resolve(name, {"model": {setting: widths}}, host())
        assert "greater than or equal to 1" in str(caught.value.expected)
    config = resolve(name, {"model": {setting: (8,)}}, host())
    assert getattr(config.model, setting) == (8,)
    facts = {fact.key: fact.type for fact in type(config.model).facts()}
    assert facts[setting] == "tuple[int, ...]"
