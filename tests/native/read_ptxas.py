"""Read the resource report of ptxas: how many kernels were compiled, which of them spill registers.

python tests/native/read_ptxas.py COMPILE_LOG      exit 1 when a kernel spills or none was compiled
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ENTRY = re.compile(r"Compiling entry function '(?P<name>[^']+)' for '(?P<arch>[^']+)'")
SPILL = re.compile(r"(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads")


def spills(log: str) -> tuple[int, list[str]]:
    """Number of kernels in the report, and a line for each that spills."""
    kernels, spilling, name = 0, [], "?"
    for line in log.splitlines():
        if entry := ENTRY.search(line):
            kernels += 1
            name = f"{entry['name']} ({entry['arch']})"
        elif (spill := SPILL.search(line)) and (int(spill["stores"]) or int(spill["loads"])):
            spilling.append(f"{name}: {spill['stores']} bytes stored, {spill['loads']} bytes loaded")
    return kernels, spilling


if __name__ == "__main__":
    kernels, spilling = spills(Path(sys.argv[1]).read_text())
    sys.stdout.write(f"{kernels} kernels compiled, {len(spilling)} spill\n")
    for line in spilling:
        sys.stdout.write(f"  {line}\n")
    sys.exit(1 if spilling or not kernels else 0)
