"""Planted problems: a space with a default, a value to maximise (deterministic), and its optimum.

Every problem has few relevant parameters among many that do nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from recengine.tuning import LinearLimit, Parameter, Space

Point = Mapping[str, Any]


@dataclass(frozen=True)
class Problem:
    """value(point): to be maximised, at most ``best``. feasible(point): a yes or no that only a trial tells.
    relevant: parameters on which the value or feasibility depends."""

    space: Space
    value: Callable[[Point], float]
    best: float
    relevant: tuple[str, ...]
    feasible: Callable[[Point], bool] | None = None

    def allows(self, point: Point) -> bool:
        return self.feasible is None or self.feasible(point)


# --- functions on the unit cube, negated so that larger is better ------------------------------------

_ALPHA = (1.0, 1.2, 3.0, 3.2)
_A = (
    (10, 3, 17, 3.5, 1.7, 8),
    (0.05, 10, 17, 0.1, 8, 14),
    (3, 3.5, 1.7, 10, 17, 8),
    (17, 8, 0.05, 10, 0.1, 14),
)
_P = (
    (0.1312, 0.1696, 0.5569, 0.0124, 0.8283, 0.5886),
    (0.2329, 0.4135, 0.8307, 0.3736, 0.1004, 0.9991),
    (0.2348, 0.1451, 0.3522, 0.2883, 0.3047, 0.6650),
    (0.4047, 0.8828, 0.8732, 0.5743, 0.1091, 0.0381),
)
HARTMANN_BEST = 3.32237
BRANIN_BEST = -0.397887


def hartmann(u: list[float]) -> float:
    return sum(
        alpha * math.exp(-sum(a * (x - p) ** 2 for a, x, p in zip(row, u, centre, strict=True)))
        for alpha, row, centre in zip(_ALPHA, _A, _P, strict=True)
    )


def branin(u: list[float]) -> float:
    x, y = 15 * u[0] - 5, 15 * u[1]
    bent = y - 5.1 / (4 * math.pi**2) * x * x + 5 / math.pi * x - 6
    return -(bent**2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10)


def levy(u: list[float]) -> float:
    w = [1 + (20 * v - 10 - 1) / 4 for v in u]
    total = math.sin(math.pi * w[0]) ** 2
    total += sum((v - 1) ** 2 * (1 + 10 * math.sin(math.pi * v + 1) ** 2) for v in w[:-1])
    return -(total + (w[-1] - 1) ** 2 * (1 + math.sin(2 * math.pi * w[-1]) ** 2))


def ackley(u: list[float]) -> float:
    x = [20 * v - 10 for v in u]
    root = math.sqrt(sum(v * v for v in x) / len(x))
    waves = sum(math.cos(2 * math.pi * v) for v in x) / len(x)
    return -(20 - 20 * math.exp(-0.2 * root) + math.e - math.exp(waves))


def rosenbrock(u: list[float]) -> float:
    x = [4 * v - 2 for v in u]
    return -math.log1p(sum(100 * (b - a * a) ** 2 + (1 - a) ** 2 for a, b in pairwise(x)))


def styblinski_tang(u: list[float]) -> float:
    x = [10 * v - 5 for v in u]
    return -sum(v**4 - 16 * v * v + 5 * v for v in x) / 2


def cosine_mixture(u: list[float]) -> float:
    x = [2 * v - 1.3 for v in u]
    return 0.1 * sum(math.cos(3 * math.pi * v) for v in x) - sum(v * v for v in x)


_SHEKEL = (
    (0.1, (4, 4, 4, 4)),
    (0.2, (1, 1, 1, 1)),
    (0.2, (8, 8, 8, 8)),
    (0.4, (6, 6, 6, 6)),
    (0.4, (3, 7, 3, 7)),
    (0.6, (2, 9, 2, 9)),
    (0.3, (5, 5, 3, 3)),
    (0.7, (8, 1, 8, 1)),
    (0.5, (6, 2, 6, 2)),
    (0.5, (7, 3.6, 7, 3.6)),
)


def shekel(u: list[float]) -> float:
    """With wider peaks than the usual one."""
    return sum(
        1 / (5 * b + 0.3 * sum((10 * v - c) ** 2 for v, c in zip(u, centre, strict=True)))
        for b, centre in _SHEKEL
    )


_BOWL = ((1.0, 0.2), (0.8, 0.85), (1.5, 0.65), (0.6, 0.1), (2.0, 0.35), (0.5, 0.9))


def bowl(u: list[float]) -> float:
    total = sum(a * (v - c) ** 2 for v, (a, c) in zip(u, _BOWL, strict=True))
    return -(total + 0.8 * (u[0] - 0.2) * (u[2] - 0.65) + 0.5 * (u[4] - 0.35) * (u[1] - 0.85))


_PEAKS = (
    (1.0, (6, 2, 12, 9, 3, 5), (0.82, 0.31, 0.18, 0.64, 0.47, 0.09)),
    (1.5, (1, 12, 4, 8, 15, 3), (0.12, 0.71, 0.93, 0.38, 0.22, 0.57)),
    (2.6, (9, 5, 2, 14, 4, 10), (0.27, 0.14, 0.62, 0.83, 0.71, 0.36)),
    (3.0, (3, 10, 8, 2, 12, 6), (0.69, 0.88, 0.34, 0.21, 0.15, 0.77)),
)
PEAKS_BEST = 3.14383


def peaks(u: list[float]) -> float:
    """Four hills in six dimensions; flat far from all of them."""
    return sum(
        height * math.exp(-sum(b * (v - c) ** 2 for v, b, c in zip(u, narrow, centre, strict=True)))
        for height, narrow, centre in _PEAKS
    )


def ripples(u: list[float]) -> float:
    """A bowl with waves on it."""
    x = [8 * v - 5.2 for v in u]
    return -sum(v * v + 1.5 * (1 - math.cos(2 * math.pi * v)) for v in x)


# --- problems ----------------------------------------------------------------------------------------


def _embedded(
    function: Callable[[list[float]], float],
    k: int,
    d: int,
    best: float,
    default: float,
    *,
    limits: tuple[LinearLimit, ...] = (),
    feasible: Callable[[Point], bool] | None = None,
) -> Problem:
    names = tuple(f"x{j}" for j in range(d))
    space = Space(tuple(Parameter(name, "float", default, 0.0, 1.0) for name in names), limits)

    def value(point: Point) -> float:
        return function([float(point[name]) for name in names[:k]])

    return Problem(space, value, best, names[:k], feasible)


def _off_the_disc(point: Point) -> bool:
    """Within 7 of (2.5, 7.5) in Branin's own coordinates; one of its three optima lies there."""
    x, y = 15 * point["x0"] - 5, 15 * point["x1"]
    return bool((x - 2.5) ** 2 + (y - 7.5) ** 2 <= 50)


def _sum_of_two() -> tuple[LinearLimit, ...]:
    six = tuple((f"x{j}", 1.0) for j in range(6))
    return LinearLimit(six, 2.4), LinearLimit((("x0", 1.0), ("x10", 1.0)), 0.8)


_LOSSES = {"square": 0.0, "hinge": 0.3, "softmax": 1.0, "pairwise": 0.6}


def _trainer() -> Problem:
    """Looks like the settings of a trainer: rates, sizes, choices; six of twenty matter."""
    sizes = [Parameter(f"size{j}", "int", 4, 1, 16) for j in range(6)]
    rates = [Parameter(f"rate{j}", "float", 1e-3, 1e-5, 1e-1, log=True) for j in range(4)]
    shares = [Parameter(f"share{j}", "float", 0.1, 0.0, 1.0) for j in range(5)]
    kinds = [Parameter(f"kind{j}", "choice", "square", choices=tuple(_LOSSES)) for j in range(3)]
    flags = [Parameter(f"flag{j}", "choice", False, choices=(False, True)) for j in range(2)]

    def value(point: Point) -> float:
        rate = (math.log10(point["rate0"]) + 2) / 2
        size = (point["size0"] - 11) / 8
        share = (point["share0"] - 0.55) / 0.5
        loss = _LOSSES[point["kind0"]]
        base = 1.0 - rate**2 - size**2 - share**2 - 0.5 * (rate - share) ** 2
        return base + 0.6 * loss + (0.4 if point["flag0"] else 0.0) - 0.3 * ((point["size1"] - 9) / 8) ** 2

    relevant = ("rate0", "size0", "share0", "kind0", "flag0", "size1")
    space = Space((*sizes, *rates, *shares, *kinds, *flags))
    return Problem(space, value, 2.0, relevant)


_LEVELS = {"a": 0.48, "b": 0.15, "c": 0.9, "d": 0.7}


def _mixed_hartmann() -> Problem:
    """Hartmann6 with two coordinates on a grid of eleven and one a choice of four, in twenty parameters."""
    relevant = [
        Parameter("x0", "float", 0.5, 0.0, 1.0),
        Parameter("x1", "float", 0.5, 0.0, 1.0),
        Parameter("c", "choice", "d", choices=tuple(_LEVELS)),
        Parameter("n0", "int", 5, 0, 10),
        Parameter("n1", "int", 5, 0, 10),
        Parameter("x5", "float", 0.5, 0.0, 1.0),
    ]
    others = [Parameter(f"y{j}", "float", 0.5, 0.0, 1.0) for j in range(6)]
    others += [Parameter(f"m{j}", "int", 5, 0, 10) for j in range(5)]
    others += [Parameter(f"k{j}", "choice", "p", choices=("p", "q", "r")) for j in range(3)]

    def value(point: Point) -> float:
        u = [point["x0"], point["x1"], _LEVELS[point["c"]], point["n0"] / 10, point["n1"] / 10, point["x5"]]
        return hartmann([float(v) for v in u])

    # the best over its three free coordinates, found by a fine search (test_problems checks it)
    return Problem(Space((*relevant, *others)), value, 3.2977, tuple(p.name for p in relevant))


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "branin50": lambda: _embedded(branin, 2, 50, BRANIN_BEST, 0.5),
    "hartmann50": lambda: _embedded(hartmann, 6, 50, HARTMANN_BEST, 0.5),
    "hartmann50-off": lambda: _embedded(hartmann, 6, 50, HARTMANN_BEST, 0.8),
    "hartmann25": lambda: _embedded(hartmann, 6, 25, HARTMANN_BEST, 0.5),
    "levy25": lambda: _embedded(levy, 4, 25, 0.0, 0.25),
    "ackley25": lambda: _embedded(ackley, 4, 25, 0.0, 0.75),
    "limits25": lambda: _embedded(hartmann, 6, 25, HARTMANN_BEST, 0.4, limits=_sum_of_two()),
    "disc25": lambda: _embedded(branin, 2, 25, BRANIN_BEST, 0.5, feasible=_off_the_disc),
    "trainer20": _trainer,
    "mixed20": _mixed_hartmann,
}


def _off_the_hill(point: Point) -> bool:
    """Two half planes that cut into Rosenbrock's valley; the optimum is within them."""
    return bool(point["x0"] + point["x1"] <= 1.7 and point["x2"] - point["x0"] <= 0.35)


def _settings() -> Problem:
    """A smooth bowl over integers, rates and choices; five of twenty-two matter."""
    sizes = [Parameter(f"n{j}", "int", 6, 1, 20) for j in range(7)]
    rates = [Parameter(f"r{j}", "float", 1e-2, 1e-4, 1.0, log=True) for j in range(6)]
    shares = [Parameter(f"s{j}", "float", 0.5, 0.0, 1.0) for j in range(5)]
    kinds = [Parameter(f"k{j}", "choice", "a", choices=("a", "b", "c")) for j in range(4)]
    worth = {"a": 0.0, "b": -0.4, "c": 0.5}

    def value(point: Point) -> float:
        size, rate = (point["n0"] - 15) / 10, math.log10(point["r0"]) + 1
        share, other = point["s0"] - 0.9, (point["n1"] - 3) / 10
        return (
            1.5 - size**2 - 0.8 * rate**2 - 2 * share**2 - other**2 - 0.4 * size * rate + worth[point["k0"]]
        )

    return Problem(Space((*sizes, *rates, *shares, *kinds)), value, 2.0, ("n0", "r0", "s0", "n1", "k0"))


def _recipe() -> Problem:
    """Integers, rates, choices and flags from a poor default; eight of twenty-four matter."""
    sizes = [Parameter(f"n{j}", "int", 2, 1, 12) for j in range(6)]
    rates = [Parameter(f"r{j}", "float", 1e-4, 1e-5, 1.0, log=True) for j in range(6)]
    shares = [Parameter(f"s{j}", "float", 0.9, 0.0, 1.0) for j in range(6)]
    kinds = [Parameter(f"k{j}", "choice", "a", choices=("a", "b", "c", "d")) for j in range(3)]
    flags = [Parameter(f"f{j}", "choice", False, choices=(False, True)) for j in range(3)]
    worth = {"a": 0.0, "b": 0.7, "c": -0.3, "d": 0.4}

    def value(point: Point) -> float:
        size, other = (point["n0"] - 8) / 6, (point["n1"] - 6) / 8
        rate, decay = (math.log10(point["r0"]) + 1.5) / 2, (math.log10(point["r1"]) + 3) / 3
        share, mix = (point["s0"] - 0.3) / 0.5, (point["s1"] - 0.6) / 0.6
        smooth = size**2 + rate**2 + share**2 + 0.5 * (other**2 + decay**2 + mix**2) + 0.6 * rate * decay
        return 1.0 - smooth + worth[point["k0"]] + (0.3 if point["f0"] else 0.0)

    relevant = ("n0", "n1", "r0", "r1", "s0", "s1", "k0", "f0")
    return Problem(Space((*sizes, *rates, *shares, *kinds, *flags)), value, 2.0, relevant)


MIXED_PEAKS_BEST = 3.02964
_STEPS = {"a": 0.5, "b": 0.9, "c": 0.2, "d": 0.05}


def _mixed_peaks() -> Problem:
    """The four hills with two coordinates on a grid of thirteen and one a choice of four, in eighteen
    parameters."""
    relevant = [
        Parameter("x0", "float", 0.5, 0.0, 1.0),
        Parameter("n0", "int", 6, 0, 12),
        Parameter("x2", "float", 0.5, 0.0, 1.0),
        Parameter("n1", "int", 6, 0, 12),
        Parameter("c", "choice", "a", choices=tuple(_STEPS)),
        Parameter("x5", "float", 0.5, 0.0, 1.0),
    ]
    others = [Parameter(f"y{j}", "float", 0.5, 0.0, 1.0) for j in range(5)]
    others += [Parameter(f"m{j}", "int", 6, 0, 12) for j in range(4)]
    others += [Parameter(f"k{j}", "choice", "p", choices=("p", "q", "r")) for j in range(3)]

    def value(point: Point) -> float:
        u = [point["x0"], point["n0"] / 12, point["x2"], point["n1"] / 12, _STEPS[point["c"]], point["x5"]]
        return peaks([float(v) for v in u])

    return Problem(Space((*relevant, *others)), value, MIXED_PEAKS_BEST, tuple(p.name for p in relevant))


# settings are chosen on these, so that the others stay unseen
DEVELOPMENT: dict[str, Callable[[], Problem]] = {
    "rosenbrock25": lambda: _embedded(rosenbrock, 4, 25, 0.0, 0.35),
    "styblinski30": lambda: _embedded(styblinski_tang, 5, 30, 5 * 39.16617, 0.5),
    "bowl40": lambda: _embedded(bowl, 6, 40, 0.0, 0.5),
    "cosine50": lambda: _embedded(cosine_mixture, 5, 50, 0.5, 0.4),
    "shekel25": lambda: _embedded(shekel, 4, 25, shekel([0.4] * 4), 0.5),
    "shekel40-off": lambda: _embedded(shekel, 4, 40, shekel([0.4] * 4), 0.95),
    "valley25": lambda: _embedded(rosenbrock, 4, 25, 0.0, 0.35, feasible=_off_the_hill),
    "settings22": _settings,
    "peaks25": lambda: _embedded(peaks, 6, 25, PEAKS_BEST, 0.5),
    "peaks50-off": lambda: _embedded(peaks, 6, 50, PEAKS_BEST, 0.85),
    "ripples25": lambda: _embedded(ripples, 4, 25, 0.0, 0.2),
    "recipe24": _recipe,
    "mixedpeaks18": _mixed_peaks,
}
