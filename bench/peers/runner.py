"""Runs a script inside a peer's environment: JSON in, JSON out, CPU time and peak memory beside the answer.

The script (any Python file) defines ``main(given: dict) -> dict``; large arrays travel as .npy files whose
paths are in ``given``. It may import ``harness`` from here: ``with harness.stopwatch() as watch`` times
a section in wall and CPU seconds (all threads and finished children included).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT_VARIABLE = "RECENGINE_PEERS"
HERE = Path(__file__).resolve().parent


class PeerMissingError(RuntimeError):
    """The peer is not installed here."""


@dataclass(frozen=True)
class Outcome:
    """answer: what main returned. cpu_s, wall_s: of the whole process, imports included.
    peak_mb: largest resident set of the process, in MiB."""

    answer: dict[str, Any]
    cpu_s: float
    wall_s: float
    peak_mb: float


def root() -> Path:
    """Where the environments lie: $RECENGINE_PEERS, else bench/peers/.envs."""
    return Path(os.environ.get(ROOT_VARIABLE) or HERE / ".envs")


def interpreter(name: str, place: Path | None = None) -> Path:
    """The Python of a peer, installed or not."""
    return (place or root()) / name / "bin" / "python"


def run(
    peer: str | None,
    script: Path,
    given: dict[str, Any],
    *,
    threads: int | None = None,
    timeout: float = 4 * 3600.0,
) -> Outcome:
    """Run ``script`` with the interpreter of ``peer`` (None: this one).

    threads: set for OpenMP, MKL, OpenBLAS and numexpr alike; None leaves the machine's default.
    Raises PeerMissingError when the peer is not installed, RuntimeError with its last words when it fails.
    """
    python = Path(sys.executable) if peer is None else interpreter(peer)
    if not python.exists():
        raise PeerMissingError(
            f"{peer} is not installed under {root()}: python bench/peers/install.py {peer}"
        )
    surroundings = {
        key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")
    }
    if threads is not None:
        for variable in ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "NUMBA", "RAYON"):
            surroundings[f"{variable}_NUM_THREADS"] = str(threads)
        surroundings["POLARS_MAX_THREADS"] = str(threads)
    with tempfile.TemporaryDirectory() as folder:
        question, reply = Path(folder, "given.json"), Path(folder, "reply.json")
        question.write_text(json.dumps(given))
        done = subprocess.run(
            [python, str(HERE / "harness.py"), str(script), str(question), str(reply)],
            env=surroundings,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if done.returncode or not reply.exists():
            raise RuntimeError(f"{peer or 'recengine'}: {script.name} failed\n{done.stderr[-4000:]}")
        record = json.loads(reply.read_text())
    return Outcome(record["answer"], record["cpu_s"], record["wall_s"], record["peak_mb"])
