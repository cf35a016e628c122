"""``doctor``: what this installation can do, and why not more."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import typer

from recengine.cli.inputs import data_cache
from recengine.cli.output import Json, emit_json, shown


def doctor(as_json: Json = False) -> None:
    """Versions, processor, native core, CUDA, threads, plugins, extras, caches. Exit code 1 on a fault."""
    facts = {
        "versions": _versions(),
        "machine": _machine(),
        "native": _native(),
        "plugins": _plugins(),
        "extras": _extras(),
        "paths": _paths(),
    }
    faults = _faults(facts)
    if as_json:
        emit_json({"ok": not faults, "faults": faults, **facts})
    else:
        for part, found in facts.items():
            typer.echo(part)
            for name, value in found.items():
                typer.echo(f"  {name}: {_line(value)}")
        for fault in faults:
            typer.secho(f"fault: {fault}", fg="red")
        if not faults:
            typer.secho("everything that was looked at is in order", fg="green")
    if faults:
        raise typer.Exit(1)


def _line(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_line(below)}" for name, below in value.items()) or "none"
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else shown(value)


def _versions() -> dict[str, Any]:
    names = ["recengine", "torch", "numpy", "polars", "pydantic", "pluggy", "lightning-fabric", "safetensors"]
    return {"python": platform.python_version()} | {name: _version(name) for name in names}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _machine() -> dict[str, Any]:
    import torch

    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "cores_for_us": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "memory_gib": _memory(),
        "gpus": [torch.cuda.get_device_name(at) for at in range(torch.cuda.device_count())],
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def _memory() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (OSError, ValueError):
        return None


def _native() -> dict[str, Any]:
    import torch

    from recengine.ops._library import native

    state = native()
    facts: dict[str, Any] = {
        "cpu_kernels": "live" if state.cpu else f"not live, references run instead: {state.reason}",
        "instruction_set": state.isa,
        "cuda_kernels": f"not live: {state.cuda_reason}",
    }
    if state.cuda:
        facts["cuda_kernels"] = "live" if torch.cuda.is_available() else "loaded; there is no GPU to run them"
    try:
        from recengine._native import build_info
    except ImportError as missing:
        return facts | {"build": f"no build facts: {missing}"}
    return facts | {"build": dict(build_info())}


def _plugins() -> dict[str, Any]:
    from recengine.hooks import host

    plugins = host()
    counts = {kind: len(registry) for kind, registry in plugins.registries.items() if len(registry)}
    return {
        "live": plugins.names(),
        "registered": counts,
        "broken": [f"{broken.name} ({broken.reason})" for broken in plugins.broken],
    }


def _extras() -> dict[str, Any]:
    """Each extra of the distribution: 'installed', or what is missing."""
    needs: dict[str, list[str]] = {}
    for requirement in requires("recengine") or []:
        wanted, _, marker = requirement.partition(";")
        if "extra ==" in marker:
            extra = marker.partition("extra ==")[2].strip(" \"'")
            needs.setdefault(extra, []).append(_bare(wanted))
    missing = {extra: [name for name in names if _version(name) is None] for extra, names in needs.items()}
    return {
        extra: "missing " + ", ".join(names) if names else "installed" for extra, names in missing.items()
    }


def _bare(requirement: str) -> str:
    for at, letter in enumerate(requirement):
        if not (letter.isalnum() or letter in "-_."):
            return requirement[:at]
    return requirement.strip()


def _paths() -> dict[str, Any]:
    cache = data_cache()
    nearest = next(folder for folder in (cache, *cache.parents) if folder.exists())
    return {
        "data_cache": str(cache),
        "data_cache_writable": os.access(nearest, os.W_OK),
        "package": str(Path(__file__).resolve().parents[1]),
    }


def _faults(facts: dict[str, dict[str, Any]]) -> list[str]:
    faults = [f"plugin {broken}" for broken in facts["plugins"]["broken"]]
    if facts["native"]["cpu_kernels"] != "live":
        faults.append(f"CPU kernels {facts['native']['cpu_kernels']}")
    if facts["machine"]["gpus"] and facts["native"]["cuda_kernels"] != "live":
        faults.append(f"there is a GPU, but CUDA kernels are {facts['native']['cuda_kernels']}")
    faults += [f"{name} is not installed" for name, found in facts["versions"].items() if found is None]
    if not facts["paths"]["data_cache_writable"]:
        faults.append(f"the data cache {facts['paths']['data_cache']} cannot be written")
    return faults
