"""Small drawings as SVG text: real text, colours by CSS class, the same bytes for the same numbers.

Colours are left to the page's style sheet (classes ``s1`` to ``s8`` for systems, ``axis``, ``grid`` ...),
so that one drawing serves the light page, the dark page and paper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

Point = tuple[float, float]


def _number(value: float) -> str:
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text in ("", "-0") else text


class Drawing:
    """Shapes on a sheet of ``width`` x ``height``; ``render`` gives the svg element.

    title and description are what a screen reader says; ``key`` makes their ids unique on the page.
    """

    def __init__(self, width: float, height: float, *, key: str, title: str, description: str) -> None:
        self.width, self.height = width, height
        self._key, self._title, self._description = key, title, description
        self._parts: list[str] = []

    def line(self, start: Point, end: Point, css: str) -> None:
        (x1, y1), (x2, y2) = start, end
        ends = f'x1="{_number(x1)}" y1="{_number(y1)}" x2="{_number(x2)}" y2="{_number(y2)}"'
        self._parts.append(f'<line class="{css}" {ends}/>')

    def path(self, points: Sequence[Point], css: str, *, closed: bool = False) -> None:
        steps = [f"{'L' if index else 'M'}{_number(x)} {_number(y)}" for index, (x, y) in enumerate(points)]
        self._parts.append(f'<path class="{css}" d="{"".join(steps)}{"Z" if closed else ""}"/>')

    def bar(self, x: float, y: float, width: float, height: float, css: str, tip: str = "") -> None:
        shape = f'x="{_number(x)}" y="{_number(y)}" width="{_number(width)}" height="{_number(height)}"'
        self._parts.append(_tipped("rect", f'class="{css}" {shape}', tip))

    def marker(self, at: Point, shape: int, css: str, *, size: float = 5.0, tip: str = "") -> None:
        """A point: circle, square, diamond, triangle, by ``shape`` modulo four, so colour is never alone."""
        x, y = at
        kind = shape % 4
        if kind == 0:
            self._parts.append(
                _tipped(
                    "circle", f'class="{css}" cx="{_number(x)}" cy="{_number(y)}" r="{_number(size)}"', tip
                )
            )
            return
        corners = {1: (4, 45.0, 1.25), 2: (4, 0.0, 1.35), 3: (3, -90.0, 1.35)}[kind]
        sides, turn, grow = corners
        angles = [math.radians(turn + 360 * side / sides) for side in range(sides)]
        points = [(x + size * grow * math.cos(a), y + size * grow * math.sin(a)) for a in angles]
        path = "".join(f"{'L' if i else 'M'}{_number(px)} {_number(py)}" for i, (px, py) in enumerate(points))
        self._parts.append(_tipped("path", f'class="{css}" d="{path}Z"', tip))

    def text(self, at: Point, words: str, css: str = "", *, anchor: str = "start", turn: float = 0.0) -> None:
        x, y = at
        rotate = f' transform="rotate({_number(turn)} {_number(x)} {_number(y)})"' if turn else ""
        style = f' class="{css}"' if css else ""
        place = f'x="{_number(x)}" y="{_number(y)}" text-anchor="{anchor}"'
        self._parts.append(f"<text{style} {place}{rotate}>{escape(words)}</text>")

    def render(self) -> str:
        ids = f"{self._key}-title", f"{self._key}-desc"
        head = (
            f'<svg role="img" aria-labelledby="{ids[0]} {ids[1]}" '
            f'viewBox="0 0 {_number(self.width)} {_number(self.height)}" '
            f'style="max-width:{_number(self.width)}px">'
        )
        title = f'<title id="{ids[0]}">{escape(self._title)}</title>'
        description = f'<desc id="{ids[1]}">{escape(self._description)}</desc>'
        return head + title + description + "".join(self._parts) + "</svg>"


def _tipped(element: str, attributes: str, tip: str) -> str:
    if not tip:
        return f"<{element} {attributes}/>"
    return f"<{element} {attributes}><title>{escape(tip)}</title></{element}>"
