"""What the sequential benchmarks store with every result, and how they write it."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "results"


def processor() -> str:
    """The processor's name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def head(script: str, **more: Any) -> dict[str, Any]:
    """Script, date, processor, versions."""
    import torch

    return {
        "script": f"bench/sequential/{script}",
        "date": datetime.now(UTC).date().isoformat(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        **more,
    }


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Lines of a Markdown table; numbers with four digits."""
    if not rows:
        return ["Not measured yet."]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return lines + ["| " + " | ".join(_cell(row.get(key, "")) for key in columns) + " |" for row in rows]


def write(name: str, given: dict[str, Any], title: str, paragraphs: Sequence[str]) -> None:
    """bench/results/<name>.json and .md."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(given, indent=1) + "\n")
    about = f"{given['processor']}, {given['date']}, torch {given['torch']}; `{given['script']}`"
    (RESULTS / f"{name}.md").write_text("\n".join([f"# {title}", "", about, "", *paragraphs, ""]))


def tell(figures: dict[str, float], **more: Any) -> None:
    """One JSON line a claim, last."""
    for claim, figure in figures.items():
        print(json.dumps({"claim": claim, "figure": figure, **more}))


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
