"""Cotten4Rec: conformance, what it says it computes, the authors' form, one event at a time."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import sequences as check
import torch
from torch.nn import functional

from recengine.contracts.model import DataFacts
from recengine.errors import ConfigError, UsageError
from recengine.testing import ModelConformance
from recengine_plugins.cotten4rec.config import AUTHORS, STREAMING, Cotten4RecConfig
from recengine_plugins.cotten4rec.model import Cotten4Rec


class TestConformance(ModelConformance):
    name = "cotten4rec"


class TestStreaming(ModelConformance):
    name = "cotten4rec"
    settings: ClassVar[dict[str, Any]] = {"model": STREAMING}


def test_what_takes_events_one_at_a_time_sees_a_window() -> None:
    model = check.make("cotten4rec", **STREAMING)
    check.check_states_at_are_those_of_all(model)
    check.check_histories(model, seen=5)  # eight events, at most six: 3 + 1 + (8 - 6 - 1) % 3


def test_both_sides_are_seen_unless_causal() -> None:
    offsets, at = torch.tensor([0, 5]), slice(0, 4)
    for direction, objective in (("bidirectional", "masked"), ("causal", "masked"), ("causal", "next")):
        model = check.make("cotten4rec", direction=direction, objective=objective)
        with torch.inference_mode():
            one = model.encoder.states(torch.tensor([1, 2, 3, 4, 5]), offsets)
            other = model.encoder.states(torch.tensor([1, 2, 3, 4, 20]), offsets)
        assert torch.equal(one[at], other[at]) == (direction == "causal")


def test_attention_begins_as_an_average_or_with_random_signs() -> None:
    def similarities(**settings: object) -> torch.Tensor:
        torch.manual_seed(0)
        model: Any = Cotten4Rec(Cotten4RecConfig.parse({"hidden_dim": 64, **settings}), DataFacts(10, 20))
        layer = model.encoder.blocks[0].attention
        rows = functional.layer_norm(torch.randn(40, 64), (64,))
        query, key, _ = layer.project_in(rows).view(40, 3, layer.heads, -1).unbind(1)
        return torch.einsum("ihd,jhd->hij", *(functional.normalize(x, dim=-1) for x in (query, key)))

    even, uneven = similarities(), similarities(even_start=0.0)
    assert even.min() > 0.3
    assert abs(even.mean() - 0.8) < 0.05  # 2^2 / (2^2 + 1)
    assert abs(uneven.mean()) < 0.05


def test_the_authors_form_is_the_notebooks_arithmetic() -> None:
    """Left-padded batches, position table of the whole length, the annotated block, causal prefix sums with
    the whole sequence's n, no projection behind the heads, an output table of its own."""
    model = check.make("cotten4rec", **AUTHORS, n_blocks=2, n_heads=2).double()
    rows, length = [[1, 2, check.ITEMS], [4, 5, 6, 7, 8]], 6
    padded = torch.full((2, length), -1)
    for index, row in enumerate(rows):
        padded[index, length - len(row) :] = torch.tensor(row)
    valid = padded >= 0
    encoder = model.encoder
    vectors = torch.cat([encoder.items.weight, encoder.given.hidden.weight])
    x = vectors[padded.clamp(min=0)] + encoder.given.positions.weight.flip(0)
    for block in encoder.blocks:
        x = x + _notebook_attention(block.attention, _norm(block.attention_norm, x), valid)
        inner = functional.gelu(block.feed_forward[0](_norm(block.feed_forward_norm, x)), approximate="tanh")
        x = x + block.feed_forward[3](inner)
    items = torch.tensor([item for row in rows for item in row])
    torch.testing.assert_close(encoder.states(items, torch.tensor([0, 3, 8])), x[valid])
    assert model.output is not None
    assert model.item_vectors() is model.output.weight


def _norm(layer: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    return layer.weight * (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-6) + layer.bias


def _notebook_attention(layer: torch.nn.Module, x: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    batch, length, dim = x.shape
    qkv = layer.project_in(x).view(batch, length, 3, layer.heads, -1).permute(2, 0, 3, 1, 4)
    q, k, v = qkv * valid[:, None, :, None]
    q, k = functional.normalize(q, dim=-1), functional.normalize(k, dim=-1)
    count = valid.sum(1)[:, None] ** torch.sigmoid(layer.m)[None, :]
    v = v / count.clamp(min=1)[:, :, None, None]
    prefix = (k[..., :, None] * v[..., None, :]).cumsum(2)
    return (q[..., None, :] @ prefix)[..., 0, :].transpose(1, 2).reshape(batch, length, dim)


@pytest.mark.parametrize("settings", [{}, {"scale": "key_prefix"}, {"positions": "none"}])
def test_one_event_at_a_time_is_the_whole_history(settings: dict[str, object]) -> None:
    model = check.make("cotten4rec", **{**STREAMING, **settings}).double()
    rows = [[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12]]
    state = model.empty_state(2)
    with torch.inference_mode():
        for step in range(6):
            taken = model.append(state, torch.tensor([row[step] for row in rows]))
            whole = model.encoder.states(
                torch.tensor([item for row in rows for item in row[: step + 1]]),
                torch.tensor([0, step + 1, 2 * step + 2]),
            )[[step, 2 * step + 1]]
            torch.testing.assert_close(taken, whole, rtol=1e-12, atol=1e-12)
        read, last = model.read(
            torch.tensor([item for row in rows for item in row]), torch.tensor([0, 6, 12])
        )
    torch.testing.assert_close(last, taken, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(read, state, rtol=1e-12, atol=1e-12)


def test_what_cannot_be_carried_along_says_so() -> None:
    for settings in ({}, {"direction": "causal"}, {**STREAMING, "scale": "sequence"}):
        with pytest.raises(UsageError, match="one event at a time"):
            check.make("cotten4rec", **settings).empty_state(1)
    model = check.make("cotten4rec", **{**STREAMING, "positions": "recent"})
    with pytest.raises(UsageError, match="change with every event"):
        model.empty_state(1)
    with pytest.raises(UsageError, match="change with every event"):
        model.read(torch.tensor([1]), torch.tensor([0, 1]))


def test_settings_that_do_not_fit_together() -> None:
    for wrong in ({"objective": "next"}, {"scale": "key_prefix"}, {"scale": "sequence"}, {"n_heads": 3}):
        with pytest.raises(ConfigError):
            Cotten4RecConfig.parse(wrong)
    assert Cotten4RecConfig.parse(AUTHORS).dropout == 0.1


def test_weight_decay_spares_the_exponent() -> None:
    from recengine.training.config import TrainerConfig
    from recengine.training.optimisation import make_optimizer

    model = check.make("cotten4rec")
    config = TrainerConfig(optimizer="adamw", weight_decay=0.1)
    decayed, spared = make_optimizer(model.parameters(), config).param_groups
    exponents = [block.attention.m for block in model.encoder.blocks]
    assert [p is m for p, m in zip(spared["params"], exponents, strict=True)] == [True, True]
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
