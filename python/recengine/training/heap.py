"""Memory that a fit no longer needs, back to the system."""

from __future__ import annotations

import ctypes
import sys


def release() -> None:
    """Hand free pages of the C heap back, where the C library can (glibc).

    By itself it keeps what a step has freed for the next one: 80 MB after a fit of MovieLens-100k, which all
    that comes after the fit would stand on top of. 15 ms.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
