"""Memory of large results on a CPU.

The system clears every page that it hands out, and what a step of training allocates it frees again. Results
and gradients of 4 MB and more therefore lie in memory that is kept when they are gone and given to the next
ones of their size: on pages of 2 MB, never more than half again of what such tensors once held at a time,
and marked as free to take for a system that runs short. The environment variable ``RECENGINE_KEEP_MEMORY=0``
switches it off.
"""

from __future__ import annotations

import torch

from ._library import native

__all__ = ["keep_memory"]


def keep_memory(on: bool) -> bool:
    """Whether memory of large results is kept for the next ones; either way what is kept now is given back.

    on: from now on. Returns: what it was before (False where the native operators are not loaded).
    """
    return bool(torch.ops.recengine.keep_memory(on)) if native().cpu else False
