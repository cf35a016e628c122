"""Cost of TokenMixer-Large: weights and operations against the formulas, time and memory against plain torch,
depth, export, serving in bfloat16.

    python bench/ranking/bench_cost.py --claim ID       what that claim needs, alone (five minutes at most)
    python bench/ranking/bench_cost.py --part NAME...   counts, permutes, depth, export, low, race
    python bench/ranking/bench_cost.py --part race --preset 10m --rows 2048
    python bench/ranking/bench_cost.py --quick

race: from the vectors of 20 features to the loss and its gradients (train) or to the logits (serve), the
engine's blocks beside a twin in plain torch that reads the same weights, eager and compiled. The twin's dense
SwiGLU is three batched products. Its sparse one multiplies by every expert and weighs (nothing is gathered;
this one compiled, too), or sorts the tokens and takes three products for each (token, expert) in a loop, or
torch._grouped_mm (inference, eager: else it is for bfloat16 only). The
candidates take turns, medians; memory in a process of its own each. Optimiser not included: it is the same
for all.
Figures join bench/results/ranking_cost.json, whose table is ranking_cost.md; on AMD ranking_cost_amd, and the
races are claims of their own there (another float32 peak, no matrix tiles).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from plain import Twin, by_groups, by_loop, quiet_compile

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "native"))
from common import RETURNED, alternate, extra_memory, facts, processor

HERE = Path(__file__).resolve().parent
KIND = "_amd" if "AMD" in processor() else ""
RESULT = HERE.parent / "results" / f"ranking_cost{KIND}.json"
FORMS: dict[str, dict[str, Any]] = {"dense": {}, "sparse": {"experts": 8, "active": 4}}
RACES = [
    f"ranking.{form}-{stage}-over-{rival}"
    for form in FORMS
    for stage in ("train", "serve")
    for rival in ("eager", "compiled")
]
PARTS: dict[str, tuple[str, ...]] = {
    "counts": ("ranking.parameter-formula", "ranking.active-share"),
    "permutes": ("ranking.permute-kernels",),
    "depth": ("ranking.depth-gradient", "ranking.depth-gradient-mean"),
    "export": (
        "ranking.export-error",
        "ranking.aoti-error",
        "ranking.latency-1-ms",
        "ranking.latency-500-ms",
    ),
    "low": ("ranking.bf16-auc-change",),
}
FEATURES, VALUES, DIM = 20, 1000, 16


def main() -> None:
    """Measure, keep, print one JSON line a claim; the one asked for last."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--claim")
    parser.add_argument("--part", nargs="+", choices=[*PARTS, "race"], default=[])
    parser.add_argument("--preset", default="100m")
    parser.add_argument("--form", nargs="+", choices=list(FORMS), default=list(FORMS))
    parser.add_argument("--stage", nargs="+", choices=["train", "serve"], default=["train", "serve"])
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--what", nargs="+", choices=["time", "memory"], default=["time", "memory"])
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.memory:
        calls = candidates(given.preset, given.form[0], given.stage[0], given.rows, checked=False)
        print(json.dumps({"mb": extra_memory(calls[given.memory])}))
        return
    parts = given.part or [name for name, claims in PARTS.items() if given.claim in claims]
    if str(given.claim).removesuffix(KIND) in RACES:
        words = str(given.claim).removeprefix("ranking.").split("-")
        parts, given.form, given.stage = ["race"], [words[0]], [words[1]]
    if given.quick and not parts:
        parts = [*PARTS, "race"]
    if given.quick:
        given.preset, given.rows, given.what = "10k", 64, ["time"]
    figures: dict[str, float | None] = {}
    kept: dict[str, Any] = {}
    for part in parts:
        if part == "race":
            for form in given.form:
                for stage in given.stage:
                    figures |= race(given.preset, form, stage, given.rows, given.what, kept)
        else:
            figures |= {
                "counts": counts, "permutes": permutes, "depth": depth, "export": export, "low": low
            }[part](given.quick, kept)  # fmt: skip
    if not given.quick:
        keep(kept)
    for claim in sorted(figures, key=lambda name: name == given.claim):
        print(json.dumps({"claim": claim, "figure": figures[claim]}))


def build(preset: str, more: dict[str, Any], extras: dict[str, Any] | None = None) -> Any:
    """The registered model for the data that ``extras`` tells of, with as many features as the preset has
    tokens; else for the planted click log with its few features, one token a group: then it has the preset's
    width, not its size."""
    from recengine.contracts.model import DataFacts
    from recengine.hooks import host
    from recengine.training import resolve
    from recengine.training.build import build_model

    settings = {"preset": preset, **({} if extras else {"tokens": 0, "heads": 0}), **more}
    config = resolve("tokenmixer_large", {"model": settings}, host())
    known = extras or split().extras()
    return build_model("tokenmixer_large", config, DataFacts(0, 0, known), 0, host())


def split() -> Any:
    """The planted click log, prepared."""
    from recengine.data.clicks import prepare
    from recengine.testing import planted_clicks

    return prepare(planted_clicks(2000))


def many_features() -> dict[str, Any]:
    """What a model must know of 20 categorical features of 1,000 values each."""
    facts_of = [
        {"name": f"f{at}", "kind": "one", "table": f"f{at}", "size": VALUES, "group": f"f{at}"}
        for at in range(FEATURES)
    ]
    return {**split().extras(), "features": facts_of}


def many_rows(rows: int) -> Any:
    """Rows of those features, drawn."""
    from recengine.contracts.batch import FeatureBatch

    drawn = torch.Generator().manual_seed(0)
    features = {f"f{at}": torch.randint(VALUES, (rows,), generator=drawn) for at in range(FEATURES)}
    return FeatureBatch(features, torch.zeros(rows))


def planted_wide(rows: int) -> Any:
    """The planted click log with four more features that tell nothing, for presets of eight tokens."""
    import polars as pl

    from recengine.data.clicks import ClickLog, FeatureSpec
    from recengine.testing import planted_clicks

    log, random = planted_clicks(rows), np.random.default_rng(1)
    more = {f"other_{at}": random.integers(0, 50, rows) for at in range(4)}
    features = {**log.config.features, **{name: FeatureSpec() for name in more}}
    frame = log.frames[0].with_columns(pl.Series(name, values) for name, values in more.items())
    return ClickLog.from_frame(frame, log.config.model_copy(update={"features": features}), name=log.name)


# --- counts ------------------------------------------------------------------------------------------


def counts(quick: bool, kept: dict[str, Any]) -> dict[str, float | None]:
    """Weights of the blocks less the formula; operations that rows meet over the dense ones, less k / E."""
    from recengine_plugins.tokenmixer_large import counting

    gaps, shares = [], []
    for preset in ("10k",) if quick else ("10k", "100k", "1m", "10m"):
        for more in FORMS.values():
            model = build(preset, more, many_features())
            own = sum(p.numel() for p in model.blocks.parameters())
            gaps.append(abs(own - counting.blocks(model.config, model.tokens.tokens).weights))
            if more:
                shares.append(active_gap(model))
    kept["counts"] = {"formula gaps": gaps, "active gaps": shares}
    return {"ranking.parameter-formula": max(gaps), "ranking.active-share": max(shares)}


def active_gap(model: Any) -> float:
    """|operations of a half block that 256 rows really meet / dense ones - k / E|."""
    c = model.config
    x = torch.randn(256, model.tokens.tokens, c.hidden_dim)
    part = model.blocks[0].reverted
    inner = part.bank.gate.shape[-1]
    met = int(part.load(x).sum()) * inner + x.shape[0] * x.shape[1] * inner
    return abs(met / (x.shape[0] * x.shape[1] * c.expansion * c.hidden_dim) - c.active / c.experts)


def permutes(quick: bool, kept: dict[str, Any]) -> dict[str, float | None]:
    """Copies, gathers and scatters of tokens in the profile of the blocks, forward and backward. A call of
    ``contiguous`` that has something to do shows as a clone."""
    suspects = ("permute", "gather", "scatter", "index", "transpose", "aten::copy_", "clone")
    found = {}
    for form, more in FORMS.items():
        model = build("10k" if quick else "1m", more, many_features())
        x = torch.randn(64, model.tokens.tokens, model.config.hidden_dim, requires_grad=True)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            y = x
            for block in model.train().blocks:
                y = block(y)
            y.sum().backward()
        events = {event.key: event.count for event in profile.key_averages()}
        found[form] = {key: n for key, n in events.items() if any(one in key for one in suspects)}
    kept["permutes"] = found
    return {"ranking.permute-kernels": sum(sum(one.values()) for one in found.values())}


# --- depth -------------------------------------------------------------------------------------------


def depth(quick: bool, kept: dict[str, Any]) -> dict[str, float | None]:
    """Gradient norm of each block's weights in the first training step; smallest over largest."""
    rows = []
    for blocks in (4, 8) if quick else (4, 8, 16, 32):
        for aids, more in AIDS.items():
            norms = gradient_norms(blocks, more)
            rows.append({"blocks": blocks, "aids": aids, "norms": norms})
            print(f"{blocks} blocks, {aids}: {min(norms) / max(norms):.5f}")
    kept["depth"] = rows
    last = {row["aids"]: round(min(row["norms"]) / max(row["norms"]), 5) for row in rows}
    return {"ranking.depth-gradient": last["added"], "ranking.depth-gradient-mean": last["averaged"]}


AIDS: dict[str, dict[str, Any]] = {
    "added": {},
    "averaged": {"skip_join": "mean"},
    "none": {"skip": 0, "auxiliary": 0.0},
}


def gradient_norms(blocks: int, more: dict[str, Any]) -> list[float]:
    """By block, of the preset 100k's width on the planted log."""
    from recengine.contracts.batch import FeatureBatch, StepContext

    torch.manual_seed(0)
    model = build("100k", {"n_blocks": blocks, **more}).train()
    batch = FeatureBatch(**split().train.take(np.arange(512)).tensors())
    model.training_loss(batch, StepContext(0, 0, 1, 1, {})).backward()
    return [
        sum(float(p.grad.square().sum()) for p in block.parameters() if p.grad is not None) ** 0.5
        for block in model.blocks
    ]


# --- export ------------------------------------------------------------------------------------------


def export(quick: bool, kept: dict[str, Any]) -> dict[str, float | None]:
    """Exported, saved, loaded and compiled ahead of time: largest difference, median milliseconds."""
    from recengine.serving.rankers import Program, export_ranker, load_program, save_program

    model = sparse_ranker(quick)
    batches = {rows: many_rows(rows) for rows in (1, 100, 500)}
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        wanted = model.predict(batches[100])
        program = export_ranker(model, batches[100])
        loaded = load_program(save_program(program, Path(folder) / "ranker.pt2"))
        error = float((loaded(batches[100].features) - wanted).abs().max())
        runners: dict[str, Any] = {"eager": model.predict, "exported": lambda b: loaded(b.features)}
        path, aoti = str(Path(folder) / "aoti.pt2"), None
        try:
            torch._inductor.aoti_compile_and_package(program, package_path=path)
            package = Program(torch._inductor.aoti_load_package(path))
            aoti = float((package(batches[100].features) - wanted).abs().max())
            runners["AOTInductor"] = lambda b: package(b.features)
        except Exception as failed:
            kept["aoti failed"] = f"{type(failed).__name__}: {str(failed).splitlines()[0]}"
            print(kept["aoti failed"])
        ms: dict[str, dict[int, float]] = {}
        for name, run in runners.items():
            ms[name] = {rows: median_ms(lambda run=run, rows=rows: run(batches[rows])) for rows in (1, 500)}
    weights = sum(p.numel() for p in model.blocks.parameters())
    kept["export"] = {"export error": error, "aoti error": aoti, "ms": ms, "weights": weights}
    served = ms.get("AOTInductor", ms["exported"])
    return {
        "ranking.export-error": error,
        "ranking.aoti-error": aoti,
        "ranking.latency-1-ms": round(served[1], 3),
        "ranking.latency-500-ms": round(served[500], 3),
    }


def sparse_ranker(quick: bool) -> Any:
    """What is exported: the sparse model of the preset 1m."""
    sparse = {"experts": 4, "active": 2} if quick else FORMS["sparse"]
    return build("10k" if quick else "1m", sparse, many_features()).eval()


def median_ms(call: Callable[[], object]) -> float:
    """Of 60 calls after ten."""
    times = []
    for _ in range(70):
        began = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - began))
    return statistics.median(times[10:])


def low(quick: bool, kept: dict[str, Any]) -> dict[str, float | None]:
    """|AUC in float32 - AUC served in bfloat16| of a trained ranker."""
    from recengine.evaluation.clicks import auc
    from recengine.training import fit
    from recengine.training.validation import probabilities

    settings: dict[str, Any] = {"model": {"preset": "100k"}, "training": {"batch_size": 256}}
    settings["training"]["epochs"] = 1 if quick else 4
    run: Any = fit("tokenmixer_large", planted_wide(20_000), settings=settings)
    table, told = run.split.test, {}
    for name, precision in (("float32", "32-true"), ("bfloat16", "bf16-mixed")):
        told[name] = auc(table.labels, probabilities(run.model, table, precision=precision))
    kept["low"] = told
    return {"ranking.bf16-auc-change": round(abs(told["float32"] - told["bfloat16"]), 6)}


# --- race --------------------------------------------------------------------------------------------


def candidates(
    preset: str, form: str, stage: str, rows: int, checked: bool = True
) -> dict[str, Callable[[], object]]:
    """The engine's model and its twins on the same weights and rows. checked: their logits must agree."""
    torch.manual_seed(0)
    model = build(preset, FORMS[form], many_features()).train(stage == "train")
    vectors = torch.randn(rows, FEATURES, model.config.embedding_dim)
    labels = (torch.rand(rows) < 0.3).float()
    networks: dict[str, Callable[..., Any]] = {"recengine": lambda x: model.score(x, {})}
    networks |= {"eager": Twin(model), "compiled": quiet_compile(Twin(model))}
    if form == "sparse":  # sizes of groups are data: nothing that torch.compile could take whole
        networks["loop eager"] = Twin(model, by_loop)
        if stage == "serve" and model.blocks[0].reverted.bank.gate.shape[-1] % 4 == 0:  # strides of 16 bytes
            networks["grouped_mm eager"] = Twin(model, by_groups)
    weights = [p for p in model.parameters() if p.requires_grad]

    def train(network: Callable[..., Any]) -> None:
        loss = torch.nn.functional.binary_cross_entropy_with_logits(network(vectors), labels)
        torch.autograd.grad(loss, weights, allow_unused=True)

    def serve(network: Callable[..., Any]) -> None:
        with torch.inference_mode():
            network(vectors)

    with torch.no_grad():
        wanted = networks["recengine"](vectors)
        for name, network in networks.items() if checked else ():
            torch.testing.assert_close(network(vectors), wanted, rtol=1e-3, atol=1e-4, msg=name)
    call = train if stage == "train" else serve
    return {name: lambda network=network: call(network) for name, network in networks.items()}


def race(
    preset: str, form: str, stage: str, rows: int, what: list[str], kept: dict[str, Any]
) -> dict[str, float | None]:
    """Rows a second of each candidate, and MB that a call takes at most; figures of the claims at 100m."""
    name = f"{preset} {form} {stage}"
    told = {"rows": rows, **measured_before().get("race", {}).get(name, {})}
    names = ["recengine", "eager", "compiled"]
    if "time" in what:
        taken = alternate(candidates(preset, form, stage, rows), 0.3, least=3)
        told |= {"rows": rows, "rows a second": {n: rows / statistics.median(t) for n, t in taken.items()}}
        names = list(taken)
    if "memory" in what:
        told["MB"] = {one: peak(preset, form, stage, rows, one) for one in names}
    kept.setdefault("race", {})[name] = told
    print(told, flush=True)
    speed = told.get("rows a second")
    if speed is None or preset not in ("100m", "10k"):
        return {}
    return {
        f"ranking.{form}-{stage}-over-{rival}{KIND}": round(
            speed["recengine"] / max(value for n, value in speed.items() if n.endswith(rival)), 2
        )
        for rival in ("eager", "compiled")
    }


def peak(preset: str, form: str, stage: str, rows: int, name: str) -> float:
    """MB by which the resident set rises in a call, in a process that gives back what it frees."""
    words = ["--memory", name, "--preset", preset, "--form", form, "--stage", stage, "--rows", str(rows)]
    made = subprocess.run(
        [sys.executable, __file__, *words],
        env={**os.environ, **RETURNED},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return round(float(json.loads(made.stdout.splitlines()[-1])["mb"]), 1)


# --- results -----------------------------------------------------------------------------------------


def measured_before() -> dict[str, Any]:
    """What the result file holds."""
    found: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    return found


def keep(kept: dict[str, Any]) -> None:
    """Join with what was measured before, and draw the table."""
    before = measured_before()
    races = {**before.get("race", {}), **kept.get("race", {})}
    told = {
        **before,
        **json.loads(json.dumps(kept)),
        "race": races,
        "facts": facts(),
        "threads": os.cpu_count(),
    }
    RESULT.write_text(json.dumps(told, indent=1) + "\n")
    about = told["facts"]
    lines = [
        "# Cost of TokenMixer-Large",
        "",
        f"{about['processor']}, {told['threads']} threads, torch {about['torch']}, Python {about['python']}, "
        f"{about['date']}; seed 0. `python bench/ranking/bench_cost.py`",
        "",
    ]
    if races:
        lines += [
            "From the vectors of 20 features to loss and gradients (train) or logits (serve), float32; rows",
            "a second, candidates by turns; in brackets the MB that a call takes at most.",
            "",
            "| preset | form | stage | rows | recengine | plain torch | times the fastest |",
            "|---|---|---|---|---|---|---|",
        ]
    for name, one in sorted(races.items(), key=lambda item: (len(item[0].split()[0]), item[0])):
        speed, memory = one.get("rows a second", {"recengine": 0, "eager": 1}), one.get("MB", {})
        shown = {k: f"{v:,.0f}" + (f" ({memory[k]:,.0f})" if k in memory else "") for k, v in speed.items()}
        rivals = ", ".join(f"{k} {v}" for k, v in shown.items() if k != "recengine")
        times = speed["recengine"] / max(v for k, v in speed.items() if k != "recengine")
        preset, form, stage = name.split()
        lines.append(
            f"| {preset} | {form} | {stage} | {one['rows']} | {shown['recengine']} | {rivals} | {times:.2f} |"
        )
    if "depth" in told:
        lines += [
            "",
            "Gradient norm of a block's weights in the first step, preset 100k's width (first, middle, last",
            "block), and the smallest over the largest. Extra residuals that are added double the stream",
            "at each of their places, and the next norm divides by that; averaged they do not. none: no",
            "auxiliary loss either.",
            "",
            "| blocks | extra residuals | first | middle | last | smallest over largest |",
            "|---|---|---|---|---|---|",
        ]
        for row in told["depth"]:
            n = row["norms"]
            lines.append(
                f"| {row['blocks']} | {row['aids']} | {n[0]:.2e} | {n[len(n) // 2]:.2e} "
                f"| {n[-1]:.2e} | {min(n) / max(n):.4f} |"
            )
    if "export" in told:
        one = told["export"]
        size = f", {one['weights']:,} weights in its blocks" if "weights" in one else ""
        lines += [
            "",
            f"Export (sparse, preset 1m{size}): "
            f"largest difference {one['export error']:.1e} of the program, ",
        ]
        lines[-1] += (
            "none of an AOTInductor package"
            if one["aoti error"] is None
            else f"{one['aoti error']:.1e} of the AOTInductor package"
        )
        lines += ["(probabilities). Milliseconds:", "", "| runner | 1 row | 500 rows |", "|---|---|---|"]
        lines += [f"| {k} | {v['1']:.3f} | {v['500']:.3f} |" for k, v in one["ms"].items()]
    if "low" in told:
        lines += ["", f"AUC on the planted log: {told['low']['float32']:.6f} in float32, "]
        lines[-1] += f"{told['low']['bfloat16']:.6f} served in bfloat16."
    RESULT.with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
