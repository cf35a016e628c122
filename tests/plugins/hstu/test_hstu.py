"""HSTU: conformance, and what it says it computes."""

from __future__ import annotations

import pytest
import sequences as check
import torch
from torch.nn import functional

from recengine.errors import ConfigError
from recengine.testing import ModelConformance
from recengine_plugins.hstu.config import HSTUConfig


class TestConformance(ModelConformance):
    name = "hstu"


@pytest.mark.parametrize("heads", [1, 2])
def test_states_and_histories(heads: int) -> None:
    model = check.make("hstu", n_heads=heads)
    check.check_states_at_are_those_of_all(model)
    check.check_histories(model, seen=6)


@pytest.mark.parametrize("loss", ["softmax", "sampled_softmax", "gbce"])
def test_positions_without_a_target_cost_nothing(loss: str) -> None:
    check.check_loss_is_over_targets_alone("hstu", loss)


@pytest.mark.parametrize("timed", [False, True])
def test_a_block_is_its_formula(timed: bool) -> None:
    model = check.make("hstu", n_blocks=1, n_heads=2).double()
    block, encoder = model.encoder.blocks[0], model.encoder
    items, times = torch.tensor([3, 8, 1, 5]), torch.tensor([0, 0, 7, 1000])
    x = encoder.items.weight[items] + encoder.given.positions.weight[[3, 2, 1, 0]]
    n = block.norm_in(x)
    gate, query = functional.silu(block.project_asking(n)).split(16, 1)
    value, key = functional.silu(block.project_asked(n)).split(16, 1)
    mixed = torch.zeros(4, 16, dtype=torch.float64)
    for i in range(4):
        for j in range(i + 1):
            bias = block.by_distance[i - j]
            if timed:
                bucket = int(torch.log2(1.0 + times[i] - times[j]))
                bias = bias + block.by_time[bucket]
            for head in (slice(0, 8), slice(8, 16)):
                weight = functional.silu(query[i, head] @ key[j, head] + bias) / 6
                mixed[i, head] += weight * value[j, head]
    wanted = encoder.norm(x + block.project_out(block.norm_out(mixed) * gate))
    found = encoder.states(
        torch.cat([torch.tensor([9, 9, 9, 9, 9]), items]),
        torch.tensor([0, 5, 9]),
        torch.cat([torch.arange(5), times]) if timed else None,
    )
    torch.testing.assert_close(found[5:], wanted)


def test_no_position_sees_its_future() -> None:
    model, offsets = check.make("hstu"), torch.tensor([0, 5])
    model.encoder.given.positions.weight.data.zero_()
    with torch.inference_mode():
        one = model.encoder.states(torch.tensor([1, 2, 3, 4, 5]), offsets, torch.arange(5))
        other = model.encoder.states(torch.tensor([1, 2, 3, 20, 21]), offsets, torch.arange(5))
    torch.testing.assert_close(one[:3], other[:3])


def test_times_count_where_there_are_any() -> None:
    model = check.make("hstu")
    timed, plain = check.histories([1, 2, 3], times=True), check.histories([1, 2, 3])
    with torch.inference_mode():
        assert not torch.allclose(model.user_vectors(timed), model.user_vectors(plain))
        deaf = check.make("hstu", times=False)
        assert torch.equal(deaf.user_vectors(timed), deaf.user_vectors(plain))


def test_heads_must_divide() -> None:
    with pytest.raises(ConfigError, match="does not divide"):
        HSTUConfig.parse({"n_heads": 3})
