"""Sparse propagation: a sparse matrix times node vectors, forward and backward.

    out[r] = s_r sum_{e in row r} v_e t_{c_e} x[c_e]

with row scales s, column scales t and values v (each one where it is left out). The symmetric normalisation
of a graph, D^-1/2 A D^-1/2, is s = t = degree^-1/2 over a binary A, so no value is stored or read. The
backward pass is the same product with the transposed matrix; both are kept in CSR. A row is summed by one
thread in the order of its entries: the bits do not depend on the number of threads.

Sources: Kipf and Welling, "Semi-supervised classification with graph convolutional networks" (2017), for the
normalisation; He et al., "LightGCN" (2020), for the layers' mean.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import UsageError
from ._library import has_cpu_kernel, native
from ._precision import wide

__all__ = ["SparseMatrix", "bipartite_graph", "layer_mean", "propagate", "sparse_matrix"]


@dataclass(frozen=True)
class SparseMatrix:
    """[n_rows, n_columns] in CSR, with its transpose.

    indptr int64 [n_rows + 1], columns int32 [entries], values float32 [entries] or None (all one);
    row_scale float32 [n_rows] and column_scale float32 [n_columns], or None.
    t_indptr, t_columns, t_values: the same entries by column (the very same tensors for a symmetric matrix).
    """

    indptr: Tensor
    columns: Tensor
    t_indptr: Tensor
    t_columns: Tensor
    values: Tensor | None = None
    t_values: Tensor | None = None
    row_scale: Tensor | None = None
    column_scale: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return self.indptr.numel() - 1, self.t_indptr.numel() - 1

    @property
    def entries(self) -> int:
        return self.columns.numel()

    def to(self, device: torch.device | str) -> SparseMatrix:
        """The matrix on ``device``; itself when it is there."""
        if self.indptr.device == torch.device(device):
            return self
        held = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **{name: value.to(device) for name, value in held.items()})

    def dense(self) -> Tensor:
        """float32 [n_rows, n_columns], scales and values in; for small matrices."""
        rows, width = self.shape
        out = torch.zeros(rows, width, device=self.indptr.device)
        values = torch.ones(self.entries, device=out.device) if self.values is None else self.values
        row = torch.arange(rows, device=out.device).repeat_interleave(self.indptr.diff())
        out.index_put_((row, self.columns.long()), values, accumulate=True)
        if self.row_scale is not None:
            out *= self.row_scale[:, None]
        return out if self.column_scale is None else out * self.column_scale


def sparse_matrix(
    rows: NDArray[np.integer],
    columns: NDArray[np.integer],
    shape: tuple[int, int],
    *,
    values: NDArray[np.floating] | None = None,
) -> SparseMatrix:
    """The matrix with entries (rows[e], columns[e]); repeated entries are added up as they stand.

    Raises UsageError when an entry lies outside of ``shape``.
    """
    for name, ids, size in (("rows", rows, shape[0]), ("columns", columns, shape[1])):
        if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < size:
            raise UsageError(
                "an entry lies outside of the matrix",
                where=f"sparse_matrix({name})",
                found=f"{int(ids.min())} to {int(ids.max())}",
                expected=f"0 to {size - 1}",
            )
    indptr, held, order = _csr(rows, columns, shape[0])
    t_indptr, t_held, t_order = _csr(columns, rows, shape[1])
    wide = None if values is None else torch.from_numpy(values.astype(np.float32))
    return SparseMatrix(
        indptr,
        held,
        t_indptr,
        t_held,
        None if wide is None else wide[order],
        None if wide is None else wide[t_order],
    )


def bipartite_graph(
    users: NDArray[np.integer], items: NDArray[np.integer], n_users: int, n_items: int
) -> SparseMatrix:
    """The symmetrically normalised graph of users (nodes 0 .. n_users - 1) and items (n_users ...):
    entry (u, n_users + i) = 1 / sqrt(degree_u degree_i), and its mirror image.

    Every distinct pair is one edge. A node without edges has an empty row: what is propagated to it is zero,
    not NaN. Raises UsageError when an id is out of range.
    """
    for name, ids, size in (("users", users, n_users), ("items", items, n_items)):
        if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < size:
            raise UsageError(
                "an id is not in the vocabulary",
                where=f"bipartite_graph({name})",
                found=f"{int(ids.min())} to {int(ids.max())}",
                expected=f"0 to {size - 1}",
            )
    key = np.unique(users.astype(np.int64) * max(1, n_items) + items)
    user, item = np.divmod(key, max(1, n_items))
    left = np.concatenate([user, item + n_users])
    right = np.concatenate([item + n_users, user])
    indptr, columns, _ = _csr(left, right, n_users + n_items)
    degree = indptr.diff().to(torch.float32)
    scale = torch.where(degree > 0, degree.clamp(min=1).rsqrt(), 0.0)
    return SparseMatrix(indptr, columns, indptr, columns, row_scale=scale, column_scale=scale)


def propagate(matrix: SparseMatrix, nodes: Tensor) -> Tensor:
    """``matrix`` times ``nodes`` [n_columns, d], float [n_rows, d]; differentiable in ``nodes``.

    float32 and bfloat16 run the kernel on a CPU. Anything else runs in plain torch, and so does a matrix
    whose values or scales ask for a gradient, which they get. Sums are float32 at least.
    Raises UsageError when the sizes do not fit.
    """
    if nodes.dim() != 2 or nodes.shape[0] != matrix.shape[1]:
        raise UsageError(
            "the vectors do not fit the matrix",
            where="propagate(nodes)",
            found=tuple(nodes.shape),
            expected=f"[{matrix.shape[1]}, d]",
        )
    if _kernel_for(matrix, nodes):
        out: Tensor = torch.ops.recengine.csr_matmul(
            matrix.indptr,
            matrix.columns,
            matrix.values,
            matrix.row_scale,
            matrix.column_scale,
            matrix.t_indptr,
            matrix.t_columns,
            matrix.t_values,
            nodes,
        )
        return out
    return propagate_reference(matrix, wide(nodes)).to(nodes.dtype)


def layer_mean(matrix: SparseMatrix, nodes: Tensor, layers: int, *, first: int = 0) -> Tensor:
    """Mean of A^k x for k = first .. layers, float [n, d]: LightGCN's read-out (first 0), SimGCL's (1).

    Raises UsageError when there is no such layer.
    """
    if not 0 <= first <= layers:
        raise UsageError("no layer is left to read out", where="layer_mean(first)", found=first)
    total = nodes if first == 0 else None
    for layer in range(1, layers + 1):
        nodes = propagate(matrix, nodes)
        if layer >= first:
            total = nodes if total is None else total + nodes
    assert total is not None
    return total / (layers - first + 1)


def propagate_reference(matrix: SparseMatrix, nodes: Tensor) -> Tensor:
    """The same as a sum of gathered rows in plain torch; makes an entries x d tensor."""
    row = torch.arange(matrix.shape[0], device=nodes.device).repeat_interleave(matrix.indptr.diff())
    source = nodes if matrix.column_scale is None else nodes * matrix.column_scale[:, None].to(nodes.dtype)
    taken = source[matrix.columns.long()]
    if matrix.values is not None:
        taken = taken * matrix.values[:, None].to(nodes.dtype)
    out = taken.new_zeros(matrix.shape[0], nodes.shape[1]).index_add(0, row, taken)
    return out if matrix.row_scale is None else out * matrix.row_scale[:, None].to(nodes.dtype)


def _kernel_for(matrix: SparseMatrix, nodes: Tensor) -> bool:
    """The kernel's backward pass knows the gradient of ``nodes`` alone."""
    factors = (matrix.values, matrix.row_scale, matrix.column_scale)
    learned = torch.is_grad_enabled() and any(f is not None and f.requires_grad for f in factors)
    return has_cpu_kernel(nodes) and nodes.dtype in (torch.float32, torch.bfloat16) and not learned


def _csr(
    rows: NDArray[np.integer], columns: NDArray[np.integer], n_rows: int
) -> tuple[Tensor, Tensor, Tensor]:
    """indptr, columns (ascending inside a row) and the order of the entries."""
    order = np.lexsort((columns, rows))
    counts = np.bincount(rows, minlength=n_rows) if rows.size else np.zeros(n_rows, np.int64)
    indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
    held = columns[order].astype(np.int32)
    return torch.from_numpy(indptr), torch.from_numpy(held), torch.from_numpy(order)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:-1])


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    indptr, columns, values, row_scale, column_scale, t_indptr, t_columns, t_values = ctx.saved_tensors
    of_nodes = torch.ops.recengine.csr_matmul(
        t_indptr, t_columns, t_values, column_scale, row_scale, indptr, columns, values, grad
    )
    return (None,) * 8 + (of_nodes,)


def _fake(indptr: Tensor, *rest: Any) -> Tensor:
    nodes: Tensor = rest[-1]
    return nodes.new_empty((indptr.shape[0] - 1, nodes.shape[1]))


if native().cpu:
    torch.library.register_fake("recengine::csr_matmul", _fake)
    torch.library.register_autograd("recengine::csr_matmul", _backward, setup_context=_setup)
