"""Ragged histories: sets, and which items are in them."""

from __future__ import annotations

import pytest
import torch

from recengine.ops.histories import distinct_rows, in_histories


def test_rows_become_sets_with_counts() -> None:
    items, offsets = torch.tensor([4, 1, 4, 2, 2]), torch.tensor([0, 3, 3, 5])
    found, bounds, counts = distinct_rows(items, offsets)
    assert found.tolist() == [1, 4, 2]
    assert bounds.tolist() == [0, 2, 2, 3]
    assert counts.tolist() == [1.0, 2.0, 2.0]


@pytest.mark.parametrize("seed", range(5))
def test_items_are_found_in_the_histories_that_have_them(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    n_users, n_items = 12, 20
    lengths = torch.randint(0, 9, (n_users,), generator=generator)
    indptr = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    items = torch.randint(0, n_items, (int(lengths.sum()),), generator=generator)
    users = torch.randint(0, n_users, (15,), generator=generator)
    candidates = torch.randint(-1, n_items, (30,), generator=generator)  # with repeats, and none
    found = in_histories(users, (indptr, items), candidates, n_items)
    wanted = [
        [candidate >= 0 and candidate in items[indptr[user] : indptr[user + 1]] for candidate in candidates]
        for user in users
    ]
    assert found.tolist() == wanted


def test_nobody_has_met_anything() -> None:
    nothing = torch.zeros(4, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    assert not in_histories(torch.tensor([0, 2]), nothing, torch.tensor([1, 1, 0]), 3).any()


def test_no_candidate_does_not_hide_the_first_item() -> None:
    histories = torch.tensor([0, 2]), torch.tensor([0, 3])
    candidates = torch.tensor([-1, 0, 3, -1, 2])
    met = in_histories(torch.tensor([0]), histories, candidates, n_items=5)
    assert met.tolist() == [[False, True, True, False, False]]
