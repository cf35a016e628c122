"""What a classifier computes before its linear last layer: affine maps, layered nets, any torch module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recengine.contracts.recourse import Piece
from recengine.errors import UsageError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Affine:
    """phi(x) = B x + c: a linear model, with whatever scaling stands before it."""

    B: Array
    c: Array

    @classmethod
    def identity(cls, d: int) -> Affine:
        return cls(np.eye(d), np.zeros(d))

    @classmethod
    def standardising(cls, centre: Array, scale: Array) -> Affine:
        """phi(x) = (x - centre) / scale."""
        return cls(np.diag(1 / scale), -centre / scale)

    @property
    def inputs(self) -> int:
        return int(self.B.shape[1])

    @property
    def affine(self) -> bool:
        return True

    def __call__(self, x: Array) -> Array:
        return np.asarray(x @ self.B.T + self.c)

    def around(self, x: Array) -> Piece:
        return Piece(self.B, self.c, np.zeros((0, len(x))), np.zeros(0))


@dataclass(frozen=True)
class Layer:
    """y = activation(W x + b). slopes: of the two sides of a kink at 0 (ReLU is (0, 1)); None: no kink.
    smooth: name of an activation that is not piecewise linear ('tanh', 'sigmoid')."""

    W: Array
    b: Array
    slopes: tuple[float, float] | None = None
    smooth: str | None = None


@dataclass(frozen=True)
class Layers:
    """A plain net. With kinks only it is affine on polyhedra, and ``around`` gives the polyhedron."""

    layers: tuple[Layer, ...]

    @property
    def inputs(self) -> int:
        return int(self.layers[0].W.shape[1])

    @property
    def affine(self) -> bool:
        return all(layer.slopes is None and layer.smooth is None for layer in self.layers)

    def __call__(self, x: Array) -> Array:
        for layer in self.layers:
            x = x @ layer.W.T + layer.b
            if layer.slopes is not None:
                x = np.where(x > 0, layer.slopes[1] * x, layer.slopes[0] * x)
            elif layer.smooth is not None:
                x = _SMOOTH[layer.smooth][0](x)
        return x

    def around(self, x: Array) -> Piece:
        B, c = np.eye(len(x)), np.zeros(len(x))
        edges, limits, exact = [], [], True
        for layer in self.layers:
            B, c = layer.W @ B, layer.W @ c + layer.b
            if layer.slopes is not None:
                value = B @ x + c
                side = np.where(value > 0, -1.0, 1.0)  # stay on this side of the kink
                edges.append(side[:, None] * B)
                limits.append(-side * c)
                slope = np.where(value > 0, layer.slopes[1], layer.slopes[0])
                B, c = slope[:, None] * B, slope * c
            elif layer.smooth is not None:
                function, derivative = _SMOOTH[layer.smooth]
                value = B @ x + c
                slope = derivative(value)
                B, c = slope[:, None] * B, function(value) - slope * (B @ x)
                exact = False
        rows = np.concatenate(edges) if edges and exact else np.zeros((0, len(x)))
        return Piece(B, c, rows, np.concatenate(limits) if edges and exact else np.zeros(0), exact)


def _sigmoid(z: Array) -> Array:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * z)))


_SMOOTH: dict[str, tuple[Any, Any]] = {
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "sigmoid": (_sigmoid, lambda z: _sigmoid(z) * (1 - _sigmoid(z))),
}


class Traced:
    """Whatever a torch module feeds into its last ``nn.Linear``; pieces are tangents, by automatic
    differentiation in float64. The module is copied and kept in evaluation mode."""

    def __init__(self, module: Any, inputs: int) -> None:
        import copy

        self._module = copy.deepcopy(module).double().cpu().eval()
        self._inputs = inputs
        self._last = last_linear(self._module)

    @property
    def inputs(self) -> int:
        return self._inputs

    @property
    def affine(self) -> bool:
        return False

    def _phi(self, x: Any) -> Any:
        caught: list[Any] = []
        handle = self._last.register_forward_pre_hook(lambda _, arguments: caught.append(arguments[0]))
        try:
            self._module(x)
        finally:
            handle.remove()
        if not caught:
            raise UsageError("the module does not use its last nn.Linear", found=type(self._module).__name__)
        return caught[-1]

    def __call__(self, x: Array) -> Array:
        import torch

        with torch.no_grad():
            found: Array = self._phi(torch.as_tensor(x, dtype=torch.float64)).numpy()
        return found

    def around(self, x: Array) -> Piece:
        import torch

        point = torch.as_tensor(x, dtype=torch.float64)[None]
        B: Array = torch.func.jacrev(self._phi)(point)[0, :, 0].detach().numpy()
        return Piece(B, self(x[None])[0] - B @ x, np.zeros((0, len(x))), np.zeros(0), exact=False)


def last_linear(module: Any) -> Any:
    """The last ``torch.nn.Linear`` of a module. Raises UsageError when there is none."""
    from torch import nn

    found = [part for part in module.modules() if isinstance(part, nn.Linear)]
    if not found:
        raise UsageError("the module has no nn.Linear to refit", found=type(module).__name__)
    return found[-1]
