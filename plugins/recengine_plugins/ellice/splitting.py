"""Operator splitting (ADMM) for everybody at once: cheap, rough, a start for Newton steps.

Every block (cone, rows, box with absolute cost) has its own copy of x through a linear map; the copies are
projected in closed form (second-order cone, clamp, soft threshold) and pulled together by one Cholesky factor
that all people share.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from recengine_plugins.ellice.problem import Convex

Array = NDArray[np.float64]
_STEPS, _EVERY, _RELAX, _EQUAL = 200, 20, 1.6, 30.0


@dataclass(frozen=True)
class Start:
    """x [N, d] inside the box, multipliers of cones, rows and equalities."""

    x: Array
    lam: Array
    mu: Array
    nu: Array


def split(problem: Convex, people: Array, low: Array, high: Array, *, steps: int = _STEPS) -> Start:
    """A rough solution with the box and the absolute cost met exactly by construction."""
    n, d = people.shape
    maps, offsets, sizes = [], [], []
    for cone, tau in zip(problem.cones, problem.tau, strict=True):
        R = cone.root * np.sqrt(2 * cone.eps)
        M = np.r_[cone.theta[None], R]
        size = max(float(np.linalg.norm(M[:, :-1], 2)), 1e-300)
        maps.append(M[:, :-1] / size)
        offset = M[:, -1].copy()
        offset[0] -= tau
        offsets.append(offset / size)
        sizes.append(size)
    row_size = np.maximum(np.linalg.norm(problem.A, axis=1), 1e-300)
    equal_size = np.maximum(np.linalg.norm(problem.E, axis=1), 1e-300)
    A, b = problem.A / row_size[:, None], problem.b / row_size
    E = problem.E / equal_size[:, None]
    e = people @ E.T
    gram = A.T @ A + _EQUAL * E.T @ E + np.eye(d) + sum((M.T @ M for M in maps), np.zeros((d, d)))
    rho = 1.0
    factor = cho_factor(2 * np.diag(problem.square) + rho * gram)
    x = np.clip(people, low, high)
    copies = [x @ M.T + o for M, o in zip(maps, offsets, strict=True)]
    copy_rows, copy_x = np.minimum(x @ A.T, b), x.copy()
    u = [np.zeros_like(copy) for copy in copies]
    u_rows, u_equal, u_x = np.zeros_like(copy_rows), np.zeros((n, len(E))), np.zeros_like(x)
    for step in range(steps):
        right = 2 * problem.square * people + rho * (copy_x - u_x)
        right += rho * ((copy_rows - u_rows) @ A + _EQUAL * (e - u_equal) @ E)
        for M, o, copy, dual in zip(maps, offsets, copies, u, strict=True):
            right += rho * (copy - dual - o) @ M
        x = cho_solve(factor, right.T).T
        before = copy_x
        for j, (M, o) in enumerate(zip(maps, offsets, strict=True)):
            mixed = _RELAX * (x @ M.T + o) + (1 - _RELAX) * copies[j]
            copies[j] = _onto_cone(mixed + u[j])
            u[j] = u[j] + mixed - copies[j]
        mixed = _RELAX * (x @ A.T) + (1 - _RELAX) * copy_rows
        copy_rows = np.minimum(mixed + u_rows, b)
        u_rows = u_rows + mixed - copy_rows
        u_equal = u_equal + _RELAX * (x @ E.T - e)
        mixed = _RELAX * x + (1 - _RELAX) * copy_x
        copy_x = _shrink(mixed + u_x, people, problem.absolute / rho, low, high)
        u_x = u_x + mixed - copy_x
        if step % _EVERY == _EVERY - 1:
            apart = float(np.abs(x - copy_x).max(initial=0.0))
            moved = rho * float(np.abs(copy_x - before).max(initial=0.0))
            if max(apart, moved) < 1e-7:
                break
            ratio = float(np.sqrt(max(apart, 1e-12) / max(moved, 1e-12)))
            if ratio > 3 or ratio < 1 / 3:
                ratio = float(np.clip(ratio, 0.2, 5.0))
                rho *= ratio
                u = [dual / ratio for dual in u]
                u_rows, u_equal, u_x = u_rows / ratio, u_equal / ratio, u_x / ratio
                factor = cho_factor(2 * np.diag(problem.square) + rho * gram)
    lam = [np.maximum(-rho * dual[:, 0] / size, 0.0) for dual, size in zip(u, sizes, strict=True)]
    return Start(
        copy_x,
        np.stack(lam, axis=1) if lam else np.zeros((n, 0)),
        np.maximum(rho * u_rows / row_size, 0.0),
        rho * _EQUAL * u_equal / equal_size,
    )


def _onto_cone(y: Array) -> Array:
    """The nearest point of {y0 >= ||y1||} for each row."""
    head, tail = y[:, :1], y[:, 1:]
    norm = np.linalg.norm(tail, axis=1, keepdims=True)
    middle = (head + norm) / 2
    edge = np.concatenate([middle, middle * tail / np.maximum(norm, 1e-300)], axis=1)
    return np.where(norm <= head, y, np.where(norm <= -head, 0.0, edge))


def _shrink(y: Array, people: Array, absolute: Array, low: Array, high: Array) -> Array:
    """Soft threshold towards ``people``, then into the box: the proximal step of the separable part."""
    away = y - people
    kept = np.sign(away) * np.maximum(np.abs(away) - absolute, 0.0)
    return np.clip(people + kept, low, high)
