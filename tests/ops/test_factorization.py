from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from recengine.errors import UsageError
from recengine.ops import factorization as ops
from recengine.ops._library import native

needs_kernel = pytest.mark.skipif(not native().cpu, reason="no native library")


def sparse(rows: int, columns: int, density: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    held = torch.rand(rows, columns, generator=generator) < density
    indptr = torch.nn.functional.pad(held.sum(1).cumsum(0), (1, 0))
    return indptr, held.nonzero()[:, 1].to(torch.int32)


def transposed(indptr: Tensor, columns: Tensor, n: int) -> tuple[Tensor, Tensor]:
    rows = torch.arange(indptr.numel() - 1).repeat_interleave(indptr.diff())
    order = torch.argsort(columns, stable=True)
    counts = torch.bincount(columns.long(), minlength=n)
    return torch.nn.functional.pad(counts.cumsum(0), (1, 0)), rows[order].to(torch.int32)


def with_threads(n: int, work: Callable[[], Any]) -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        return work()
    finally:
        torch.set_num_threads(before)


class TestIals:
    def given(
        self, rows: int = 37, columns: int = 23, d: int = 32, density: float = 0.3
    ) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(1)
        indptr, items = sparse(rows, columns, density)
        return {
            "y": torch.randn(columns, d, generator=generator) * 0.3,
            "indptr": indptr,
            "columns": items,
            "weights": torch.rand(items.numel(), generator=generator) * 10,
            "regularization": torch.rand(rows, generator=generator) + 0.1,
        }

    @pytest.mark.parametrize("d", [1, 7, 16, 32, 48, 64, 100, 128, 160], ids="d{}".format)
    @pytest.mark.parametrize("steps", [0, 1, 3])
    def test_kernel_equals_reference(self, d: int, steps: int) -> None:
        given = self.given(d=d)
        start = torch.randn(37, d, generator=torch.Generator().manual_seed(2)) * 0.1
        answer = ops.ials_solve(**given, start=start, steps=steps)
        expected = ops.ials_solve_reference(**given, start=start, steps=steps)
        torch.testing.assert_close(answer, expected, atol=2e-4, rtol=2e-4)

    def test_cholesky_solves_the_normal_equations(self) -> None:
        given = self.given(d=48)
        x = ops.ials_solve(**given, steps=0).double()
        y = given["y"].double()
        for r in (0, 17, 36):
            entries = slice(int(given["indptr"][r]), int(given["indptr"][r + 1]))
            own, w = y[given["columns"][entries].long()], given["weights"][entries].double()
            a = y.T @ y + own.T @ (w[:, None] * own) + float(given["regularization"][r]) * torch.eye(48)
            torch.testing.assert_close(a @ x[r], ((1 + w)[:, None] * own).sum(0), atol=1e-3, rtol=1e-3)

    def test_many_steps_reach_the_exact_solution(self) -> None:
        given = self.given(d=16)
        exact = ops.ials_solve(**given, steps=0)
        torch.testing.assert_close(ops.ials_solve(**given, steps=40), exact, atol=1e-4, rtol=1e-3)

    @pytest.mark.parametrize("steps", [0, 3])
    def test_rows_without_entries_are_zero(self, steps: int) -> None:
        given = self.given(density=0.0)
        assert torch.equal(ops.ials_solve(**given, steps=steps), torch.zeros(37, 32))
        empty = ops.ials_solve(
            given["y"], torch.zeros(1, dtype=torch.int64), given["columns"], given["weights"], torch.zeros(0)
        )
        assert empty.shape == (0, 32)

    @pytest.mark.parametrize("steps", [0, 3])
    def test_threads_do_not_change_a_bit(self, steps: int) -> None:
        given = self.given(rows=501, columns=2500, d=64, density=0.02)
        one, more = (with_threads(n, lambda: ops.ials_solve(**given, steps=steps)) for n in (1, 3))
        assert torch.equal(one, more)

    def test_gram_in_shards(self) -> None:
        y = torch.randn(3001, 40, generator=torch.Generator().manual_seed(0))
        exact = (y.double().T @ y.double()).float()
        torch.testing.assert_close(ops.gram(y), exact, atol=2e-3, rtol=1e-5)
        one, more = (with_threads(n, lambda: ops.gram(y)) for n in (1, 3))
        assert torch.equal(one, more)

    @needs_kernel
    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"columns": torch.full((3,), 99, dtype=torch.int32)}, "expected 0 to 22"),
            ({"columns": torch.zeros(3, dtype=torch.int64)}, "int32"),
            ({"indptr": torch.tensor([0, 9, 3])}, "falls|expected|must run"),
            ({"regularization": torch.zeros(37)}, "more than zero"),
            ({"weights": torch.zeros(2)}, "weights has size 2"),
            ({"y": torch.zeros(23, 32, dtype=torch.float64)}, "float32"),
            ({"weights": torch.tensor([1.0, -50.0, 1.0])}, r"weights\[1\] is -50.0, expected zero or more"),
            ({"weights": torch.tensor([1.0, torch.nan, 1.0])}, r"weights\[1\] is nan, expected zero or more"),
            ({"gram_matrix": torch.eye(31)}, "gram_matrix has size 31 in dimension 0, expected 32"),
            ({"steps": -1}, "steps"),
        ],
    )
    def test_bad_input_is_named(self, change: dict[str, Any], words: str) -> None:
        given: dict[str, Any] = self.given()
        if "columns" in change:
            given["indptr"] = torch.cat([torch.tensor([0]), torch.full((37,), 3)])
            given["weights"] = torch.ones(3)
        with pytest.raises(RuntimeError, match=words):
            ops.ials_solve(**(given | change))


class TestBpr:
    settings: ClassVar[dict[str, Any]] = {
        "shards": 4,
        "rate": 0.1,
        "reg_user": 0.02,
        "reg_item": 0.03,
        "reg_bias": 0.04,
    }

    def given(self, rows: int = 29, columns: int = 26, d: int = 16, density: float = 0.2) -> list[Tensor]:
        generator = torch.Generator().manual_seed(5)
        tables = [torch.randn(n, d, generator=generator) * 0.2 for n in (rows, columns)]
        return [*tables, torch.randn(columns, generator=generator) * 0.1, *sparse(rows, columns, density)]

    @pytest.mark.parametrize("d", [5, 16, 32, 48, 64, 128], ids="d{}".format)
    @pytest.mark.parametrize("shards", [1, 4])
    def test_kernel_equals_reference(self, d: int, shards: int) -> None:
        ours, plain = self.given(d=d), self.given(d=d)
        settings = self.settings | {"shards": shards}
        for epoch in range(3):
            ops.bpr_epoch_(*ours, seed=7, epoch=epoch, **settings)
            ops.bpr_epoch_reference_(*plain, seed=7, epoch=epoch, **settings)
        for name, got, expected in zip(("users", "items", "bias"), ours, plain, strict=False):
            torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4, msg=name)

    def test_threads_do_not_change_a_bit(self) -> None:
        def run() -> list[Tensor]:
            given = self.given(rows=400, columns=300, d=64, density=0.1)
            for epoch in range(3):
                ops.bpr_epoch_(*given, seed=1, epoch=epoch, **self.settings | {"shards": 16})
            return given

        for one, more in zip(with_threads(1, run), with_threads(3, run), strict=True):
            assert torch.equal(one, more)

    def test_seed_and_epoch_change_the_order(self) -> None:
        outcomes = []
        for seed, epoch in ((0, 0), (0, 1), (1, 0)):
            given = self.given()
            ops.bpr_epoch_(*given, seed=seed, epoch=epoch, **self.settings)
            outcomes.append(given[0])
        assert not torch.equal(outcomes[0], outcomes[1])
        assert not torch.equal(outcomes[0], outcomes[2])

    def test_a_user_who_has_everything_is_left_out(self) -> None:
        users, items, bias, _, _ = self.given(rows=1)
        before = users.clone()
        every = torch.arange(26, dtype=torch.int32)
        ops.bpr_epoch_(users, items, bias, torch.tensor([0, 26]), every, seed=0, epoch=0, **self.settings)
        assert torch.equal(users, before)

    def test_negatives_are_any_item_with_equal_probability(self) -> None:
        """Without decay, a rate of one moves a bias down by sigmoid(-m) a draw: count the draws from it."""
        n, epochs = 40, 400
        indptr, columns = torch.tensor([0, 1]), torch.tensor([0], dtype=torch.int32)
        drawn = torch.zeros(n)
        for epoch in range(epochs):
            bias = torch.zeros(n)
            ops.bpr_epoch_(
                torch.zeros(1, 16),
                torch.zeros(n, 16),
                bias,
                indptr,
                columns,
                seed=3,
                epoch=epoch,
                shards=4,
                rate=1.0,
                reg_user=0.0,
                reg_item=0.0,
                reg_bias=0.0,
            )
            drawn += bias < 0
        assert drawn[0] == 0
        assert drawn.sum() > 0.95 * epochs
        assert float(((drawn[1:] - drawn[1:].mean()) ** 2 / drawn[1:].mean()).sum()) < 80  # chi2(38) at 1e-4

    @pytest.mark.parametrize("n_items", [1, 2, 15, 40])
    def test_small_catalogues_are_cut_into_fewer_shards(self, n_items: int) -> None:
        generator = torch.Generator().manual_seed(0)
        users, items = (torch.randn(n, 16, generator=generator) for n in (2, n_items))
        before, bias = items.clone(), torch.zeros(n_items)
        indptr, columns = torch.tensor([0, 1, 1]), torch.zeros(1, dtype=torch.int32)
        ops.bpr_epoch_(users, items, bias, indptr, columns, seed=1, epoch=0)
        assert torch.equal(before, items) == (n_items == 1)

    @needs_kernel
    def test_bad_input_is_named(self) -> None:
        users, items, bias, indptr, columns = self.given()
        with pytest.raises(RuntimeError, match="shards"):
            ops.bpr_epoch_(users, items, bias, indptr, columns, seed=0, epoch=0, shards=99)
        with pytest.raises(RuntimeError, match="expected 0 to 25"):
            ops.bpr_epoch_(users, items, bias, indptr, columns + 30, seed=0, epoch=0)
        with pytest.raises(RuntimeError, match="rate"):
            ops.bpr_epoch_(users, items, bias, indptr, columns, seed=0, epoch=0, rate=0.0)
        with pytest.raises(RuntimeError, match="bias has size 3"):
            ops.bpr_epoch_(users, items, bias[:3], indptr, columns, seed=0, epoch=0)


class TestItemItem:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("span", [(0, None), (3, 17), (5, 5)])
    def test_cooccurrence_equals_dense_product(
        self, dtype: torch.dtype, span: tuple[int, int | None]
    ) -> None:
        indptr, columns = sparse(50, 31, 0.2)
        first, last = span[0], 31 if span[1] is None else span[1]
        by_item = transposed(indptr, columns, 31)
        answer = ops.cooccurrence(indptr, columns, *by_item, first=first, last=last, dtype=dtype)
        expected = ops.cooccurrence_reference(indptr, columns, 31, first=first, last=last, dtype=dtype)
        assert torch.equal(answer, expected)

    @pytest.mark.parametrize("n", [1, 5, 33, 120, 121, 250, 407], ids="n{}".format)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
    def test_inverse(self, n: int, dtype: torch.dtype) -> None:
        generator = torch.Generator().manual_seed(n)
        x = torch.randn(n + 5, n, generator=generator, dtype=torch.float64)
        a = x.T @ x + n * torch.eye(n)
        answer = ops.spd_inverse_(a.to(dtype).clone())
        assert torch.equal(answer, answer.T)
        error = (answer.double() @ a - torch.eye(n)).abs().max()
        assert error < (1e-4 if dtype == torch.float32 else 1e-12)

    @needs_kernel
    def test_inverse_reads_the_lower_triangle_and_threads_do_not_change_a_bit(self) -> None:
        x = torch.randn(300, 290, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        a = x.T @ x + 10 * torch.eye(290)
        one, more = (with_threads(n, lambda: ops.spd_inverse_(a.tril().clone())) for n in (1, 3))
        assert torch.equal(one, more)
        torch.testing.assert_close(one @ a, torch.eye(290, dtype=torch.float64), atol=1e-10, rtol=0)

    def test_inverse_refuses_an_indefinite_matrix(self) -> None:
        a = torch.eye(200)
        a[150, 150] = -1
        with pytest.raises(UsageError, match="positive definite"):
            ops.spd_inverse_(a)


@needs_kernel
def test_registration() -> None:
    indptr, columns = sparse(20, 24, 0.2)
    y, x = torch.randn(24, 16), torch.zeros(20, 16)
    bound = torch.ops.recengine
    torch.library.opcheck(bound.gram.default, (y,))
    torch.library.opcheck(
        bound.ials_solve_.default,
        (x, y, y.T @ y, indptr, columns, torch.ones(columns.numel()), torch.ones(20), 2),
    )
    torch.library.opcheck(
        bound.bpr_epoch_.default,
        (x, y, torch.zeros(24), indptr, columns, 0, 0, 4, 0.1, 0.01, 0.01, 0.01),
    )
    by_item = transposed(indptr, columns, 24)
    torch.library.opcheck(bound.cooccurrence_.default, (torch.empty(4, 24), indptr, columns, *by_item, 3))
    torch.library.opcheck(bound.spd_inverse_.default, (torch.eye(30),))
