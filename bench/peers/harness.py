"""The inside of runner.run: runs under the peer's own interpreter on the standard library alone.

python harness.py SCRIPT GIVEN.json REPLY.json
"""

from __future__ import annotations

import importlib.util
import json
import resource
import sys
import time
from contextlib import contextmanager
from pathlib import Path


class Watch:
    """Seconds of a section: wall and CPU (all threads, finished children)."""

    wall = 0.0
    cpu = 0.0

    def as_dict(self) -> dict:
        return {"wall_s": self.wall, "cpu_s": self.cpu}


def cpu_seconds() -> float:
    """CPU seconds that this process, its threads and its finished children have used."""
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        used = resource.getrusage(who)
        total += used.ru_utime + used.ru_stime
    return total


def peak_mb() -> float:
    """Largest resident set so far, in MiB."""
    # Not getrusage: its figure starts at what the process that forked this one held.
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@contextmanager
def stopwatch():
    """Times the body; read .wall and .cpu of what it yields afterwards."""
    watch = Watch()
    wall, cpu = time.perf_counter(), cpu_seconds()
    try:
        yield watch
    finally:
        watch.wall, watch.cpu = time.perf_counter() - wall, cpu_seconds() - cpu


def main() -> None:
    script, given, reply = map(Path, sys.argv[1:4])
    sys.modules["harness"] = sys.modules["__main__"]
    spec = importlib.util.spec_from_file_location("peer_script", script)
    module = importlib.util.module_from_spec(spec)
    with stopwatch() as watch:
        spec.loader.exec_module(module)
        answer = module.main(json.loads(given.read_text()))
    record = {"answer": answer, "peak_mb": peak_mb(), **watch.as_dict()}
    reply.write_text(json.dumps(record))


if __name__ == "__main__":
    main()
