"""Installs the libraries that the benchmarks stand beside, each in an environment of its own.

    python bench/peers/install.py NAME... [--root FOLDER] [--again]
    python bench/peers/install.py --list

The environments lie under bench/peers/.envs (not committed), or under --root or $RECENGINE_PEERS. A peer that
cannot be installed is named with the reason; the others are installed all the same and the exit code is 1.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import venv
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from peers.runner import ROOT_VARIABLE, interpreter, root

TORCH = "torch==2.13.0"


@dataclass(frozen=True)
class Peer:
    """packages: pip requirements. torch: installed first and pinned, so that no second build of it comes.
    probe: the import that proves the installation. note: what is known to be wrong with it."""

    packages: tuple[str, ...]
    probe: str
    torch: bool = False
    note: str = ""


PEERS = {
    "implicit": Peer(("implicit==0.7.3",), "import implicit.als, implicit.bpr"),
    "cornac": Peer(("cornac==3.0.1",), "from cornac.models import EASE, BPR"),
    "rectools": Peer(
        ("rectools[torch]==0.19.0",), "from rectools.models import SASRecModel, EASEModel", torch=True
    ),
    "lenskit": Peer(("lenskit==2025.8.1",), "from lenskit.als import ImplicitMFScorer", torch=True),
    "recbole": Peer(
        ("recbole==1.2.1", "numpy==1.26.4", "setuptools<81"),
        "from recbole.quick_start import run_recbole",
        torch=True,
        note="uses what numpy 2 and torch 2.6 removed: numpy is held back, torch.load must be told",
    ),
    "ellice": Peer(("ellice==0.1.4",), "import ellice", torch=True),
    "ax": Peer(
        ("ax-platform==1.3.1",),
        "from ax.api.client import Client; from botorch.models.map_saas import EnsembleMapSaasSingleTaskGP",
        torch=True,
    ),
    "dice-ml": Peer(("dice-ml==0.12",), "import dice_ml"),
}


def install(name: str, place: Path, again: bool) -> str:
    """Make one environment; '' on success, else the reason."""
    peer = PEERS[name]
    python = interpreter(name, place)
    if python.exists() and not again and _probe(python, peer) == "":
        return ""
    venv.create(place / name, with_pip=True, clear=True)
    steps = [[TORCH]] if peer.torch else []
    steps.append([*peer.packages, *([TORCH] if peer.torch else [])])
    for requirements in steps:
        done = subprocess.run(
            [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *requirements],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            return done.stderr.strip()[-2000:] or f"pip ended with {done.returncode}"
    return _probe(python, peer)


def _probe(python: Path, peer: Peer) -> str:
    done = subprocess.run([python, "-c", peer.probe], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stderr.strip()[-2000:]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", choices=[*PEERS, []], metavar="NAME")
    parser.add_argument("--root", type=Path, help=f"where to (else ${ROOT_VARIABLE}, else bench/peers/.envs)")
    parser.add_argument("--again", action="store_true", help="remove an environment that is there first")
    parser.add_argument("--list", action="store_true", help="list the peers and whether each is installed")
    asked = parser.parse_args()
    place = (asked.root or root()).resolve()
    if asked.list or not asked.names:
        for name, peer in PEERS.items():
            state = "installed" if interpreter(name, place).exists() else "-"
            print(f"{name:10} {state:10} {' '.join(peer.packages)}  {peer.note}")
        return 0
    failed = 0
    for name in asked.names:
        start = time.monotonic()
        reason = install(name, place, asked.again)
        failed += bool(reason)
        took = f"{time.monotonic() - start:.0f} s"
        print(
            f"{name}: "
            + (f"NOT installed ({took}): {reason}" if reason else f"{interpreter(name, place)} ({took})")
        )
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
