"""The facts that every result is stored with."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "results"


def facts(**more: Any) -> dict[str, Any]:
    """Processor, cores, versions, date."""
    import numpy
    import scipy

    processor = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "scipy": scipy.__version__,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        **more,
    }


def save(name: str, machine: dict[str, Any], rows: list[dict[str, Any]], note: str) -> None:
    """bench/results/<name>.json and .md."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(
        json.dumps({"machine": machine, "note": note, "rows": rows}, indent=1) + "\n"
    )
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [f"# {name}", "", note, "", "| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(_cell(row.get(column, "")) for column in columns) + " |" for row in rows]
    lines += ["", "; ".join(f"{key} {value}" for key, value in machine.items())]
    (RESULTS / f"{name}.md").write_text("\n".join(lines) + "\n")


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
