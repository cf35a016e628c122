"""What a recourse method is: from a person and a classifier to the change that is enough."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Piece:
    """An affine stretch of a representation: phi(x) = B x + c wherever edges . x <= limits.

    B [m - 1, d], c [m - 1], edges [r, d], limits [r]; without edges it holds everywhere. ``exact`` is False
    for a tangent, which holds at one point only.
    """

    B: NDArray[np.float64]
    c: NDArray[np.float64]
    edges: NDArray[np.float64]
    limits: NDArray[np.float64]
    exact: bool = True

    @property
    def everywhere(self) -> bool:
        return self.exact and len(self.limits) == 0


class Representation(Protocol):
    """phi: what a classifier computes before its linear last layer, in float64."""

    @property
    def inputs(self) -> int:
        """d, the number of features."""
        ...

    @property
    def affine(self) -> bool:
        """Whether one piece holds everywhere (a linear model)."""
        ...

    def __call__(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """phi of each row: [N, d] to [N, m - 1]."""
        ...

    def around(self, x: NDArray[np.float64]) -> Piece:
        """The piece that holds at one point x [d]."""
        ...


@dataclass(frozen=True)
class Classifier:
    """A representation under a linear last layer with bias.

    classes: two or more, in the order of the layer's scores. weights: the trained layer, [m] for two classes
    (score of the second), else [C, m]; None where it is still to be fitted. l2: the penalty 0.5 l2 ||w||^2 on
    the mean loss that the layer was trained with, None where unknown.
    """

    representation: Representation
    classes: tuple[Any, ...]
    names: tuple[str, ...]
    weights: NDArray[np.float64] | None = None
    l2: float | None = None


@dataclass(frozen=True)
class RecourseAnswer:
    """One row a person: the point reached, its cost, whether it is certified, and why not otherwise."""

    points: NDArray[np.float64]
    costs: NDArray[np.float64]
    certified: NDArray[np.bool_]
    guarantee: str
    details: dict[str, Any] = field(default_factory=dict)


class RecourseMethod(Protocol):
    """Finds the cheapest accepted point under the person's constraints.

    A class that also has ``of(classifier, rows, labels, config, target=...)`` takes any ``Classifier``:
    rows [n, d] and labels [n] (indices of classes) are what the last layer is refitted on, target the class
    that people want.
    """

    def solve(self, people: NDArray[np.float64], constraints: Any) -> RecourseAnswer: ...
