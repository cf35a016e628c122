"""The operators on a GPU beside eager and compiled torch and what else is installed: one table.

    python bench/gpu/bench_ops.py [--quick] [--seconds 300]

Time is the median of single calls between CUDA events, after warm-up. Beside it: the fraction of the copy
bandwidth or of the bfloat16 matrix rate that this device reached in the same run, and the peak memory.
A candidate that fails (out of memory, a missing feature) is listed with its error. Cases that no longer fit
into --seconds are left out and named. A row is printed and written as soon as it is measured.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from recengine.ops import (
    Experts,
    cosine_attention,
    embedding_bag_sum,
    grouped_swiglu,
    linear_cross_entropy,
    mix_norm,
    route,
    sampled_logsumexp,
    topk,
)
from recengine.ops._library import native

ROOT = Path(__file__).resolve().parents[2]
OURS = "recengine"
Candidates = dict[str, Callable[[], object]]


@dataclass(frozen=True)
class Case:
    """flop or traffic (bytes): what the mathematics needs; target: the share of that bound aimed at."""

    name: str
    build: Callable[[], Candidates]
    flop: float = 0.0
    traffic: float = 0.0
    target: float | None = None


def randn(*shape: int, dtype: torch.dtype = torch.bfloat16, grad: bool = False) -> Tensor:
    return torch.randn(*shape, device="cuda").to(dtype).requires_grad_(grad)


def timed(form: Callable[..., Tensor], inputs: tuple[Tensor, ...], backward: bool) -> Callable[[], object]:
    if not backward:
        return lambda: form(*inputs)
    leaves = tuple(t for t in inputs if t.requires_grad)

    def call() -> object:
        out = form(*inputs)
        return torch.autograd.grad(out, leaves, torch.ones_like(out))

    return call


def attention(B: int, H: int, S: int, d: int, backward: bool) -> Candidates:
    qkv, m = (
        randn(B, S, 3, H, d, grad=backward),
        torch.full((H,), 0.5, device="cuda").requires_grad_(backward),
    )

    def plain(qkv: Tensor, m: Tensor) -> Tensor:
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        q, k = functional.normalize(q, dim=-1), functional.normalize(k, dim=-1)
        scale = float(S) ** -torch.sigmoid(m)[None, :, None, None].to(qkv.dtype)
        return (q @ (k.transpose(-1, -2) @ v) * scale).transpose(1, 2)

    def softmax(qkv: Tensor, m: Tensor) -> Tensor:
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2) + 0 * m.sum().to(qkv.dtype)

    forms = {
        OURS: lambda qkv, m: cosine_attention(qkv, m=m),
        "eager": plain,
        "compile": torch.compile(plain, dynamic=False),
        "sdpa (softmax)": softmax,
    }
    if importlib.util.find_spec("fla") is not None:
        from fla.ops.linear_attn import chunk_linear_attn

        def chunked(qkv: Tensor, m: Tensor) -> Tensor:
            q, k, v = qkv.unbind(2)
            q, k = functional.normalize(q, dim=-1), functional.normalize(k, dim=-1)
            return chunk_linear_attn(q, k, v, normalize=False)[0] + 0 * m.sum().to(qkv.dtype)

        forms["fla chunk (causal)"] = chunked
    return {name: timed(form, (qkv, m), backward) for name, form in forms.items()}


def mixing(B: int, T: int, D: int) -> Candidates:
    x, weight = randn(B, T, D, grad=True), randn(D, grad=True)

    def plain(x: Tensor, weight: Tensor) -> Tensor:
        mixed = x.view(B, T, T, D // T).transpose(1, 2).reshape(B, T, D)
        return functional.rms_norm(mixed + x, (D,), weight, 1e-6)

    forms: dict[str, Callable[..., Tensor]] = {
        OURS: lambda x, weight: mix_norm(x, weight, T, residual=x),
        "eager": plain,
        "compile": torch.compile(plain, dynamic=False),
    }
    if importlib.util.find_spec("liger_kernel") is not None:
        from liger_kernel.ops.rms_norm import LigerRMSNormFunction

        def liger(x: Tensor, weight: Tensor) -> Tensor:
            mixed = x.view(B, T, T, D // T).transpose(1, 2).reshape(B, T, D)
            return LigerRMSNormFunction.apply(mixed + x, weight, 1e-6)

        forms["liger RMSNorm"] = liger
    return {name: timed(form, (x, weight), True) for name, form in forms.items()}


def bank(*shape: int, grad: bool) -> tuple[Tensor, Tensor, Tensor]:
    *lead, width, hidden = shape
    gate, up = (randn(*shape) / width**0.5 for _ in range(2))
    down = randn(*lead, hidden, width) / hidden**0.5
    return tuple(w.detach().requires_grad_(grad) for w in (gate, up, down))  # type: ignore[return-value]


def dense(B: int, T: int, D: int, F: int, backward: bool) -> Candidates:
    x, weights = randn(B, T, D, grad=backward), bank(T, D, F, grad=backward)

    def plain(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
        y = x.transpose(0, 1)
        return torch.bmm(functional.silu(torch.bmm(y, gate)) * torch.bmm(y, up), down).transpose(0, 1)

    forms: dict[str, Callable[..., Tensor]] = {
        OURS: lambda x, *w: grouped_swiglu(x, Experts(*w)),
        "eager bmm": plain,
        "compile bmm": torch.compile(plain, dynamic=False),
    }
    return {name: timed(form, (x, *weights), backward) for name, form in forms.items()}


def sparse(B: int, T: int, D: int, E: int, k: int, F: int) -> Candidates:
    x, router, own = (
        randn(B, T, D, grad=True),
        randn(T, D, E, dtype=torch.float32),
        bank(T, E, D, F, grad=True),
    )

    def ours(x: Tensor, *w: Tensor) -> Tensor:
        return grouped_swiglu(x, Experts(*w), route(x, router, k))

    def grouped(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
        logits, ids = torch.einsum("btd,tde->bte", x.float(), router).topk(k, -1)
        place = torch.arange(T, device="cuda")[None, :, None] * E + ids
        order = place.flatten().argsort(stable=True)
        offsets = torch.bincount(place.flatten(), minlength=T * E).cumsum(0).to(torch.int32)
        token = order // k
        rows = x.reshape(-1, D)[token]
        inner = functional.silu(torch._grouped_mm(rows, gate.flatten(0, 1), offs=offsets))
        inner = inner * torch._grouped_mm(rows, up.flatten(0, 1), offs=offsets)
        outer = torch._grouped_mm(inner, down.flatten(0, 1), offs=offsets)
        outer = outer * logits.softmax(-1).flatten()[order, None].to(x.dtype)
        return torch.zeros_like(x).reshape(-1, D).index_add(0, token, outer).reshape(x.shape)

    return {
        name: timed(form, (x, *own), True) for name, form in {OURS: ours, "eager grouped_mm": grouped}.items()
    }


def catalogue(R: int, V: int, d: int) -> Candidates:
    hidden, weight = randn(R, d, grad=True), randn(V, d, grad=True)
    target = torch.randint(0, V, (R,), device="cuda")

    def plain(hidden: Tensor, weight: Tensor) -> Tensor:
        return functional.cross_entropy((hidden @ weight.t()).float(), target)

    forms: dict[str, Callable[..., Tensor]] = {
        OURS: lambda hidden, weight: linear_cross_entropy(hidden, weight, target),
        "eager": plain,
        "compile": torch.compile(plain, dynamic=False),
    }
    if importlib.util.find_spec("liger_kernel") is not None:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

        fused = LigerFusedLinearCrossEntropyLoss()
        forms["liger fused CE"] = lambda hidden, weight: fused(weight, hidden, target)
    return {name: timed(form, (hidden, weight), True) for name, form in forms.items()}


def sampled(R: int, N: int, V: int, d: int) -> Candidates:
    anchors, table = randn(R, d, grad=True), randn(V, d, grad=True)
    negatives = torch.randint(0, V, (R, N), device="cuda")

    def plain(anchors: Tensor, table: Tensor) -> Tensor:
        return torch.bmm(table[negatives], anchors[:, :, None]).squeeze(2).float().logsumexp(1)

    forms: dict[str, Callable[..., Tensor]] = {
        OURS: lambda anchors, table: sampled_logsumexp(anchors, table, negatives),
        "eager": plain,
        "compile": torch.compile(plain, dynamic=False),
    }
    return {name: timed(form, (anchors, table), True) for name, form in forms.items()}


def ranking(B: int, V: int, d: int, k: int) -> Candidates:
    queries, items = randn(B, d), randn(V, d)

    def chunked() -> list[Tensor]:
        return [(part @ items.t()).float().topk(k).indices for part in queries.split(1024)]

    return {OURS: lambda: topk(queries, items, k), "matmul + topk": chunked}


def bags(V: int, B: int, L: int, d: int) -> Candidates:
    table, ids = randn(V, d, dtype=torch.float32), torch.randint(0, V, (B * L,), device="cuda")
    offsets = torch.arange(B + 1, device="cuda") * L

    def theirs() -> Tensor:
        return functional.embedding_bag(ids, table, offsets, mode="sum", include_last_offset=True)

    return {OURS: lambda: embedding_bag_sum(table, ids, offsets), "embedding_bag": theirs}


def cases(quick: bool) -> list[Case]:
    n = 8 if quick else 1
    found = []
    B, H, S, d = 256 // n, 8, 1000, 64
    for backward, target in ((False, 0.8), (True, 0.6)):
        found.append(
            Case(
                f"cosine attention bf16 {'f+b' if backward else 'fwd'} B{B} H{H} S{S} d{d}",
                lambda backward=backward: attention(B, H, S, d, backward),
                traffic=B * S * H * d * 2.0 * (11 if backward else 4),
                target=target,
            )
        )
    M, T, D = 4096 // n, 16, 1024
    found.append(
        Case(
            f"token mixing bf16 f+b B{M} T{T} D{D}",
            lambda: mixing(M, T, D),
            traffic=M * T * D * 10.0,
            target=0.8,
        )
    )
    R = 2048 // n
    product = 6.0 * R * 16 * 768 * 3072
    found.append(
        Case(
            f"SwiGLU bf16 fwd B{R} T16 D768 n4",
            lambda: dense(R, 16, 768, 3072, False),
            flop=product,
            target=0.6,
        )
    )
    found.append(
        Case(f"SwiGLU bf16 f+b B{R} T16 D768 n4", lambda: dense(R, 16, 768, 3072, True), flop=3 * product)
    )
    found.append(
        Case(
            f"MoE 1:2 bf16 f+b B{R} T16 D768 E4 k2",
            lambda: sparse(R, 16, 768, 4, 2, 768),
            flop=3 * 6.0 * R * 16 * 768 * 768 * 2,
            target=0.5,
        )
    )
    rows, items = 4096 // n, 50_000
    found.append(
        Case(
            f"catalogue CE bf16 f+b {rows} x {items} x 64",
            lambda: catalogue(rows, items, 64),
            flop=6.0 * rows * items * 64,
        )
    )
    found.append(
        Case(
            f"sampled LSE bf16 f+b {rows} x 1000 x 64",
            lambda: sampled(rows, 1000, items, 64),
            traffic=3.0 * rows * 1000 * 64 * 2,
        )
    )
    found.append(
        Case(
            f"top-20 bf16 {6000 // n} x 200000 x 64",
            lambda: ranking(6000 // n, 200_000, 64, 20),
            flop=2.0 * (6000 // n) * 200_000 * 64,
        )
    )
    found.append(
        Case(
            "bag sum fp32 V1M B16384 L50 d64",
            lambda: bags(1_000_000, 16_384 // n, 50, 64),
            traffic=16_384 / n * 51 * 256,
        )
    )
    return found


def milliseconds(call: Callable[[], object], seconds: float) -> float:
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while len(taken) < 5 or (time.perf_counter() < end and len(taken) < 200):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        stop.record()
        stop.synchronize()
        taken.append(start.elapsed_time(stop))
    return statistics.median(taken)


def peak_memory(call: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def limits() -> dict[str, float]:
    """GB/s copied (both directions) and TFLOP/s of a bfloat16 product, as this device does them."""
    a = torch.empty(2**28, dtype=torch.float32, device="cuda")
    b = torch.empty_like(a)
    copy = 2 * a.numel() * 4 / milliseconds(lambda: b.copy_(a), 0.5) / 1e6
    x, y = randn(8192, 8192), randn(8192, 8192)
    return {"copy_gbytes": copy, "bf16_tflops": 2 * 8192.0**3 / milliseconds(lambda: x @ y, 0.5) / 1e9}


def measure(case: Case, seconds: float) -> dict[str, Any]:
    row: dict[str, Any] = {"case": case.name, "ms": {}, "memory_mb": {}, "errors": {}, "target": case.target}
    for name, call in case.build().items():
        try:
            row["ms"][name] = milliseconds(call, seconds)
            row["memory_mb"][name] = peak_memory(call)
        except Exception as error:  # a candidate that cannot run here is a result, not the end of the table
            row["errors"][name] = (
                f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            )
            torch.cuda.empty_cache()
    return row


def heading(record: dict[str, Any]) -> str:
    about, top = record["facts"], record["limits"]
    lines = [
        "# Operators on a GPU",
        "",
        f"{about['device']}, torch {about['torch']}, CUDA {about['cuda']}, {about['date']}.",
        f"Measured: copy {top['copy_gbytes']:.0f} GB/s, bfloat16 product {top['bf16_tflops']:.0f} TFLOP/s.",
        f"Median milliseconds. Command: `{record['command']}`.",
        "",
        "| case | ours | of the bound | target | times faster than | peak MB, ours / theirs |",
        "|---|---|---|---|---|---|",
    ]
    return "\n".join(lines)


def line(row: dict[str, Any]) -> str:
    ours, rivals = row["ms"].get(OURS), {k: v for k, v in row["ms"].items() if k != OURS}
    against = ", ".join(f"{name} {ms / ours:.2f}" for name, ms in rivals.items()) if ours else ""
    against += "".join(f", {name}: {what}" for name, what in row["errors"].items())
    memory = row["memory_mb"]
    share = f"{100 * row['fraction']:.0f} % of {row['bound']}" if "fraction" in row else ""
    target = f"{100 * row['target']:.0f} %" if row["target"] else ""
    theirs = min((mb for name, mb in memory.items() if name != OURS), default=float("nan"))
    own = "failed" if ours is None else f"{ours:.3g}"
    peaks = f"{memory.get(OURS, float('nan')):.0f} / {theirs:.0f}"
    return f"| {row['case']} | {own} | {share} | {target} | {against} | {peaks} |"


def markdown(record: dict[str, Any]) -> str:
    lines = [heading(record), *map(line, record["rows"])]
    if record["left_out"]:
        lines += ["", "Left out, no time: " + "; ".join(record["left_out"]) + "."]
    return "\n".join(lines) + "\n"


def save(record: dict[str, Any]) -> None:
    """As far as it goes: what is killed later keeps it."""
    results = ROOT / "bench" / "results"
    (results / "gpu_ops.json").write_text(json.dumps(record, indent=1) + "\n")
    (results / "gpu_ops.md").write_text(markdown(record))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small shapes, nothing written to bench/results")
    parser.add_argument("--seconds", type=float, default=300.0, help="stop starting cases after this long")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("bench_ops.py: torch finds no CUDA device here")
    if not native().cuda:
        raise SystemExit(f"bench_ops.py: no CUDA kernels: {native().cuda_reason}")
    torch.manual_seed(0)
    end = time.perf_counter() + options.seconds
    facts = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
    }
    planned = cases(options.quick)
    record: dict[str, Any] = {
        "command": "bench/gpu/run.sh",
        "facts": facts,
        "limits": limits(),
        "seed": 0,
        "rows": [],
        "left_out": [case.name for case in planned],  # until it is measured
    }
    print(heading(record), flush=True)
    for case in planned:
        if time.perf_counter() > end:
            break
        row = measure(case, 0.1 if options.quick else 0.5)
        ours, top = row["ms"].get(OURS), record["limits"]
        if ours and case.flop:
            row["fraction"], row["bound"] = case.flop / ours / 1e9 / top["bf16_tflops"], "matrix rate"
        elif ours and case.traffic:
            row["fraction"], row["bound"] = case.traffic / ours / 1e6 / top["copy_gbytes"], "copy"
        record["rows"].append(row)
        record["left_out"].remove(case.name)
        print(line(row), flush=True)
        if not options.quick:
            save(record)
    if record["left_out"]:
        print("\nLeft out, no time: " + "; ".join(record["left_out"]) + ".")


if __name__ == "__main__":
    main()
