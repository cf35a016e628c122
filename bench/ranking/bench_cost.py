"""Cost of TokenMixer-Large: weights and operations against the formulas, time against plain torch, export.

    python bench/ranking/bench_cost.py [--preset 1m] [--rows 512] [--repeats 7] [--quick]

The plain twin computes the same blocks with torch.einsum and reads the same weights; eager and compiled. The
three take turns in one process, medians are told. Sparse: the twin multiplies by every expert and masks.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional


def main() -> None:
    """Measure and print one JSON line a claim."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="1m")
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    if given.quick:
        given.preset, given.rows, given.repeats = "10k", 64, 2
    dense, sparse = build(given.preset, {}), build(given.preset, {"experts": 8, "active": 4})
    print(
        json.dumps(
            {
                "claim": "ranking.parameter-formula",
                "figure": abs(formula_gap(dense)) + abs(formula_gap(sparse)),
            }
        )
    )
    print(json.dumps({"claim": "ranking.active-share", "figure": active_gap(sparse)}))
    print(json.dumps({"claim": "ranking.export-error", "figure": export_error(sparse)}))
    print(json.dumps({"claim": "ranking.aoti-error", "figure": aoti_error(sparse)}))
    for rows, ms in latencies(sparse).items():
        print(json.dumps({"claim": f"ranking.latency-{rows}-ms", "figure": round(ms, 3)}))
    print(json.dumps({"claim": "ranking.bf16-auc-change", "figure": bf16_change(1 if given.quick else 8)}))
    for blocks in (4, 8, 16, 32):
        with_aids, without = (gradient_spread(blocks, aids) for aids in (True, False))
        print(f"gradient norms of {blocks} blocks, smallest over largest: {with_aids:.4f}")
        print(f"the same without the depth aids: {without:.4f}")
    print(json.dumps({"claim": "ranking.depth-gradient", "figure": round(with_aids, 4)}))
    print(json.dumps({"claim": "ranking.permute-kernels", "figure": permutes(sparse, given.rows)}))
    for name, model in (("dense", dense), ("sparse", sparse)):
        for stage in ("train", "serve"):
            eager, compiled = race(model, given.rows, given.repeats, stage)
            print(json.dumps({"claim": f"ranking.{name}-{stage}-over-eager", "figure": round(eager, 2)}))
            print(
                json.dumps({"claim": f"ranking.{name}-{stage}-over-compiled", "figure": round(compiled, 2)})
            )


def build(preset: str, more: dict[str, Any]) -> Any:
    """The registered model for the planted click log."""
    from recengine.contracts.model import DataFacts
    from recengine.hooks import host
    from recengine.training import resolve
    from recengine.training.build import build_model

    settings = {"preset": preset, "tokens": 0, "heads": 0, **more}
    config = resolve("tokenmixer_large", {"model": settings}, host())
    return build_model("tokenmixer_large", config, DataFacts(0, 0, split().extras()), 0, host())


def split() -> Any:
    """The planted click log, prepared."""
    from recengine.data.clicks import prepare
    from recengine.testing import planted_clicks

    return prepare(planted_clicks(2000))


def formula_gap(model: Any) -> int:
    """Weights of the blocks less what the formula says."""
    from recengine_plugins.tokenmixer_large import counting

    own = sum(p.numel() for p in model.blocks.parameters())
    return own - counting.blocks(model.config, model.tokens.tokens).weights


def active_gap(model: Any) -> float:
    """Distance of the operations that rows really meet, over the dense ones, from k / E."""
    c = model.config
    x = torch.randn(256, model.tokens.tokens, c.hidden_dim)
    part = model.blocks[0].reverted
    inner = part.bank.gate.shape[-1]
    met = int(part.load(x).sum()) * inner + x.shape[0] * x.shape[1] * inner
    return abs(met / (x.shape[0] * x.shape[1] * c.expansion * c.hidden_dim) - c.active / c.experts)


def export_error(model: Any) -> float:
    """Largest difference of an exported, saved and loaded program."""
    from recengine.contracts.batch import FeatureBatch
    from recengine.serving.rankers import export_ranker, load_program, save_program

    batch = FeatureBatch(**split().test.take(np.arange(100)).tensors())
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = save_program(export_ranker(model.eval(), batch), Path(folder) / "ranker.pt2")
        return float((load_program(path)(batch.features) - model.predict(batch)).abs().max())


def aoti_error(model: Any) -> float | None:
    """The same of an AOTInductor package; None, and a line that says why, where it cannot be made."""
    from recengine.contracts.batch import FeatureBatch
    from recengine.serving.rankers import export_ranker

    batch = FeatureBatch(**split().test.take(np.arange(100)).tensors())
    inductor: Any = torch._inductor
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = str(Path(folder) / "ranker.pt2")
        try:
            inductor.aoti_compile_and_package(export_ranker(model.eval(), batch), package_path=path)
            got = inductor.aoti_load_package(path)(batch.features)
        except Exception as failed:
            print(f"no AOTInductor package: {type(failed).__name__}: {str(failed).splitlines()[0]}")
            return None
        return float((got - model.predict(batch)).abs().max())


def latencies(model: Any) -> dict[int, float]:
    """Median milliseconds of the exported program by rows of a batch."""
    from recengine.contracts.batch import FeatureBatch
    from recengine.serving.rankers import Program, export_ranker

    table, found = split().test, {}
    example = FeatureBatch(**table.take(np.arange(8)).tensors())
    program = Program(export_ranker(model.eval(), example).module())
    for rows in (1, 500):
        batch = FeatureBatch(**table.take(np.arange(rows) % len(table)).tensors())
        times = []
        with torch.no_grad():
            for _ in range(60):
                began = time.perf_counter()
                program(batch.features)
                times.append(1e3 * (time.perf_counter() - began))
        found[rows] = statistics.median(times[10:])
    return found


def bf16_change(epochs: int) -> float:
    """|AUC in float32 - AUC with the blocks in bfloat16| of a trained ranker on the planted log."""
    from recengine.contracts.batch import FeatureBatch
    from recengine.evaluation.clicks import auc
    from recengine.testing import planted_clicks
    from recengine.training import fit

    settings = {"model": {"preset": "100k", "tokens": 0}, "training": {"epochs": epochs, "batch_size": 256}}
    run: Any = fit("tokenmixer_large", planted_clicks(20_000), settings=settings)
    table, found = run.split.test, []
    for low in (False, True):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=low):
            parts = [run.model.predict(FeatureBatch(**one.tensors())).float() for one in table.batches()]
        found.append(auc(table.labels, torch.cat(parts).numpy()))
    return round(abs(found[0] - found[1]), 6)


def gradient_spread(blocks: int, aids: bool) -> float:
    """Smallest over largest gradient norm of the blocks' weights in the first training step."""
    from recengine.contracts.batch import FeatureBatch, StepContext

    more = {} if aids else {"skip": 0, "auxiliary": 0.0}
    torch.manual_seed(0)
    model = build("10k", {"n_blocks": blocks, **more}).train()
    batch = FeatureBatch(**split().train.take(np.arange(512)).tensors())
    model.training_loss(batch, StepContext()).backward()
    norms = [
        sum(float(p.grad.square().sum()) for p in block.parameters() if p.grad is not None) ** 0.5
        for block in model.blocks
    ]
    return min(norms) / max(norms)


def permutes(model: Any, rows: int) -> int:
    """Copies, gathers and scatters of tokens in the profile of the blocks, forward and backward."""
    x = torch.randn(rows, model.tokens.tokens, model.config.hidden_dim, requires_grad=True)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        y = x
        for block in model.train().blocks:
            y = block(y)
        y.sum().backward()
    suspects = ("permute", "gather", "scatter", "index", "transpose", "aten::copy_", "contiguous", "clone")
    return sum(event.count for event in profile.key_averages() if any(one in event.key for one in suspects))


class Plain(torch.nn.Module):
    """The same blocks in plain torch, on the weights of ``model``."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.blocks = model.blocks

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            mixed = mix(x, block.heads)
            mixed = mixed + fed(block.mixed, rms(mixed, block.mixed_norm))
            reverted = mix(mixed, block.tokens)
            x = x + fed(block.reverted, rms(reverted, block.reverted_norm))
        return x


class Ours(torch.nn.Module):
    """The blocks as they are."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.blocks = model.blocks

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def mix(x: torch.Tensor, heads: int) -> torch.Tensor:
    """View, transpose, copy."""
    b, t, d = x.shape
    return x.view(b, t, heads, d // heads).transpose(1, 2).reshape(b, heads, -1)


def rms(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """RMSNorm."""
    return functional.rms_norm(x, (x.shape[-1],), scale, 1e-6)


def fed(part: Any, x: torch.Tensor) -> torch.Tensor:
    """Dense: three batched products. Sparse: every expert, masked by the gates."""
    if not hasattr(part, "router"):
        return swiglu(x.transpose(0, 1), part.bank).transpose(0, 1)
    logits = torch.einsum("btd,tde->bte", x, part.router)
    top, chosen = logits.topk(part.k)
    gates = torch.zeros_like(logits).scatter(-1, chosen, top.softmax(-1))
    hidden = functional.silu(torch.einsum("btd,tedf->btef", x, part.bank.gate))
    hidden = hidden * torch.einsum("btd,tedf->btef", x, part.bank.up) * gates[..., None]
    routed = part.alpha * torch.einsum("btef,tefd->btd", hidden, part.bank.down)
    return routed + swiglu(x.transpose(0, 1), part.always).transpose(0, 1)


def swiglu(x: torch.Tensor, bank: Any) -> torch.Tensor:
    """[T, B, D] to [T, B, D]."""
    return (functional.silu(x @ bank.gate) * (x @ bank.up)) @ bank.down


def race(model: Any, rows: int, repeats: int, stage: str) -> tuple[float, float]:
    """Time of the twin, eager and compiled, over ours."""
    x = torch.randn(rows, model.tokens.tokens, model.config.hidden_dim)
    runners = {"ours": Ours(model), "eager": Plain(model), "compiled": torch.compile(Plain(model))}
    times: dict[str, list[float]] = {name: [] for name in runners}
    for turn in range(repeats + 2):
        for name, module in runners.items():
            began = time.perf_counter()
            if stage == "train":
                module.zero_grad(set_to_none=True)
                module(x).square().mean().backward()
            else:
                with torch.inference_mode():
                    module(x)
            if turn >= 2:
                times[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(found) for name, found in times.items()}
    return medians["eager"] / medians["ours"], medians["compiled"] / medians["ours"]


if __name__ == "__main__":
    main()
