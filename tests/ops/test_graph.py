"""Sparse propagation: against dense products, gradients, isolated nodes, threads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from recengine.errors import UsageError
from recengine.ops import bipartite_graph, layer_mean, propagate, sparse_matrix
from recengine.ops._library import native
from recengine.ops.graph import SparseMatrix, propagate_reference

kernel = pytest.mark.skipif(not native().cpu, reason="no native kernels here")


def graph(edges: int = 300, users: int = 41, items: int = 32) -> SparseMatrix:
    """The last user and item have no edge; edges repeat."""
    rng = np.random.default_rng(edges)
    return bipartite_graph(rng.integers(0, users - 1, edges), rng.integers(0, items - 1, edges), users, items)


def weighted(rows: int = 23, columns: int = 17, entries: int = 90) -> SparseMatrix:
    rng = np.random.default_rng(7)
    return sparse_matrix(
        rng.integers(0, rows, entries),
        rng.integers(0, columns, entries),
        (rows, columns),
        values=rng.normal(size=entries),
    )


@pytest.mark.parametrize("make", [graph, weighted])
@pytest.mark.parametrize("width", [1, 5, 16, 33, 64, 128])
def test_product_and_gradient_against_the_dense_matrix(make: object, width: int) -> None:
    matrix = make()  # type: ignore[operator]
    dense = matrix.dense()
    generator = torch.Generator().manual_seed(width)
    x = torch.randn(matrix.shape[1], width, generator=generator, requires_grad=True)
    g = torch.randn(matrix.shape[0], width, generator=generator)
    torch.testing.assert_close(propagate(matrix, x), dense @ x, rtol=1e-5, atol=1e-5)
    found = torch.autograd.grad(propagate(matrix, x), x, g)[0]
    torch.testing.assert_close(found, dense.T @ g, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(propagate_reference(matrix, x), dense @ x, rtol=1e-5, atol=1e-5)


@kernel
def test_second_derivative_strides_and_bfloat16() -> None:
    matrix = weighted()
    x = torch.randn(24, 17, requires_grad=True, generator=torch.Generator().manual_seed(0))
    out = propagate(matrix, x.T)  # columns, not rows, are contiguous
    torch.testing.assert_close(out, matrix.dense() @ x.T, rtol=1e-5, atol=1e-5)
    y = propagate(matrix, x.T.bfloat16())
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), matrix.dense() @ x.T, rtol=3e-2, atol=3e-2)
    wide = x.T.double().detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: propagate(matrix, z), (wide,), atol=1e-4)


def test_the_graph_is_symmetrically_normalised() -> None:
    matrix = graph()
    dense = matrix.dense()
    torch.testing.assert_close(dense, dense.T)
    binary = (dense > 0).double()
    degree = binary.sum(1)
    wanted = binary / (degree[:, None] * degree[None]).sqrt()
    torch.testing.assert_close(dense.double(), torch.where(binary > 0, wanted, 0.0), rtol=1e-6, atol=1e-7)
    assert float(torch.linalg.eigvalsh(dense).abs().max()) <= 1 + 1e-5


def test_nodes_without_edges_get_zero() -> None:
    matrix = graph()
    x = torch.ones(73, 8, requires_grad=True)
    out = propagate(matrix, x)
    assert torch.equal(out[40], torch.zeros(8))  # the last user
    assert torch.equal(out[72], torch.zeros(8))  # the last item
    out.sum().backward()
    assert torch.isfinite(x.grad).all()
    mean = layer_mean(matrix, x.detach(), 2)
    torch.testing.assert_close(mean[40], torch.full((8,), 1 / 3))
    empty = bipartite_graph(np.zeros(0, np.int64), np.zeros(0, np.int64), 3, 2)
    assert torch.equal(propagate(empty, torch.ones(5, 4)), torch.zeros(5, 4))


def test_layers_are_averaged() -> None:
    matrix = graph()
    dense, x = matrix.dense(), torch.randn(73, 6, generator=torch.Generator().manual_seed(0))
    one, two = dense @ x, dense @ dense @ x
    torch.testing.assert_close(layer_mean(matrix, x, 2), (x + one + two) / 3, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(layer_mean(matrix, x, 2, first=1), (one + two) / 2, rtol=1e-5, atol=1e-5)


@kernel
def test_bits_do_not_depend_on_threads() -> None:
    rng = np.random.default_rng(0)
    matrix = bipartite_graph(
        (rng.random(40_000) ** 3 * 2000).astype(int), rng.integers(0, 900, 40_000), 2000, 900
    )
    x = torch.randn(2900, 64, generator=torch.Generator().manual_seed(0))
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(propagate(matrix, x))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@kernel
def test_operator_check() -> None:
    matrix = weighted()
    x = torch.randn(17, 8, requires_grad=True)
    arguments = (matrix.indptr, matrix.columns, matrix.values, None, None)
    arguments += (matrix.t_indptr, matrix.t_columns, matrix.t_values, x)
    torch.library.opcheck(torch.ops.recengine.csr_matmul.default, arguments)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(UsageError, match=r"propagate\(nodes\)"):
        propagate(graph(), torch.ones(10, 4))
    with pytest.raises(UsageError, match=r"bipartite_graph\(items\)"):
        bipartite_graph(np.array([0]), np.array([5]), 1, 5)
    with pytest.raises(UsageError, match=r"sparse_matrix\(rows\)"):
        sparse_matrix(np.array([3]), np.array([0]), (3, 3))
    with pytest.raises(UsageError, match="layer_mean"):
        layer_mean(graph(), torch.ones(73, 4), 1, first=2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("learned", ["values", "row_scale", "column_scale"])
def test_what_a_matrix_is_made_of_gets_its_gradient(dtype: torch.dtype, learned: str) -> None:
    made = sparse_matrix(np.array([0, 1, 1]), np.array([0, 0, 1]), (2, 2), values=np.ones(3))
    parts = {"values": torch.ones(3), "row_scale": torch.ones(2), "column_scale": torch.ones(2)}
    parts[learned].requires_grad_()
    nodes = torch.tensor([[1.0, 2.0], [5.0, 7.0]], dtype=dtype)
    out = propagate(replace(made, t_values=parts["values"], **parts), nodes)
    (found,) = torch.autograd.grad(out.sum(), parts[learned])
    wanted = {"values": [3.0, 3.0, 12.0], "row_scale": [3.0, 15.0], "column_scale": [6.0, 12.0]}
    assert found.tolist() == wanted[learned]
