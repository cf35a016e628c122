"""What all lists together show of the catalogue."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Coverage:
    name = "coverage"
    definition = "share of the items that stand among the first k of any user"
    higher_is_better = True

    def over_catalogue(self, exposure: NDArray[np.int64]) -> float:
        return float((exposure > 0).mean()) if exposure.size else float("nan")


class Gini:
    name = "gini"
    definition = "sum_i (2 i - n - 1) e_i / (n sum e), e_1 <= .. <= e_n the items' places among the first k"
    higher_is_better = False

    def over_catalogue(self, exposure: NDArray[np.int64]) -> float:
        total, n = int(exposure.sum()), exposure.size
        if total == 0:
            return float("nan")
        rank = 2 * np.arange(1, n + 1, dtype=np.float64) - n - 1
        return float((rank @ np.sort(exposure)) / (n * float(total)))
