"""Top-k by implicit, in its own environment: answers one line of standard input with one call.

python implicit_topk.py FOLDER K THREADS      FOLDER: queries.npy, items.npy, indptr.npy, seen.npy
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from implicit.cpu.topk import topk
from scipy.sparse import csr_matrix


def main() -> None:
    folder, k, threads = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    queries, items, indptr, seen = (
        np.load(folder / f"{name}.npy") for name in ("queries", "items", "indptr", "seen")
    )
    shape = (queries.shape[0], items.shape[0])
    mask = csr_matrix((np.ones(seen.size, np.float32), seen.astype(np.int32), indptr), shape=shape)
    for _ in sys.stdin:
        ids, _ = topk(items, queries, k, filter_query_items=mask, num_threads=threads)
        print(int(ids[0, 0]), flush=True)


if __name__ == "__main__":
    main()
