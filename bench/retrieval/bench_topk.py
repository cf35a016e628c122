"""Full-ranking top-k with seen items masked, beside chunked plain torch and implicit.

    python bench/retrieval/bench_topk.py [--quick] [--threads 1 2] [--malloc default tuned] [--claim ID]

Torch is given several chunk sizes, eager and compiled, and the best counts. implicit 0.7.3 runs in its own
environment (bench/peers/install.py implicit), turn by turn with the others through a pipe (its reply costs
well under a millisecond); where it is not installed the table lacks it and says so. With RECENGINE_ISA=avx512
in the environment the bf16 screen is off: that is what processors without matrix tiles get.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "native"), str(HERE.parent)]

from common import OURS, Case, main  # noqa: E402

from peers.runner import interpreter  # noqa: E402

WIDTH, SEEN = 64, 110


def data(users: int, items: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Gaussian vectors; each user has seen 55 to 220 items, ascending ids."""
    g = torch.Generator().manual_seed(0)
    queries = torch.randn(users, WIDTH, generator=g).to(dtype)
    table = torch.randn(items, WIDTH, generator=g).to(dtype)
    counts = torch.randint(SEEN // 2, SEEN * 2, (users,), generator=g)
    rows = torch.repeat_interleave(torch.arange(users), counts)
    seen = torch.randint(0, items, (rows.numel(),), generator=g)
    keys = (rows * items + seen).sort().values
    return queries, table, torch.nn.functional.pad(counts.cumsum(0), (1, 0)), keys % items, rows


def best_of_chunk(
    queries: torch.Tensor, table: torch.Tensor, rows: torch.Tensor, seen: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    scores = queries @ table.T
    scores[rows, seen] = -torch.inf
    best = scores.topk(k)
    return best.values, best.indices


def chunked(
    size: int,
    k: int,
    given: tuple[torch.Tensor, ...],
    chunk: Callable[..., tuple[torch.Tensor, torch.Tensor]] = best_of_chunk,
) -> tuple[torch.Tensor, torch.Tensor]:
    queries, table, indptr, seen, rows = given
    bounds = indptr.tolist()
    values, ids = [], []
    for begin in range(0, queries.shape[0], size):
        end = min(begin + size, queries.shape[0])
        part = slice(bounds[begin], bounds[end])
        own_values, own_ids = chunk(queries[begin:end], table, rows[part] - begin, seen[part], k)
        values.append(own_values)
        ids.append(own_ids)
    return torch.cat(values), torch.cat(ids)


def ours(k: int, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    from recengine.ops import topk

    queries, table, indptr, seen, _ = given
    return topk(queries, table, k, seen_indptr=indptr, seen_items=seen)


def implicit(k: int, given: tuple[torch.Tensor, ...]) -> Callable[[], object] | None:
    python = interpreter("implicit")
    if not python.exists():
        print(
            f"implicit is not installed ({python}): python bench/peers/install.py implicit", file=sys.stderr
        )
        return None
    folder = tempfile.TemporaryDirectory()
    for name, tensor in zip(("queries", "items", "indptr", "seen"), given, strict=False):
        np.save(Path(folder.name) / f"{name}.npy", tensor.numpy())
    threads = str(torch.get_num_threads())
    surroundings = {**os.environ, "OPENBLAS_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    surroundings.pop("PYTHONPATH", None)
    process = subprocess.Popen(
        [python, HERE / "implicit_topk.py", folder.name, str(k), threads],
        env=surroundings,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(folder.cleanup)
    atexit.register(process.kill)

    def call() -> object:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("go\n")
        process.stdin.flush()
        return process.stdout.readline()

    return call


def build(users: int, items: int, k: int, dtype: torch.dtype) -> dict[str, Callable[[], object]]:
    given = data(users, items, dtype)
    candidates: dict[str, Callable[[], object]] = {OURS: partial(ours, k, given)}
    compiled = torch.compile(best_of_chunk, dynamic=True)
    for size in (64, 256, 1024):
        candidates[f"torch, {size} users a chunk"] = partial(chunked, size, k, given)
        if size > 64:
            name = f"torch compiled, {size} users a chunk"
            candidates[name] = partial(chunked, size, k, given, compiled)
    peer = implicit(k, given) if dtype == torch.float32 else None
    if peer is not None:
        candidates["implicit"] = peer
    exact = (given[0].float(), given[1].float(), *given[2:])  # torch rounds the scores of bfloat16: ties
    found, wanted = candidates[OURS](), chunked(256, k, exact)
    same = float((found[1] == wanted[1]).float().mean())  # type: ignore[index]
    if same < 0.9999:  # float32 rounding may swap neighbours
        sys.exit(f"the answers differ: {same:.6f} of the ids agree")
    return candidates


def cases(quick: bool) -> list[Case]:
    def case(users: int, items: int, k: int, dtype: torch.dtype = torch.float32, **claims: str) -> Case:
        scaled = users // 10 if quick and items > 100_000 else users
        kind = "" if dtype == torch.float32 else " bfloat16"
        return Case(
            f"top-{k} {users}x{items}x{WIDTH}{kind}",
            partial(build, scaled, items, k, dtype),
            flop=2.0 * scaled * items * WIDTH,
            **claims,  # type: ignore[arg-type]
        )

    return [
        case(5000, 20_000, 10, claim="foundation.topk-speed"),
        case(6000, 3_700, 20, claim="native.topk-3700"),
        case(6000, 200_000, 20, claim="native.topk-200k", memory_claim="foundation.topk-memory-mb"),
        case(6000, 3_700, 20, torch.bfloat16, claim="native.topk-3700_bf16"),
        case(6000, 200_000, 20, torch.bfloat16, claim="native.topk-200k_bf16"),
    ]


if __name__ == "__main__":
    main("Full-ranking top-k with seen items masked", cases)
