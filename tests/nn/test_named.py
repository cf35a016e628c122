"""The rows of an item table that a batch names."""

from __future__ import annotations

import torch

from recengine.nn.named import named_items


def test_equal_ids_stay_equal_and_gradients_find_their_rows() -> None:
    items = torch.randn(100, 4, requires_grad=True)
    positives, negatives = torch.tensor([7, 3, 7, 99]), torch.tensor([3, 50, 50, 0, 7])
    few, mine, others = named_items(items, positives, negatives)
    assert torch.equal(few, items[[0, 3, 7, 50, 99]])
    assert torch.equal(few[mine], items[positives])
    assert torch.equal(few[others], items[negatives])
    assert torch.equal(mine[:, None] == others, positives[:, None] == negatives)
    few.sum().backward()
    assert items.grad is not None
    assert items.grad.sum(1).nonzero().flatten().tolist() == [0, 3, 7, 50, 99]


def test_as_given_where_it_would_not_pay() -> None:
    positives, negatives = torch.tensor([1, 2]), torch.tensor([3, 4])
    for items, sampled in (
        (torch.randn(7, 4), negatives),  # fewer than twice the ids
        (torch.randn(99, 4), torch.tensor([3, -1])),  # -1 is no entry
        (torch.randn(99, 4), negatives[:0]),
    ):
        few, mine, others = named_items(items, positives, sampled)
        kept = len(sampled) > 0
        assert (few is items) == kept
        assert torch.equal(few[mine], items[positives])
        assert torch.equal(others, sampled)
    nothing = torch.empty(0, dtype=torch.int64)
    assert named_items(items, nothing, nothing)[0] is items
