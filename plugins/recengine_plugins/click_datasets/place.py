"""Where real data lies."""

from __future__ import annotations

import os
from pathlib import Path

from recengine.errors import DataError


def locate(relative: str, cache: Path) -> Path:
    """The folder ``relative`` below $RECENGINE_DATA, below ../shared/data beside the working directory, or
    below ``cache``. Raises DataError when it is nowhere."""
    named = os.environ.get("RECENGINE_DATA")
    roots = [Path(named)] if named else [Path.cwd().parent / "shared" / "data", cache]
    for root in roots:
        if (root / relative).is_dir():
            return root / relative
    raise DataError(
        "the data is not on this machine",
        where=relative,
        expected="a folder below $RECENGINE_DATA",
        fix="put the publisher's files there; licences forbid shipping them",
    )
