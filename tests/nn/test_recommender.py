"""The sequence recommender around an encoder."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from recengine.contracts.batch import HistoryBatch
from recengine.data.masking import Masking
from recengine.nn import recommender
from recengine.nn.ragged import layout, runs
from recengine.nn.recommender import SequenceRecommender

LENGTHS = [3, 0, 4, 1, 9, 2, 2, 0, 5]


class Counting(nn.Module):
    """The state at an event is the sum of its sequence's item vectors and times so far."""

    def __init__(self, n_items: int, dim: int) -> None:
        super().__init__()
        self.items = nn.Embedding(n_items, dim)
        self.rows: list[int] = []

    def at(self, items: Tensor, offsets: Tensor, wanted: Tensor, times: Tensor | None = None) -> Tensor:
        self.rows.append(items.shape[0])
        vectors = torch.cat([self.items.weight, torch.ones(1, self.items.embedding_dim)])  # of a hidden event
        rows = vectors[items] + (0 if times is None else times[:, None].float())
        sums = torch.zeros(len(offsets) - 1, rows.shape[1]).index_add(0, layout(offsets).sequence, rows)
        return sums[layout(offsets).sequence[wanted]]


def histories(times: bool) -> HistoryBatch:
    offsets = torch.tensor([0, *torch.tensor(LENGTHS).cumsum(0).tolist()])
    count = int(offsets[-1])
    when = torch.arange(count) if times else None
    return HistoryBatch(torch.arange(len(LENGTHS)), torch.arange(count) % 7, offsets, when)


def test_runs_of_sequences_within_a_number_of_rows() -> None:
    offsets = torch.tensor([0, 3, 3, 7, 8, 17, 19])
    assert list(runs(offsets, 7)) == [(0, 3), (3, 4), (4, 5), (5, 6)]  # one is longer than the limit
    assert list(runs(offsets, 100)) == [(0, 6)]
    assert list(runs(offsets[:1], 7)) == []


@pytest.mark.parametrize("times", [False, True])
@pytest.mark.parametrize("masking", [None, Masking()])
def test_few_events_at_a_time_give_the_vectors_of_all(
    masking: Masking | None, times: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = Counting(7, 4)
    model = SequenceRecommender(encoder, 6, masking=masking)
    asked = histories(times)
    whole = model.user_vectors(asked)
    assert len(encoder.rows) == 1
    monkeypatch.setattr(recommender, "EVENTS", 7)
    encoder.rows.clear()
    torch.testing.assert_close(model.user_vectors(asked), whole, rtol=0, atol=0)
    assert len(encoder.rows) > 2
    assert max(encoder.rows) <= 7
