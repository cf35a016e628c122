"""run.json: what a run was made of."""

from __future__ import annotations

import hashlib
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recengine import __version__
from recengine.data import EvalTask, Split
from recengine.data.clicks import ClickSplit
from recengine.ops._library import native

PACKAGES = ("torch", "numpy", "scipy", "polars", "safetensors", "lightning-fabric", "pydantic", "pluggy")


def environment() -> dict[str, Any]:
    """Versions, processor, threads and the native core of this process."""
    state = native()
    return {
        "recengine": __version__,
        "python": sys.version.split()[0],
        "packages": {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "native": {"cpu": state.cpu, "cuda": state.cuda, "isa": state.isa, "reason": state.reason},
        "git": git_state(Path.cwd()),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit and whether anything is changed, of the working copy around ``folder``; None outside of one."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "changed": bool(_git(folder, "status", "--porcelain"))}


def fingerprint(split: Split | ClickSplit) -> dict[str, str]:
    """SHA-256 of what is learned from and of each task: vocabularies, rows, targets."""
    if isinstance(split, ClickSplit):
        return {name: table.fingerprint() for name, table in split.tables().items()}
    prints = {"train": split.train.fingerprint(), "test": _of_task(split.test)}
    if split.validation is not None:
        prints["validation"] = _of_task(split.validation)
    return prints


def _of_task(task: EvalTask) -> str:
    digest = hashlib.sha256(task.history.fingerprint().encode())
    for values in (task.users, task.indptr, task.targets):
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
