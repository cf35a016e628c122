"""LinRec: conformance, and what it says it computes."""

from __future__ import annotations

import pytest
import sequences as check
import torch
from torch.nn import functional

from recengine.errors import ConfigError
from recengine.testing import ModelConformance
from recengine_plugins.linrec.config import LinRecConfig

STREAMING = {"direction": "causal", "objective": "next", "positions": "first"}


class TestConformance(ModelConformance):
    name = "linrec"


def test_attention_is_the_official_one() -> None:
    """elu, then L2 over the features of each query and key; q (k^T v) / sqrt(head width); no denominator."""
    attention = check.make("linrec").double().encoder.blocks[0].attention
    rows = torch.randn(5, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    from recengine.nn.ragged import layout

    query, key, value = attention.project_in(rows).view(5, 3, 2, 8).permute(1, 2, 0, 3)
    q, k = functional.elu(query), functional.elu(key)
    q, k = q / q.norm(dim=-1, keepdim=True), k / k.norm(dim=-1, keepdim=True)
    wanted = (q @ (k.transpose(1, 2) @ value) / 8**0.5).transpose(0, 1).flatten(1)
    found = attention(rows, layout(torch.tensor([0, 5])))
    torch.testing.assert_close(found, attention.project_out(wanted))


def test_one_event_at_a_time_is_the_whole_history() -> None:
    model = check.make("linrec", **STREAMING).double()
    state, items = model.empty_state(1), [1, 2, 3, 4, 5, 6]
    with torch.inference_mode():
        for step, item in enumerate(items):
            taken = model.append(state, torch.tensor([item]))
            whole = model.encoder.states(torch.tensor(items[: step + 1]), torch.tensor([0, step + 1]))[-1:]
            torch.testing.assert_close(taken, whole, rtol=1e-12, atol=1e-12)
        read, last = model.read(torch.tensor([7, *items]), torch.tensor([0, 1, 7]))
    torch.testing.assert_close(last[1:], taken, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close({name: held[1:] for name, held in read.items()}, state, rtol=1e-12, atol=1e-12)


def test_the_next_event_needs_the_past_alone() -> None:
    with pytest.raises(ConfigError, match="causal"):
        LinRecConfig.parse({"objective": "next"})
