"""Negatives: the same bits at any number of threads, by the stated distribution, never what a user met."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from recengine.data.sampling import AliasTable
from recengine.errors import UsageError
from recengine.ops import draw_negatives, hardest
from recengine.ops._library import native
from recengine.ops.sampling import draw_negatives_reference

kernel = pytest.mark.skipif(not native().cpu, reason="no native kernels here")


def met(users: int, items: int, most: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, most + 1, users)
    rows = [np.sort(rng.permutation(items)[:n]) for n in counts]
    indptr = np.concatenate([[0], np.cumsum(counts)])
    return torch.from_numpy(indptr), torch.from_numpy(np.concatenate(rows).astype(np.int32))


@kernel
@pytest.mark.parametrize("items", [1, 63, 64, 65, 200])
@pytest.mark.parametrize("popular", [False, True])
def test_kernel_and_reference_give_the_same_bits(items: int, popular: bool) -> None:
    seen = met(30, items, items - 1)
    table = AliasTable(np.random.default_rng(1).random(items) ** 4 + 1e-9).tensors() if popular else None
    users = torch.randint(-1, 30, (17,), generator=torch.Generator().manual_seed(2))
    for seed in (0, 1, -5, 2**63 - 1):
        found = draw_negatives(users, 40, items, seed=seed, met=seen, alias=table)
        wanted = draw_negatives_reference(users, 40, items, *(table or (None, None)), *seen, seed)
        assert torch.equal(found, wanted)


def skewed(items: int, seed: int = 0) -> tuple[Tensor, Tensor, np.ndarray]:
    """An alias table in which the first item has nearly everything, every third nothing; its shares."""
    weights = np.random.default_rng(seed).random(items) + 0.1
    weights[0] = 1e4 * items
    weights[2::3] = 0.0
    return (*AliasTable(weights).tensors(), weights / weights.sum())


@kernel
@pytest.mark.parametrize("items", [4, 64, 65, 300])
def test_kernel_and_reference_fall_back_to_the_same_bits(items: int) -> None:
    keep, alias, _ = skewed(items)
    seen = torch.tensor([0, 1, 2]), torch.tensor([0, 0], dtype=torch.int32)
    users = torch.tensor([0, -1, 1, 0])
    for seed in range(5):
        found = draw_negatives(users, 30, items, seed=seed, met=seen, alias=(keep, alias))
        wanted = draw_negatives_reference(users, 30, items, keep, alias, *seen, seed)
        assert torch.equal(found, wanted)


def test_after_many_rejections_draws_keep_their_shares_and_nothing_without_one_is_drawn() -> None:
    keep, alias, share = skewed(10)
    seen = torch.tensor([0, 2]), torch.tensor([0, 4], dtype=torch.int32)
    drawn = draw_negatives(
        torch.zeros(1, dtype=torch.int64), 100_000, 10, seed=3, met=seen, alias=(keep, alias)
    )
    share[[0, 4]] = 0.0
    found = torch.bincount(drawn[0], minlength=10).double() / 100_000
    np.testing.assert_allclose(found.numpy(), share / share.sum(), atol=0.006)
    assert not bool(found[share == 0].any())


@pytest.mark.parametrize("native_kernel", [pytest.param(True, marks=kernel), False])
def test_a_user_who_met_all_that_has_a_share_is_named(native_kernel: bool) -> None:
    keep, alias = AliasTable(np.array([3.0, 1.0, 0.0])).tensors()
    seen = torch.tensor([0, 1, 3]), torch.tensor([0, 0, 1], dtype=torch.int32)
    draw = draw_negatives if native_kernel else draw_by_reference
    assert set(draw(torch.tensor([0]), 9, 3, seed=0, met=seen, alias=(keep, alias))[0].tolist()) == {1}
    with pytest.raises(RuntimeError, match="user 1 met every item to which the alias table gives a share"):
        draw(torch.tensor([0, 1]), 9, 3, seed=0, met=seen, alias=(keep, alias))


def draw_by_reference(
    users: Tensor,
    count: int,
    items: int,
    *,
    seed: int,
    met: tuple[Tensor, Tensor],
    alias: tuple[Tensor, Tensor],
) -> Tensor:
    return draw_negatives_reference(users, count, items, *alias, *met, seed)


@kernel
def test_bits_do_not_depend_on_threads() -> None:
    seen = met(500, 1000, 50)
    users = torch.arange(500)
    before = torch.get_num_threads()
    drawn = []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            drawn.append(draw_negatives(users, 200, 1000, seed=9, met=seen))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])


def test_nothing_that_was_met_is_drawn_and_the_rest_evenly() -> None:
    seen = met(20, 50, 49, seed=4)
    users = torch.arange(20)
    drawn = draw_negatives(users, 20_000, 50, seed=3, met=seen)
    for user in range(20):
        own = seen[1][seen[0][user] : seen[0][user + 1]].long()
        counts = torch.bincount(drawn[user], minlength=50)
        assert int(counts[own].sum()) == 0
        share = counts[counts > 0].double() / 20_000
        wanted = 1 / (50 - len(own))
        assert float((share - wanted).abs().max()) < 6 * (wanted / 20_000) ** 0.5 + 1e-12


def test_an_alias_table_draws_by_its_weights() -> None:
    weights = np.array([0.0, 1.0, 2.0, 5.0, 0.0, 12.0])
    users = torch.full((1,), -1)
    drawn = draw_negatives(users, 100_000, 6, seed=1, alias=AliasTable(weights).tensors())
    share = torch.bincount(drawn[0], minlength=6).double() / 100_000
    np.testing.assert_allclose(share.numpy(), weights / weights.sum(), atol=0.006)


def test_seeds_rows_and_slots_are_all_different() -> None:
    users = torch.zeros(8, dtype=torch.int64) - 1
    one = draw_negatives(users, 64, 2**30, seed=1)
    other = draw_negatives(users, 64, 2**30, seed=2)
    assert torch.unique(torch.cat([one, other])).numel() == 2 * 8 * 64


def test_a_user_who_met_everything_is_named() -> None:
    seen = torch.tensor([0, 0, 3]), torch.arange(3, dtype=torch.int32)
    draw_negatives(torch.tensor([0]), 2, 3, seed=0, met=seen)
    with pytest.raises(UsageError, match=r"met every item[\s\S]*user row 1[\s\S]*loss.shared"):
        draw_negatives(torch.tensor([0, 1]), 2, 3, seed=0, met=seen)


@kernel
def test_wrong_arguments_are_named() -> None:
    with pytest.raises(RuntimeError, match=r"items is 0"):
        draw_negatives(torch.tensor([-1]), 2, 0, seed=0)
    with pytest.raises(RuntimeError, match=r"count is -1"):
        draw_negatives(torch.tensor([-1]), -1, 5, seed=0)
    with pytest.raises(RuntimeError, match=r"users\[0\] is -2"):
        draw_negatives(torch.tensor([-2]), 2, 5, seed=0)
    with pytest.raises(RuntimeError, match=r"alias\[1\] is 9"):
        draw_negatives(torch.tensor([-1]), 2, 2, seed=0, alias=(torch.ones(2), torch.tensor([0, 9])))


def test_empty() -> None:
    assert draw_negatives(torch.zeros(0, dtype=torch.int64), 3, 5, seed=0).shape == (0, 3)
    assert draw_negatives(torch.tensor([-1]), 0, 5, seed=0).shape == (1, 0)


def test_hardest_are_the_best_scored() -> None:
    generator = torch.Generator().manual_seed(0)
    anchors, table = torch.randn(5, 8, generator=generator), torch.randn(40, 8, generator=generator)
    candidates = torch.stack([torch.randperm(40, generator=generator)[:12] for _ in range(5)])
    candidates[0, :3] = -1
    found = hardest(anchors, table, candidates, 4)
    scores = (anchors @ table.T).gather(1, candidates.clamp(min=0)).masked_fill(candidates < 0, -torch.inf)
    assert torch.equal(found, candidates.gather(1, scores.argsort(1, descending=True)[:, :4]))
    with pytest.raises(UsageError, match="1 to 12"):
        hardest(anchors, table, candidates, 13)


def test_ids_do_not_wrap_and_are_named() -> None:
    indptr, items = torch.tensor([0, 2, 3]), torch.tensor([1, 2**32 + 3, 0])
    with pytest.raises(RuntimeError, match=r"met\[1\] is 4294967299, expected 0 to 5"):
        draw_negatives(torch.tensor([0, 1]), 5, 6, seed=7, met=(indptr, items))
    with pytest.raises(RuntimeError, match=r"users\[1\] is 2, expected -1 to 1"):
        draw_negatives(torch.tensor([0, 2]), 5, 6, seed=7, met=(indptr, items % 6))
    alias = (torch.ones(6), torch.tensor([0, 1, 2**32, 3, 4, 5]))
    with pytest.raises(RuntimeError, match=r"alias\[2\] is 4294967296"):
        draw_negatives(torch.tensor([0]), 5, 6, seed=7, alias=alias)


@kernel
@pytest.mark.parametrize("kind", [torch.int32, torch.int64])
def test_rejecting_draws_compile(kind: torch.dtype) -> None:
    indptr, items = torch.tensor([0, 2, 3]), torch.tensor([1, 4, 0], dtype=kind)

    def draw(users: Tensor) -> Tensor:
        return draw_negatives(users, 5, 6, seed=7, met=(indptr, items))

    compiled = torch.compile(draw, fullgraph=True, backend="aot_eager")
    for users in (torch.tensor([0, 1, 0]), torch.tensor([1, -1])):
        assert torch.equal(compiled(users), draw(users))
