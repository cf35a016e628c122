"""What every native benchmark shares: candidates beside each other, machine facts, tables, claims.

A bench script lists its :class:`Case` objects and calls :func:`main`. For every setting (threads, malloc)
the script runs itself again as a fresh process, because malloc reads its settings at start-up; there the
candidates of a case take turns (one call each, round after round), so that a busy moment of the machine
hits all of them, and the medians are compared. ``times`` is the median of the fastest torch candidate
divided by ours; a claim's figure is the smallest ``times`` over all settings.

Peak memory is measured in a process of its own per candidate: the high-water mark of the resident set
during the call, less what was resident before it.

    python bench/native/bench_X.py [--quick] [--threads 1 2] [--malloc default tuned] [--only NAME]
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
OURS = "recengine"

# malloc: how glibc hands memory back. "default" is what a user gets: tensors above 32 MB are mapped and
# page-faulted anew on every call. "tuned" keeps the memory. "unlocked" (AMD only) is tuned plus the
# preload that makes MKL run the path it keeps for Intel processors.
TUNED = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
    "MALLOC_TOP_PAD_": "268435456",
}
# "returned", for measuring memory: every block above 64 kB is mapped on its own and given back when freed, so
# that a call's rise is its own and not hidden in what an earlier call left behind.
RETURNED = {
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "0",
    "RECENGINE_KEEP_MEMORY": "0",
}


# Between two candidates: the workers of the one before (another process's OpenBLAS, say) spin for some tens
# of milliseconds before they sleep, and would take a core from the next.
SETTLE = 0.1
LONG = 1.0  # seconds from which a call needs no other before it
# After such a pause the clock and the vector units take milliseconds to come up, and Linux may wake a pool's
# threads on one core and part them only some tens of milliseconds later (a call then takes 4 ms more, a slice
# of time). Each candidate runs untimed for so long first.
WARM = 0.05


@dataclass(frozen=True)
class Case:
    """One row of the table.

    name: what is timed, with its shape. build: makes the inputs and returns the candidates, one of them
    called ``recengine``; called in the worker only. flop: floating-point operations of the mathematics
    (no recomputation counted), or None where memory traffic decides; traffic: bytes that must move, or None.
    claim: id in claims.toml that wants the smallest ``times``; memory_claim: id that wants our peak extra
    memory (MB), or the smallest ratio of theirs to ours where ``memory_ratio``.
    """

    name: str
    build: Callable[[], dict[str, Callable[[], object]]]
    flop: float | None = None
    traffic: float | None = None
    claim: str | None = None
    memory_claim: str | None = None
    memory_ratio: bool = False


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            flags = [f for f in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f in _flags()]
            return f"{line.split(':', 1)[1].strip()} ({', '.join(flags)})"
    return platform.processor()


def _flags() -> set[str]:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            return set(line.split())
    return set()


def _compile(source: Path, output: Path, *flags: str) -> bool:
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        return False
    command = [compiler, "-O3", "-march=native", *flags, str(source), "-o", str(output), "-pthread"]
    return subprocess.run(command, check=False).returncode == 0


def peak(threads: int) -> dict[str, float]:
    """Measured peaks (GFLOP/s; bf16 dot products and tiles: 0 without) and copy bandwidth; empty without a
    compiler."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "peak"
        if not _compile(Path(__file__).with_name("peak.cpp"), program, "-ffp-contract=fast"):
            return {}
        run = subprocess.run([program, str(threads)], check=True, capture_output=True, text=True)
        return json.loads(run.stdout)


def facts() -> dict[str, str | int | None]:
    from recengine.ops._library import native

    state = native()
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "isa": state.isa if state.cpu else f"no kernels: {state.reason}",
        "date": datetime.date.today().isoformat(),
    }


def alternate(
    candidates: dict[str, Callable[[], object]], seconds: float, least: int = 5, most: int = 100
) -> dict[str, list[float]]:
    """Seconds of every call; the candidates take turns until ``seconds`` per candidate are spent.

    Each timed call follows others of the same candidate, which wake the threads, the clock and the caches;
    one that takes longer than a second does so itself, and three turns of such are enough.
    """
    long = set()
    for name, call in candidates.items():  # twice: compilation, then the allocator's first pages
        call()
        start = time.perf_counter()
        call()
        if time.perf_counter() - start > LONG:
            long.add(name)
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    end = time.perf_counter() + (2 * seconds + least * (SETTLE + WARM)) * len(candidates)
    for turn in range(most):
        for name, call in candidates.items():
            time.sleep(SETTLE)
            if name not in long:
                ready = time.perf_counter() + WARM
                call()
                while time.perf_counter() < ready:
                    call()
            start = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - start)
        if turn + 1 >= (min(least, 3) if long else least) and time.perf_counter() > end:
            break
    return taken


def _status(key: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) / 1024
    raise KeyError(key)


def extra_memory(call: Callable[[], object]) -> float:
    """MB by which the resident set rises during a call (its results included), the best of three."""
    call()
    rises = []
    for _ in range(3):
        before = _status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        call()
        rises.append(_status("VmHWM") - before)
    return min(rises)


def _child(arguments: Sequence[str], malloc: str, threads: int) -> list[dict[str, object]]:
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads))
    with tempfile.TemporaryDirectory() as folder:
        if malloc != "default":
            environment.update(RETURNED if malloc == "returned" else TUNED)
        if malloc == "unlocked":
            source, library = Path(folder) / "mkl.c", Path(folder) / "mkl.so"
            source.write_text("int mkl_serv_intel_cpu_true(void) { return 1; }\n")
            if not _compile(source, library, "-x", "c", "-shared", "-fPIC"):
                return []
            environment["LD_PRELOAD"] = str(library)
        command = [sys.executable, sys.argv[0], "--worker", "--threads", str(threads), *arguments]
        run = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]


def _worker(cases: Sequence[Case], options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads[0])
    torch._dynamo.config.recompile_limit = 200
    for case in cases:
        if options.only and case.name not in options.only:
            continue
        if options.memory:
            if case.memory_claim and options.memory == "?":
                print(json.dumps({"case": case.name, "candidates": list(case.build())}))
            elif case.memory_claim:
                call = case.build()[options.memory]
                print(json.dumps({"case": case.name, "name": options.memory, "mb": extra_memory(call)}))
            continue
        taken = alternate(case.build(), 0.3 if options.quick else 0.5, least=3 if options.quick else 5)
        milliseconds = {name: statistics.median(values) * 1e3 for name, values in taken.items()}
        best = {name: min(values) * 1e3 for name, values in taken.items()}
        print(json.dumps({"case": case.name, "median_ms": milliseconds, "best_ms": best}), flush=True)


def _row(case: Case, setting: dict[str, object], line: dict, limits: dict[str, float]) -> dict[str, object]:
    medians, bests = line["median_ms"], line["best_ms"]
    rivals = {name: value for name, value in medians.items() if name != OURS}
    rival = min(rivals, key=rivals.__getitem__)
    row = {"case": case.name, **setting, "median_ms": medians, "best_ms": bests, "rival": rival}
    row["times"] = medians[rival] / medians[OURS]
    if case.flop and limits:
        row["percent_of_peak"] = 100 * case.flop / (medians[OURS] * 1e6) / limits["gflops"]
        if "bfloat16" in case.name and limits.get("dot_gflops"):
            row["percent_of_dots"] = 100 * case.flop / (medians[OURS] * 1e6) / limits["dot_gflops"]
        if limits.get("tile_gflops"):
            row["percent_of_tiles"] = 100 * case.flop / (medians[OURS] * 1e6) / limits["tile_gflops"]
    if case.traffic and limits:
        row["percent_of_copy"] = 100 * case.traffic / (medians[OURS] * 1e6) / limits["copy_gbytes"]
    return row


def _memory(case: Case, quick: bool) -> dict[str, float]:
    def ask(memory: str) -> list[dict]:
        arguments = ["--memory", memory, "--only", case.name, *(["--quick"] * quick)]
        return [line for line in _child(arguments, "returned", 1) if line["case"] == case.name]

    return {name: ask(name)[0]["mb"] for name in ask("?")[0]["candidates"]}


def _markdown(title: str, record: dict) -> str:
    about = record["facts"]
    lines = [f"# {title}", "", f"{about['processor']}, {about['cores']} cores, torch {about['torch']}, "]
    lines[-1] += f"kernels {about['isa']}, Python {about['python']}, {about['date']}."
    for limit in record["limits"].values():
        if limit:
            tiles, dots = limit.get("tile_gflops"), limit.get("dot_gflops")
            lines.append(
                f"{limit['threads']:g} threads: {limit['gflops']:.0f} GFLOP/s multiply-add peak, "
                + (f"{dots:.0f} GFLOP/s by dot products of bf16 pairs, " if dots else "")
                + (f"{tiles:.0f} GFLOP/s on bf16 tiles, " if tiles else "")
                + f"{limit['copy_gbytes']:.1f} GB/s copy (all measured)."
            )
    lines += [
        f"Median milliseconds, candidates taking turns; seed 0. Command: `{record['command']}`.",
        "",
        "| case | threads | malloc | ours | best of torch | times | of peak | all candidates |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in record["rows"]:
        share = f"{row['percent_of_peak']:.0f} %" if "percent_of_peak" in row else ""
        share += f" ({row['percent_of_dots']:.0f} % of dots)" if "percent_of_dots" in row else ""
        share += f" ({row['percent_of_tiles']:.0f} % of tiles)" if "percent_of_tiles" in row else ""
        share = f"{row['percent_of_copy']:.0f} % of copy" if "percent_of_copy" in row else share
        every = ", ".join(f"{name} {value:.3g}" for name, value in row["median_ms"].items())
        ours, theirs = row["median_ms"][OURS], row["median_ms"][row["rival"]]
        lines.append(
            f"| {row['case']} | {row['threads']} | {row['malloc']} | {ours:.3g} "
            f"| {theirs:.3g} ({row['rival']}) | {row['times']:.2f} | {share} | {every} |"
        )
    if record["memory"]:
        lines += ["", "Extra peak memory, MB, results included (1 thread, freed memory given back):", ""]
        for name, found in record["memory"].items():
            lines.append(f"* {name}: " + ", ".join(f"{who} {mb:.1f}" for who, mb in found.items()))
    return "\n".join(lines) + "\n"


def main(title: str, make_cases: Callable[[bool], Sequence[Case]]) -> None:
    """Entry point of a bench script; see the module's docstring for the arguments."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--quick", action="store_true", help="short runs, nothing written to bench/results")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--malloc", nargs="+", choices=["default", "tuned", "unlocked"])
    parser.add_argument("--only", nargs="+", help="cases whose name contains one of these")
    parser.add_argument("--claim", help="only the cases of this claim")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    options = parser.parse_args()
    isa = facts()["isa"]
    if str(isa).startswith("no kernels"):
        raise SystemExit(f"nothing to time: {isa}")
    cases = cases_of_script = make_cases(options.quick)
    if options.worker:
        _worker(cases, options)
        return
    if options.claim:
        cases = [case for case in cases if options.claim in (case.claim, case.memory_claim)]
    wanted = [case for case in cases if not options.only or any(part in case.name for part in options.only)]
    mallocs = options.malloc or ["default", "tuned"] + ["unlocked"] * ("AMD" in processor())
    limits = {str(threads): peak(threads) for threads in options.threads}
    rows = []
    memory: dict[str, dict[str, float]] = {}
    timed = {case.name: case for case in wanted if options.claim in (None, case.claim)}
    for threads in options.threads if timed else []:
        for malloc in mallocs:
            for line in _child(["--only", *timed, *(["--quick"] * options.quick)], malloc, threads):
                setting = {"threads": threads, "malloc": malloc}
                rows.append(_row(timed[line["case"]], setting, line, limits[str(threads)]))
    for case in wanted:
        if case.memory_claim and options.claim in (None, case.memory_claim):
            memory[case.name] = _memory(case, options.quick)
    script = Path(sys.argv[0]).resolve()
    command = f"python {script.relative_to(ROOT)}"
    record = {
        "command": command,
        "facts": facts(),
        "limits": limits,
        "seed": 0,
        "rows": rows,
        "memory": memory,
    }
    print(_markdown(title, record))
    if not options.quick:
        results = ROOT / "bench" / "results"
        results.mkdir(exist_ok=True)
        # Two kinds of processor stand beside each other: AMD's rows have another setting (unlocked), too.
        name = script.stem.removeprefix("bench_") + ("_amd" if "AMD" in processor() else "")
        whole = _joined(results / f"native_{name}.json", record, [case.name for case in cases_of_script])
        (results / f"native_{name}.json").write_text(json.dumps(whole, indent=1) + "\n")
        (results / f"native_{name}.md").write_text(_markdown(title, whole))
        # A claim's settings may be measured one after another: the figure is that of all of them.
        rows, memory = whole["rows"], whole["memory"]
    _claims(wanted, rows, memory)


def _joined(path: Path, record: dict, order: Sequence[str]) -> dict:
    """The record with what the file holds of other cases and settings from the same machine and versions.

    A whole script can take longer than a machine stays quiet: cases may be measured one after another.
    """
    if not path.exists():
        return record
    before = json.loads(path.read_text())
    same = ("processor", "cores", "python", "torch", "isa")
    if any(before["facts"][fact] != record["facts"][fact] for fact in same):
        return record

    def key(row: dict) -> tuple[int, int, str]:
        return order.index(row["case"]), row["threads"], row["malloc"]

    rows = {key(row): row for row in [*before["rows"], *record["rows"]] if row["case"] in order}
    memory = {**before["memory"], **record["memory"]}
    limits = {**before["limits"], **record["limits"]}
    return {**record, "rows": [rows[place] for place in sorted(rows)], "memory": memory, "limits": limits}


def _claims(cases: Sequence[Case], rows: Sequence[dict], memory: dict[str, dict[str, float]]) -> None:
    figures: dict[str, list[float]] = {}
    for case in cases:
        if case.claim:
            # The claim compares on equal BLAS terms too, so every setting counts, the unlocked one apart.
            counted = [
                row["times"] for row in rows if row["case"] == case.name and row["malloc"] != "unlocked"
            ]
            figures.setdefault(case.claim, []).extend(counted)
        if case.memory_claim and case.name in memory:
            found = memory[case.name]
            rivals = [mb for name, mb in found.items() if name != OURS]
            figure = min(rivals) / max(found[OURS], 1e-9) if case.memory_ratio else found[OURS]
            figures.setdefault(case.memory_claim, []).append(figure)
    for claim, values in figures.items():
        if values:
            ratio = all(case.memory_ratio for case in cases if case.memory_claim == claim)
            largest = any(case.memory_claim == claim for case in cases) and not ratio
            figure = round(max(values) if largest else min(values), 3)
            print(json.dumps({"claim": claim, "figure": figure}))
            if "AMD" in processor():  # claims of its own: another float32 peak, another torch
                print(json.dumps({"claim": f"{claim}_amd", "figure": figure}))
