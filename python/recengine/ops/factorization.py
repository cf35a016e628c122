"""Factorisation and item-item models: the sweeps that fit them.

Kernels run on the CPU (csrc/factorization); elsewhere, and where the native library is not loaded, the
references below run. There is no CUDA twin: these models fit in seconds on a CPU. Nothing here has a
gradient. A kernel's result is the same bits for any number of threads.

Sparse matrices are CSR: indptr int64 [rows + 1], columns int32 [nnz], ascending inside a row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recengine.errors import UsageError
from recengine.ops._checks import need_shape, readable
from recengine.ops._inplace import need_writable, written
from recengine.ops._library import has_cpu_kernel, native

LANE = 16  # floats a row is a multiple of inside the kernels
_MASK = (1 << 64) - 1


# --- implicit alternating least squares


def gram(y: Tensor) -> Tensor:
    """Y'Y, float32 [d, d], summed in float64 over fixed shards of rows; y: float32 [n, d]."""
    if not has_cpu_kernel(y):
        return (y.double().T @ y.double()).float()
    d = y.shape[1]
    return _gram(_padded(y))[:d, :d]


def ials_solve(
    y: Tensor,
    indptr: Tensor,
    columns: Tensor,
    weights: Tensor,
    regularization: Tensor,
    *,
    start: Tensor | None = None,
    steps: int = 3,
    gram_matrix: Tensor | None = None,
) -> Tensor:
    """One half-sweep of implicit alternating least squares: each row's factors given the other side's.

    For row r with entries t (column c_t, weight w_t = confidence - 1):

        (Y'Y + sum_t w_t y_ct y_ct' + lambda_r I) x_r = sum_t (1 + w_t) y_ct

    y: float32 [columns, d]. weights: float32 [nnz], 0 or more. regularization: float32 [rows], lambda_r > 0.
    start: float32 [rows, d], where conjugate gradient begins (zeros by default). steps: of conjugate
    gradient; 0 solves by Cholesky. gram_matrix: Y'Y when it is known already.
    Returns x, float32 [rows, d].

    Raises RuntimeError when sizes or kinds do not fit, an index is out of range, a weight is negative or
    lambda is not positive.
    Sources: Hu, Koren, Volinsky (ICDM 2008); conjugate gradient: Takacs, Pilaszy, Tikk (RecSys 2011).
    """
    rows, d = indptr.shape[0] - 1, y.shape[1]
    need_shape("ials_solve", "gram_matrix", gram_matrix, (d, d))
    wrong = ~(weights >= 0) if readable(weights) else None
    if wrong is not None and bool(wrong.any()):
        place = int(wrong.nonzero()[0, 0])
        found = f"weights[{place}] is {float(weights[place])}"
        raise RuntimeError(f"ials_solve: {found}, expected zero or more")
    if not has_cpu_kernel(y):
        return ials_solve_reference(y, indptr, columns, weights, regularization, start=start, steps=steps)
    if start is not None and start.shape != (rows, d):
        raise UsageError("start does not fit", found=tuple(start.shape), expected=(rows, d))
    y = _padded(y)
    wide = gram(y) if gram_matrix is None else _padded(_padded(gram_matrix).T).T.contiguous()
    x = torch.zeros(rows, y.shape[1]) if start is None else _padded(start).clone()
    torch.ops.recengine.ials_solve_(x, y, wide, indptr, columns, weights, regularization, steps)
    return x if x.shape[1] == d else x[:, :d].contiguous()


def ials_solve_reference(
    y: Tensor,
    indptr: Tensor,
    columns: Tensor,
    weights: Tensor,
    regularization: Tensor,
    *,
    start: Tensor | None = None,
    steps: int = 3,
) -> Tensor:
    """The same row by row in float64."""
    y64 = y.double()
    whole = y64.T @ y64
    rows, d = indptr.shape[0] - 1, y.shape[1]
    out = y64.new_zeros(rows, d) if start is None else start.double().clone()
    for r in range(rows):
        entries = slice(int(indptr[r]), int(indptr[r + 1]))
        own, w = y64[columns[entries].long()], weights[entries].double()
        a = whole + own.T @ (w[:, None] * own)
        a.diagonal().add_(float(regularization[r]))
        b = ((1 + w)[:, None] * own).sum(0)
        out[r] = torch.linalg.solve(a, b) if steps == 0 else _conjugate_gradient(a, b, out[r], steps)
    return out.float()


def _conjugate_gradient(a: Tensor, b: Tensor, x: Tensor, steps: int) -> Tensor:
    r = b - a @ x
    p, rr = r, r @ r
    for _ in range(steps):
        if rr <= 1e-20:
            break
        q = a @ p
        alpha = rr / (p @ q)
        x, r = x + alpha * p, r - alpha * q
        before, rr = rr, r @ r
        p = r + (rr / before) * p
    return x


# --- Bayesian personalised ranking


def bpr_epoch_(
    users: Tensor,
    items: Tensor,
    bias: Tensor,
    indptr: Tensor,
    columns: Tensor,
    *,
    seed: int,
    epoch: int,
    shards: int | None = None,
    rate: float = 0.05,
    reg_user: float = 0.01,
    reg_item: float = 0.01,
    reg_bias: float = 0.01,
) -> None:
    """One epoch of stochastic gradient ascent on the pairwise likelihood, in place.

    Every pair (u, i) once, in random order, each with a negative j that u does not have:

        m = x_u . (y_i - y_j) + b_i - b_j,   g = rate * sigmoid(-m)
        x_u <- (1 - rate reg_user) x_u + g (y_i - y_j)
        y_i <- (1 - rate reg_item) y_i + g x_u        y_j <- (1 - rate reg_item) y_j - g x_u
        b_i <- (1 - rate reg_bias) b_i + g            b_j <- (1 - rate reg_bias) b_j - g

    users: float32 [n_users, d], items: float32 [n_items, d], bias: float32 [n_items]. shards: 1 to n_items;
    by default 16, or as many as leave each 8 items to draw negatives from.

    Parallel without races: users are cut into ``shards`` ranges of about equal work, the items of an epoch
    into as many random blocks; in round r, shard s works on block (s + r) mod shards alone, negatives drawn
    from that block. No two shards of a round touch the same row, so the outcome is that of a sequential
    run, whatever the number of threads; and since the blocks are redrawn each epoch, a negative is any item
    with equal probability. Random numbers are splitmix64 of (seed, epoch, stratum, count). After 16 draws
    that the user has, the pair is left out of the epoch.

    Raises RuntimeError when sizes or kinds do not fit, an index is out of range, or what is changed is
    expanded or requires a gradient outside of torch.no_grad().
    Sources: Rendle et al. (UAI 2009); stratification: Gemulla et al. (KDD 2011).
    """
    for name, changed in (("users", users), ("items", items), ("bias", bias)):
        need_writable("bpr_epoch", name, changed)
    if shards is None:
        shards = max(1, min(16, items.shape[0] // 8))
    if not has_cpu_kernel(users):
        bpr_epoch_reference_(
            users,
            items,
            bias,
            indptr,
            columns,
            seed=seed,
            epoch=epoch,
            shards=shards,
            rate=rate,
            reg_user=reg_user,
            reg_item=reg_item,
            reg_bias=reg_bias,
        )
        return
    wide_users, wide_items = _padded(users), _padded(items)
    torch.ops.recengine.bpr_epoch_(
        wide_users,
        wide_items,
        bias,
        indptr,
        columns,
        seed,
        epoch,
        shards,
        rate,
        reg_user,
        reg_item,
        reg_bias,
    )
    for given, wide in ((users, wide_users), (items, wide_items)):
        if wide is given:
            written(given)
        else:
            given.copy_(wide[:, : given.shape[1]])
    written(bias)


def bpr_epoch_reference_(
    users: Tensor,
    items: Tensor,
    bias: Tensor,
    indptr: Tensor,
    columns: Tensor,
    *,
    seed: int,
    epoch: int,
    shards: int,
    rate: float,
    reg_user: float,
    reg_item: float,
    reg_bias: float,
) -> None:
    """The same triples in the same order, one after another."""
    key = _mixed(seed & _MASK, epoch & _MASK)
    n_items = items.shape[0]
    order = list(range(n_items))
    for t in range(n_items - 1, 0, -1):
        other = ((_mixed(key, t) >> 32) * (t + 1)) >> 32
        order[t], order[other] = order[other], order[t]
    bounds = [n_items * b // shards for b in range(shards + 1)]
    block = {item: b for b in range(shards) for item in order[bounds[b] : bounds[b + 1]]}
    cuts = _cut(indptr.tolist(), shards)
    for r in range(shards):
        for s in range(shards):
            b = (s + r) % shards
            pairs = [
                (u, item)
                for u in range(cuts[s], cuts[s + 1])
                for item in columns[int(indptr[u]) : int(indptr[u + 1])].tolist()
                if block[item] == b
            ]
            random = _Splitmix(_mixed(key, ((s + 1) * shards + b) << 32))
            for t in range(len(pairs) - 1, 0, -1):
                other = random.below(t + 1)
                pairs[t], pairs[other] = pairs[other], pairs[t]
            for u, i in pairs:
                own = set(columns[int(indptr[u]) : int(indptr[u + 1])].tolist())
                drawn = (order[bounds[b] + random.below(bounds[b + 1] - bounds[b])] for _ in range(16))
                j = next((item for item in drawn if item not in own), None)
                if j is None:
                    continue
                x, y, z = users[u].clone(), items[i].clone(), items[j].clone()
                push = rate * torch.sigmoid(-(x @ (y - z) + bias[i] - bias[j]))
                users[u] = (1 - rate * reg_user) * x + push * (y - z)
                items[i] = (1 - rate * reg_item) * y + push * x
                items[j] = (1 - rate * reg_item) * z - push * x
                bias[i] = (1 - rate * reg_bias) * bias[i] + push
                bias[j] = (1 - rate * reg_bias) * bias[j] - push


def _cut(indptr: list[int], pieces: int) -> list[int]:
    """Row bounds of pieces with about equal numbers of entries."""
    bounds, row = [], 0
    for piece in range(pieces):
        while row < len(indptr) - 1 and indptr[row] < indptr[-1] * piece // pieces:
            row += 1
        bounds.append(row)
    return [*bounds, len(indptr) - 1]


def _finalised(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def _mixed(a: int, b: int) -> int:
    return _finalised((a + 0x9E3779B97F4A7C15 * (b + 1)) & _MASK)


class _Splitmix:
    def __init__(self, key: int) -> None:
        self.state = key

    def below(self, n: int) -> int:
        self.state = (self.state + 0x9E3779B97F4A7C15) & _MASK
        return ((_finalised(self.state) >> 32) * n) >> 32


# --- item-item matrices


def cooccurrence(
    indptr: Tensor,
    columns: Tensor,
    t_indptr: Tensor,
    t_columns: Tensor,
    *,
    first: int = 0,
    last: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Rows ``first`` to ``last`` of X'X for a binary X: how many users have both item i and item j.

    indptr, columns: X by user; t_indptr, t_columns: X by item (its transpose). dtype: float32 (exact below
    2^24) or float64. Returns [last - first, n_items].

    Raises RuntimeError when sizes or kinds do not fit or an index is out of range.
    """
    n = t_indptr.shape[0] - 1
    last = n if last is None else last
    if not has_cpu_kernel(indptr):
        return cooccurrence_reference(indptr, columns, n, first=first, last=last, dtype=dtype)
    out = torch.empty(last - first, n, dtype=dtype)
    torch.ops.recengine.cooccurrence_(out, indptr, columns, t_indptr, t_columns, first)
    return out


def cooccurrence_reference(
    indptr: Tensor, columns: Tensor, n: int, *, first: int, last: int, dtype: torch.dtype
) -> Tensor:
    """The same by a dense product."""
    rows = torch.arange(indptr.shape[0] - 1, device=indptr.device).repeat_interleave(indptr.diff())
    x = torch.zeros(indptr.shape[0] - 1, n, dtype=dtype, device=indptr.device)
    x[rows, columns.long()] = 1
    return x[:, first:last].T @ x


def spd_inverse_(a: Tensor) -> Tensor:
    """The inverse of a symmetric positive definite matrix, in place; returns ``a``.

    a: float32 or float64 [n, n], contiguous; only the lower triangle is read. Blocks of columns are swept
    one after another (Gauss-Jordan elimination that keeps symmetry): n^3 multiply-adds, one scratch panel.

    Raises UsageError when the matrix is not positive definite; RuntimeError as ``bpr_epoch_`` does.
    Source: Goodnight, "A tutorial on the sweep operator" (1979).
    """
    need_writable("spd_inverse", "a", a)
    if not has_cpu_kernel(a):
        return a.copy_(spd_inverse_reference(a))
    try:
        torch.ops.recengine.spd_inverse_(a)
    except RuntimeError as error:
        if "positive definite" not in str(error):
            raise
        raise _not_definite() from None
    finally:
        written(a)
    return a


def spd_inverse_reference(a: Tensor) -> Tensor:
    """The same by Cholesky."""
    factor, failed = torch.linalg.cholesky_ex(a)
    if int(failed):
        raise _not_definite()
    return torch.cholesky_inverse(factor)


def _not_definite() -> UsageError:
    return UsageError(
        "the matrix is not positive definite", where="spd_inverse", fix="add more to its diagonal"
    )


def _padded(x: Tensor) -> Tensor:
    """x itself when its rows are whole lanes, else a copy with zeros behind each row."""
    missing = -x.shape[1] % LANE
    return torch.nn.functional.pad(x, (0, missing)) if missing else x.contiguous()


def _gram(y: Tensor) -> Tensor:
    out: Tensor = torch.ops.recengine.gram(y)
    return out


def _nothing(*given: object) -> None:
    """The fake of an operator that works in place."""


def _gram_fake(y: Tensor) -> Tensor:
    return y.new_empty(y.shape[1], y.shape[1])


if native().cpu:
    torch.library.register_fake("recengine::gram", _gram_fake)
    for _name in ("ials_solve_", "bpr_epoch_", "cooccurrence_", "spd_inverse_"):
        torch.library.register_fake(f"recengine::{_name}", _nothing)
