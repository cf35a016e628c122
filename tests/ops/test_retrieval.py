"""Top-k and exact ranks: kernels against float64, order, masks, edges, strides, threads, compiler."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from recengine.ops import rank_of, topk
from recengine.ops._library import native
from recengine.ops.retrieval import rank_of_reference, topk_reference

needs_kernels = pytest.mark.skipif(not native().cpu, reason=f"no kernels: {native().reason}")
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2e-6}  # bfloat16 products are exact in float32


def task(
    B: int, N: int, d: int, seen: int, dtype: torch.dtype = torch.float32, seed: int = 0
) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, seen + 1, (B,), generator=g)
    indptr = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    return {
        "queries": torch.randn(B, d, generator=g).to(dtype),
        "items": torch.randn(N, d, generator=g).to(dtype),
        "bias": torch.randn(N, generator=g),
        "seen_indptr": indptr,
        "seen_items": torch.randint(0, N, (int(indptr[-1]),), generator=g),
    }


def doubled(given: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.double() if t.is_floating_point() else t for name, t in given.items()}


SHAPES = [
    pytest.param(1, 1, 1, 1, 0, id="B1-N1-d1-k1"),
    pytest.param(5, 7, 3, 10, 2, id="B5-N7-d3-k10"),
    pytest.param(33, 1000, 64, 10, 50, id="B33-N1000-d64-k10"),
    pytest.param(70, 5000, 17, 20, 300, id="B70-N5000-d17-k20"),
    pytest.param(40, 9000, 33, 1000, 30, id="B40-N9000-d33-k1000"),
    pytest.param(65, 2500, 130, 64, 2600, id="B65-N2500-d130-k64"),
    pytest.param(9, 300, 8, 300, 299, id="B9-N300-d8-k300"),
]


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("B", "N", "d", "k", "seen"), SHAPES)
def test_topk_agrees_with_float64(B: int, N: int, d: int, k: int, seen: int, dtype: torch.dtype) -> None:
    given = task(B, N, d, seen, dtype)
    scores, ids = topk(k=k, **given)
    truth, _ = topk_reference(k=k, **doubled(given))
    assert scores.dtype == torch.float32
    assert ids.dtype == torch.int64
    held = torch.isfinite(truth)
    assert torch.equal(torch.isfinite(scores), held)
    assert torch.equal(ids >= 0, held)
    if not held.any():
        return
    limit = TOLERANCE[dtype] * float(truth[held].abs().max())
    assert float((scores.double() - truth)[held].abs().max()) <= limit
    # The ids are the right ones: distinct, unseen, and their float64 scores are those of the truth.
    exact = given["queries"].double() @ given["items"].double().T + given["bias"].double()
    own = exact.gather(1, ids.clamp(min=0))
    assert float((own - truth)[held].abs().max()) <= limit
    for b in range(B):
        mine = ids[b][ids[b] >= 0].tolist()
        masked = given["seen_items"][given["seen_indptr"][b] : given["seen_indptr"][b + 1]].tolist()
        assert len(set(mine)) == len(mine)
        assert not set(mine) & set(masked)


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("B", "N", "d", "k", "seen"), SHAPES)
def test_rank_is_the_place_in_the_full_list(
    B: int, N: int, d: int, k: int, seen: int, dtype: torch.dtype
) -> None:
    given = task(B, N, d, min(seen, N // 2), dtype, seed=1)
    targets = torch.randint(0, N, (B,), generator=torch.Generator().manual_seed(2))
    ranks = rank_of(targets=targets, **given)
    _, ids = topk(k=min(N, 1000), **given)
    for b in range(B):
        place = (ids[b] == targets[b]).nonzero()
        if place.numel():
            assert int(ranks[b]) == int(place[0])
    truth = rank_of_reference(targets=targets, **doubled(given))
    assert int((ranks - truth).abs().max()) <= 1  # float32 may swap neighbours


@needs_kernels
def test_ties_go_to_the_smaller_id() -> None:
    items = torch.ones(5000, 4)
    scores, ids = topk(torch.ones(3, 4), items, 100)
    assert torch.equal(ids, torch.arange(100).expand(3, 100))
    assert bool((scores == 4).all())
    assert torch.equal(
        rank_of(torch.ones(3, 4), items, torch.tensor([0, 17, 4999])), torch.tensor([0, 17, 4999])
    )


@needs_kernels
def test_zero_vectors_empty_batch_and_no_items() -> None:
    scores, ids = topk(torch.zeros(2, 8), torch.zeros(3, 8), 5)
    assert ids.tolist() == [[0, 1, 2, -1, -1]] * 2
    assert scores.tolist() == [[0.0, 0.0, 0.0, -torch.inf, -torch.inf]] * 2
    assert topk(torch.zeros(0, 8), torch.zeros(3, 8), 5)[1].shape == (0, 5)
    assert topk(torch.zeros(2, 8), torch.zeros(0, 8), 2)[1].tolist() == [[-1, -1]] * 2
    assert topk(torch.zeros(2, 0), torch.zeros(3, 0), 2)[1].tolist() == [[0, 1]] * 2
    assert topk(torch.zeros(40, 0), torch.zeros(9000, 0), 2)[1].tolist() == [[0, 1]] * 40
    assert rank_of(torch.zeros(0, 8), torch.zeros(3, 8), torch.zeros(0, dtype=torch.int64)).shape == (0,)


@needs_kernels
def test_everything_seen_leaves_nothing() -> None:
    seen = torch.arange(50).flip(0).repeat(2)
    scores, ids = topk(
        torch.randn(1, 4), torch.randn(50, 4), 3, seen_indptr=torch.tensor([0, 100]), seen_items=seen
    )
    assert ids.tolist() == [[-1] * 3]
    assert bool((scores == -torch.inf).all())


@needs_kernels
@pytest.mark.parametrize("reference", [False, True])
def test_nan_and_infinity(reference: bool) -> None:
    """NaN and -inf are never returned; +inf comes first; ties among +inf go by id."""
    one, other = (topk_reference, rank_of_reference) if reference else (topk, rank_of)
    items = torch.ones(3000, 2)
    items[5], items[7], items[2900], items[9] = torch.nan, torch.inf, torch.inf, -torch.inf
    queries = torch.ones(1, 2)
    scores, ids = one(queries, items, 4)
    assert ids.tolist() == [[7, 2900, 0, 1]]
    assert scores.tolist() == [[torch.inf, torch.inf, 2.0, 2.0]]
    ranks = [int(other(queries, items, torch.tensor([t]))) for t in (7, 2900, 0, 5, 9, 2999)]
    assert ranks == [0, 1, 2, -1, -1, 2997]
    out = torch.zeros(3000)
    out[:] = -torch.inf
    out[11] = 0.0
    assert one(queries, torch.ones(3000, 2), 2, bias=out)[1].tolist() == [[11, -1]]


@needs_kernels
def test_infinite_biases_are_no_hits_of_users_that_do_not_exist() -> None:
    """A batch is worked through in lanes, of which the last have no user."""
    generator = torch.Generator().manual_seed(0)
    queries, items = (torch.randn(n, 16, generator=generator) for n in (20, 9000))
    bias = torch.zeros(9000)
    bias[8000:8400] = torch.inf
    seen = torch.arange(8000, 8010).repeat(20)
    seen_of = {"seen_indptr": torch.arange(21) * 10, "seen_items": seen}
    scores, ids = topk(queries, items, 5, bias=bias, **seen_of)
    assert ids.tolist() == [[8010, 8011, 8012, 8013, 8014]] * 20
    assert bool((scores == torch.inf).all())


@needs_kernels
@pytest.mark.parametrize("size", [1e-22, 1e-30, 1e-38, 1e15, 1e19, 3e38])
def test_extreme_magnitudes_agree_with_the_reference(size: float) -> None:
    """Where bf16 or float32 would underflow or overflow, the answer is still the float32 one."""
    g = torch.Generator().manual_seed(3)
    items = torch.randint(-4, 5, (4000, 4), generator=g).float() * size
    queries = torch.randint(-4, 5, (6, 4), generator=g).float() / 8
    found, wanted = topk(queries, items, 7), topk_reference(queries, items, 7)
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-5, atol=0)
    mixed = items.clone()
    mixed[::2] /= size
    found, wanted = topk(queries, mixed, 7), topk_reference(queries, mixed, 7)
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-5, atol=0)


@needs_kernels
def test_near_ties_are_told_apart() -> None:
    """Scores that bf16 cannot tell apart: the float32 order must come out, over many blocks."""
    N = 20000
    items = torch.zeros(N, 32)
    items[:, 0] = 1 + torch.randperm(N, generator=torch.Generator().manual_seed(4)) * 2.0**-22
    queries = torch.zeros(3, 32)
    queries[:, 0] = torch.tensor([1.0, 0.5, -2.0])
    scores, ids = topk(queries, items, 50)
    _, wanted = topk_reference(queries, items, 50)
    assert torch.equal(ids, wanted)
    targets = torch.tensor([123, 4567, 19999])
    assert torch.equal(rank_of(queries, items, targets), rank_of_reference(queries, items, targets))
    assert bool((scores[:, :-1] > scores[:, 1:]).all())


@needs_kernels
def test_strides_do_not_matter() -> None:
    given = task(20, 3000, 24, 30)
    plain = topk(k=9, **given)
    wide_q, wide_i = torch.zeros(20, 50), torch.zeros(24, 6000)
    wide_q[:, 1:49:2] = given["queries"]
    wide_i[:, ::2] = given["items"].T
    strided = {**given, "queries": wide_q[:, 1:49:2], "items": wide_i[:, ::2].T}
    assert not strided["items"].is_contiguous()
    for one, other in zip(plain, topk(k=9, **strided), strict=True):
        assert torch.equal(one, other)


@needs_kernels
def test_threads_and_batches_change_no_bit() -> None:
    given = task(300, 7000, 40, 100)
    targets = torch.arange(300)
    before = torch.get_num_threads()
    outs = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            outs.append((*topk(k=25, **given), rank_of(targets=targets, **given)))
    finally:
        torch.set_num_threads(before)
    for other in outs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(outs[0], other, strict=True))
    at = given["seen_indptr"][100:102]
    alone = topk(
        given["queries"][100:101],
        given["items"],
        25,
        bias=given["bias"],
        seen_indptr=at - at[0],
        seen_items=given["seen_items"][at[0] : at[1]],
    )
    assert torch.equal(alone[0][0], outs[0][0][100])
    assert torch.equal(alone[1][0], outs[0][1][100])


SCRIPT = """
import sys, torch
sys.path.insert(0, {tests!r})
from test_retrieval import task
from recengine.ops import rank_of, topk
given = task(50, 6000, 40, 200)
s, i = topk(k=30, **given)
r = rank_of(targets=torch.arange(50), **given)
fs, fi = topk(given["queries"][:3], given["items"], 30)  # few users: another way through the table
print((s.double().sum() + fs.double().sum()).item().hex(), i.sum().item() + fi.sum().item(), r.sum().item())
"""


@needs_kernels
def test_few_users_of_a_large_table_get_what_many_get() -> None:
    """Few users are scored without the screen that many are worth: the same bits."""
    g = torch.Generator().manual_seed(5)
    items, queries = torch.randn(70_000, 24, generator=g), torch.randn(130, 24, generator=g)
    scores, ids = topk(queries, items, 12)
    ranks = rank_of(queries, items, torch.arange(130))
    for rows in (slice(0, 1), slice(3, 20), slice(0, 127)):
        few_scores, few_ids = topk(queries[rows], items, 12)
        assert torch.equal(few_ids, ids[rows])
        assert torch.equal(few_scores, scores[rows])
        assert torch.equal(rank_of(queries[rows], items, torch.arange(130)[rows]), ranks[rows])


@needs_kernels
@pytest.mark.slow
def test_instruction_sets_agree() -> None:
    """With fused multiply-add (AVX2 and up) every path gives the same bits; the baseline the same ids."""
    said = {}
    for isa in ("", "avx512", "avx2", "baseline"):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT.format(tests=os.path.dirname(__file__))],
            env={**os.environ, "RECENGINE_ISA": isa, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
        said[isa] = done.stdout.splitlines()[-1].split()
    if native().isa != "baseline":
        assert said[""] == said["avx512"] == said["avx2"]
    assert said[""][1:] == said["baseline"][1:]


BAD = [
    ({"queries": torch.zeros(2)}, "queries"),
    ({"items": torch.zeros(5, 3)}, "items"),
    ({"items": torch.zeros(5, 4, dtype=torch.bfloat16)}, "items"),
    ({"queries": torch.zeros(2, 4, dtype=torch.int64)}, "queries"),
    ({"bias": torch.zeros(4)}, "bias"),
    ({"seen_indptr": torch.tensor([0, 1, 1])}, "seen_items"),
    ({"seen_indptr": torch.tensor([0, 1]), "seen_items": torch.tensor([0])}, "seen_indptr"),
    ({"seen_indptr": torch.tensor([0, 2, 1]), "seen_items": torch.tensor([0])}, "seen_indptr"),
    ({"seen_indptr": torch.tensor([0, 0, 2]), "seen_items": torch.tensor([0])}, "seen_indptr"),
    ({"seen_indptr": torch.tensor([0, 0, 1]), "seen_items": torch.tensor([5])}, "seen_items"),
    ({"seen_indptr": torch.tensor([0, 0, 1]), "seen_items": torch.tensor([-1])}, "seen_items"),
    ({"seen_indptr": torch.tensor([0, 0, 1]), "seen_items": torch.tensor([1.0])}, "seen_items"),
]


@pytest.mark.parametrize("function", [topk, topk_reference])
@pytest.mark.parametrize(("change", "name"), BAD)
def test_bad_arguments_are_named(function: object, change: dict[str, Tensor], name: str) -> None:
    arguments = {"queries": torch.zeros(2, 4), "items": torch.zeros(5, 4), "k": 3, **change}
    with pytest.raises(RuntimeError, match=name):
        function(**arguments)  # type: ignore[operator]


@pytest.mark.parametrize("function", [topk, topk_reference])
@pytest.mark.parametrize("k", [0, -1, 1001])
def test_k_out_of_range(function: object, k: int) -> None:
    with pytest.raises(RuntimeError, match="k is"):
        function(torch.zeros(2, 4), torch.zeros(5, 4), k)  # type: ignore[operator]


@pytest.mark.parametrize("function", [rank_of, rank_of_reference])
@pytest.mark.parametrize(
    "targets", [torch.tensor([0, 5]), torch.tensor([-1, 0]), torch.tensor([0]), torch.zeros(2)]
)
def test_bad_targets_are_named(function: object, targets: Tensor) -> None:
    with pytest.raises(RuntimeError, match="targets"):
        function(torch.zeros(2, 4), torch.zeros(5, 4), targets)  # type: ignore[operator]


@needs_kernels
def test_opcheck() -> None:
    given = task(6, 200, 8, 5)
    arguments = (given["queries"], given["items"], given["bias"], given["seen_indptr"], given["seen_items"])
    opcheck(torch.ops.recengine.topk, (*arguments, 7))
    opcheck(torch.ops.recengine.topk, (*arguments[:2], None, None, None, 7))
    opcheck(torch.ops.recengine.rank_of, (*arguments[:2], torch.arange(6), *arguments[2:]))


@needs_kernels
def test_compile_and_export() -> None:
    class Retrieve(torch.nn.Module):
        def __init__(self, items: Tensor) -> None:
            super().__init__()
            self.items = torch.nn.Parameter(items)

        def forward(self, queries: Tensor) -> tuple[Tensor, Tensor]:
            return topk(queries * 2, self.items, 5)

    given = task(6, 200, 8, 5)
    module = Retrieve(given["items"])
    compiled = torch.compile(module, fullgraph=True, dynamic=True)
    for rows in (6, 3):
        found, wanted = compiled(given["queries"][:rows]), module(given["queries"][:rows])
        assert torch.equal(found[1], wanted[1])
    program = torch.export.export(
        module, (given["queries"],), dynamic_shapes=({0: torch.export.Dim("rows")},)
    )
    assert torch.equal(program.module()(given["queries"][:4])[1], module(given["queries"][:4])[1])


@needs_kernels
def test_nothing_of_the_size_of_the_scores_is_allocated() -> None:
    """40 MB of scores must not exist: the resident set rises by far less."""
    script = """
import torch
from recengine.ops import topk
def status(key):
    return next(int(l.split()[1]) / 1024 for l in open('/proc/self/status') if l.startswith(key))
q, x = torch.randn(1000, 16), torch.randn(100000, 16)
topk(q[:64], x[:5000], 10)
open('/proc/self/clear_refs', 'w').write('5')
before = status('VmRSS')
topk(q, x, 10)
print(status('VmHWM') - before)
"""
    if not os.path.exists("/proc/self/clear_refs"):
        pytest.skip("needs Linux")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert float(done.stdout.split()[-1]) < 64


def test_reference_runs_in_float64() -> None:
    scores, ids = topk(torch.eye(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64), 1)
    assert scores.dtype == torch.float64
    assert ids.tolist() == [[0], [1]]
