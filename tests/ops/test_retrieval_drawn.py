"""Top-k and exact ranks on cases that hypothesis draws; left out where it is not installed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from recengine.ops import rank_of, topk
from recengine.ops._library import native
from recengine.ops.retrieval import rank_of_reference, topk_reference

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies
needs_kernels = pytest.mark.skipif(not native().cpu, reason=f"no kernels: {native().reason}")
small = st.integers(-3, 3)


@needs_kernels
@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(
    data=st.data(), B=st.integers(0, 5), N=st.integers(0, 70), d=st.integers(1, 5), k=st.integers(1, 80)
)
def test_small_integers_agree_exactly(data: Any, B: int, N: int, d: int, k: int) -> None:
    """Small whole numbers make every sum exact and ties frequent: all must agree, ids included."""

    def whole(*shape: int) -> Tensor:
        n = int(torch.Size(shape).numel())
        return torch.tensor(data.draw(st.lists(small, min_size=n, max_size=n)), dtype=torch.float32).view(
            shape
        )

    lengths = data.draw(st.lists(st.integers(0, 6 if N else 0), min_size=B, max_size=B))
    total = sum(lengths)
    seen = data.draw(st.lists(st.integers(0, max(0, N - 1)), min_size=total, max_size=total))
    given = {
        "queries": whole(B, d),
        "items": whole(N, d),
        "bias": whole(N),
        "seen_indptr": torch.nn.functional.pad(torch.tensor(lengths, dtype=torch.int64).cumsum(0), (1, 0)),
        "seen_items": torch.tensor(seen, dtype=torch.int32),
    }
    found, wanted = topk(k=k, **given), topk_reference(k=k, **given)
    assert torch.equal(found[1], wanted[1])
    assert torch.equal(found[0], wanted[0])
    if N:
        targets = torch.tensor(
            data.draw(st.lists(st.integers(0, N - 1), min_size=B, max_size=B)), dtype=torch.int64
        )
        assert torch.equal(rank_of(targets=targets, **given), rank_of_reference(targets=targets, **given))
