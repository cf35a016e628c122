"""What a recourse method is: from a person and a classifier to the change that is enough."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class RecourseAnswer:
    """One row a person: the point reached, its cost, whether it is certified, and why not otherwise."""

    points: NDArray[np.float64]
    costs: NDArray[np.float64]
    certified: NDArray[np.bool_]
    guarantee: str
    details: dict[str, Any] = field(default_factory=dict)


class RecourseMethod(Protocol):
    """Finds the cheapest accepted point under the person's constraints."""

    def solve(self, people: NDArray[np.float64], constraints: Any) -> RecourseAnswer: ...
