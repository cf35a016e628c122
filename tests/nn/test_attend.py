"""Attention of one query a sequence: the last event's, when a sequence model is asked."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from recengine.nn.attention import attend


def given(dtype: torch.dtype, sequences: int = 200) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(sequences, 1, 1, 64, generator=generator).to(dtype)
    key, value = (torch.randn(sequences, 1, 40, 64, generator=generator).to(dtype) for _ in range(2))
    mask = torch.rand(sequences, 1, 1, 40, generator=generator) > 0.2
    return query, key, value, mask


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_query_has_the_same_bits_for_any_number_of_threads(dtype: torch.dtype) -> None:
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(attend(*given(dtype)))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert found[0].dtype == dtype


def test_one_query_is_attention() -> None:
    query, key, value, mask = given(torch.float32, 7)
    wide = [t.double() for t in (query, key, value)]
    wanted = functional.scaled_dot_product_attention(*wide, attn_mask=mask)
    torch.testing.assert_close(attend(query, key, value, mask).double(), wanted, rtol=1e-5, atol=1e-6)
    whole = functional.scaled_dot_product_attention(*wide)
    torch.testing.assert_close(attend(query, key, value).double(), whole, rtol=1e-5, atol=1e-6)
