"""How a text table is laid out: delimiter, header line, names, what stands at which place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from recengine.data.columns import is_known, plain
from recengine.data.readers.report import ReadReport
from recengine.data.readers.source import Source
from recengine.errors import DataError

_DELIMITERS = ("\t", "::", ",", ";", "|", " ")


@dataclass(frozen=True)
class Shape:
    """How a text table is laid out. names: of the columns (numbers where there is no header line);
    stride: columns of the parser a column of the table ('::' leaves an empty one between);
    padded: spaces stand beside delimiters."""

    separator: str
    names: tuple[str, ...]
    has_header: bool
    stride: int = 1
    padded: bool = False

    def position(self, name: str) -> int:
        return self.names.index(name) * self.stride


def sniff(source: Source, delimiter: str | None, header: bool | None, report: ReadReport) -> Shape:
    """Delimiter, header line and names; says what it guessed."""
    head = [line for line in source.head() if line.strip()]
    if not head:
        raise DataError("the file is empty", where=source.name, expected="a table of interactions")
    separator = delimiter or _delimiter(head)
    if delimiter is None:
        report.say(f"delimiter {separator!r} (guessed)")
    first = fields(head[0], separator)
    second = fields(head[1], separator) if len(head) > 1 else []
    has_header = _is_header(first, second) if header is None else header
    if header is None:
        report.say("line 1 is a header (guessed)" if has_header else "no header line (guessed)")
    names = tuple(first) if has_header else tuple(str(number + 1) for number in range(len(first)))
    if has_header and len(head) == 1:
        raise DataError(
            "there are no rows",
            where=f"{source.name}, line 2",
            found="only a header line",
            expected="at least one interaction",
        )
    padded = separator != " " and any(f" {separator}" in line or f"{separator} " in line for line in head)
    return Shape(separator[0], names, has_header, len(separator), padded)


def check_fields(source: Source, shape: Shape) -> None:
    """Every line has as many fields as the first; only where no quote can hide a delimiter."""
    sign = shape.separator.encode()
    wanted = (len(shape.names) - 1) * shape.stride
    if source.count(b'"') or source.count(sign) == wanted * _n_lines(source):
        return
    for number, line in enumerate(source.lines(), 1):
        found = line.count(sign)
        if line.strip() and found != wanted:
            raise DataError(
                "the line has another number of fields",
                where=f"{source.name}, line {number}",
                found=f"{found // shape.stride + 1} fields: {line[:80].decode(errors='replace').strip()!r}",
                expected=f"{len(shape.names)} fields, delimiter {shape.separator * shape.stride!r}",
                fix="mend the line, quote fields that hold the delimiter, or give delimiter=...",
            )


def by_position(sample: Sequence[Sequence[str]]) -> dict[str, str]:
    """user, item, then weight and time told apart by their size."""
    width = len(sample[0])
    roles = {"user": "1", "item": "2"}
    rest = [
        (position, [row[position] for row in sample if len(row) > position])
        for position in range(2, min(width, 4))
    ]
    for position, values in rest:
        role = "time" if _looks_like_time(values) else "weight"
        roles.setdefault(role, str(position + 1))
    return roles


def fields(line: str, separator: str) -> list[str]:
    return [field.strip().strip('"') for field in line.split(separator)]


def _looks_like_time(values: Sequence[str]) -> bool:
    try:
        return min(abs(float(value)) for value in values) >= 1e8
    except ValueError:
        return all(value[:4].isdigit() and "-" in value for value in values)


def _delimiter(head: Sequence[str]) -> str:
    """The sign that occurs equally often in every line, the most often; a header may not be counted by one
    that only text holds."""
    best, most = ",", 0
    for sign in _DELIMITERS:
        counts = {line.count(sign) for line in head}
        if len(counts) == 1 and min(counts) > most and not (sign == " " and best != "," and most):
            best, most = sign, min(counts)
        if sign == "::" and best == "::":
            return best
    if most:
        return best
    return max(_DELIMITERS, key=lambda sign: sum(line.count(sign) for line in head) * (sign != " ") + 0.0)


def _is_header(first: Sequence[str], second: Sequence[str]) -> bool:
    if any(_is_number(field) for field in first):
        return False
    if any(is_known(field) for field in first):
        return True
    return any(_is_number(field) for field in second)


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return plain(field) not in ("nan", "inf", "infinity")


def _n_lines(source: Source) -> int:
    ends = source.count(b"\n")
    with source.open() as stream:
        stream.seek(-1, 2)
        return ends + (stream.read(1) != b"\n")
