"""The layout of a table in a given width: the one place that decides what happens where a table is too wide.

No figure and no name is ever cut or broken. In this order:

1. the table as it is;
2. prose wrapped between words, where it keeps :data:`_LEAST_PROSE` columns;
3. several tables below each other, each of the rows' names and some columns, where names are short and all else is figures;
4. each name on a line of its own, and the row's values, aligned, below it;
5. the same, values with their titles one after another.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from .table import Column, Style, Table

_GAP = 2
_INDENT = 2
#: Prose in fewer columns than these is hard to read.
_LEAST_PROSE = 24
#: Names longer than this share of the width leave too little for figures beside them.
_SHORT_NAME = 0.4


@dataclass(frozen=True)
class Line:
    """A line of text, and what it is."""

    text: str
    style: Style | Literal["title", "head", "rule"] = ""


def cells(text: str) -> int:
    """Return the columns that a text takes on a terminal."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def wrapped(text: str, width: int | None) -> list[str]:
    """Return a text in lines, broken between words alone: a path or a name stays whole."""
    if width is None or cells(text) <= width:
        return [text]
    return textwrap.wrap(text, max(width, 1), break_long_words=False, break_on_hyphens=False) or [""]


def laid_out(table: Table, width: int | None, rule: str = "─") -> Iterator[Line]:
    """Yield a table line by line. Without a width each row is one line."""
    if table.title:
        yield from (Line(line, "title") for line in wrapped(table.title, width))
    columns = list(range(len(table.columns)))
    widths = [_natural(table, i) for i in columns]
    if width is None or _total(widths) <= width:
        yield from _grid(table, columns, widths, rule)
        return
    prose = [i for i in columns if table.columns[i].prose]
    squeezed = _squeezed(table, columns, prose, width)
    if squeezed is not None:
        yield from _grid(table, columns, squeezed, rule)
    elif not prose and widths[0] <= _SHORT_NAME * width and _total([widths[0], max(widths[1:])]) <= width:
        yield from _continued(table, widths, width, rule)
    else:
        yield from _stacked(table, widths, prose, width, rule)


def _natural(table: Table, index: int) -> int:
    return max(cells(text) for text in (table.columns[index].title, *(row[index] for row in table.rows)))


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + _GAP * (len(widths) - 1)


def _squeezed(table: Table, columns: Sequence[int], prose: Sequence[int], width: int) -> list[int] | None:
    """Return widths of some columns that fit, with less for prose; None where too little is left for it."""
    given = {i: _natural(table, i) for i in columns}
    pressed = sorted((i for i in prose if i in given), key=given.__getitem__)
    left = width - _total([0 if i in pressed else w for i, w in given.items()])
    for done, i in enumerate(pressed):  # what a short one leaves goes to the longer ones
        longest = max((cells(word) for row in table.rows for word in row[i].split()), default=0)
        least = min(given[i], max(_LEAST_PROSE, longest))
        given[i] = min(given[i], left // (len(pressed) - done))
        if given[i] < least:
            return None
        left -= given[i]
    return [given[i] for i in columns] if pressed else None


def _continued(table: Table, widths: Sequence[int], width: int, rule: str) -> Iterator[Line]:
    """Yield the table in parts, each of the names and as many columns as fit."""
    part = [0]
    for index in range(1, len(widths)):
        if len(part) > 1 and _total([widths[i] for i in (*part, index)]) > width:
            yield from _grid(table, part, [widths[i] for i in part], rule)
            yield Line("")
            part = [0]
        part.append(index)
    yield from _grid(table, part, [widths[i] for i in part], rule)


def _stacked(table: Table, widths: Sequence[int], prose: Sequence[int], width: int, rule: str) -> Iterator[Line]:
    """Yield each row as a line for its name and lines below it for its values."""
    rest = list(range(1, len(widths)))
    inner = width - _INDENT
    below = [widths[i] for i in rest]
    fits = below if _total(below) <= inner else _squeezed(table, rest, prose, inner)
    indent = " " * _INDENT
    if table.has_head and fits is not None:
        yield Line(table.columns[0].title, "head")
        yield from (Line(indent + line, "head") for line in _row(table.columns, [c.title for c in table.columns], rest, fits))
        yield Line(rule * min(width, max(widths[0], _INDENT + _total(fits))), "rule")
    for index, row in enumerate(table.rows):
        style = _style(table, index)
        yield Line(row[0], style)
        if fits is not None:
            yield from (Line((indent + line).rstrip(), style) for line in _row(table.columns, row, rest, fits))
        else:
            yield from (Line(indent + line, style) for line in _pairs(table, row, inner))


def _pairs(table: Table, row: Sequence[str], width: int) -> Iterator[str]:
    """Yield the values of a row with their titles, as many a line as fit."""
    line = ""
    for column, text in zip(table.columns[1:], row[1:], strict=True):
        if not text:
            continue
        pair = f"{column.title}: {text}" if column.title else text
        if line and (column.prose or cells(line) + cells(pair) + 3 > width):
            yield line
            line = ""
        if column.prose:
            yield from wrapped(pair, width)
        else:
            line += f", {pair}" if line else pair
    if line:
        yield line


def _grid(table: Table, columns: Sequence[int], widths: Sequence[int], rule: str) -> Iterator[Line]:
    if table.has_head:
        yield from (Line(line, "head") for line in _row(table.columns, [c.title for c in table.columns], columns, widths))
        yield Line((" " * _GAP).join(rule * w for w in widths), "rule")
    for index, row in enumerate(table.rows):
        yield from (Line(line, _style(table, index)) for line in _row(table.columns, row, columns, widths))


def _row(all_columns: Sequence[Column], texts: Sequence[str], columns: Sequence[int], widths: Sequence[int]) -> Iterator[str]:
    """Yield the lines of a row: one, or as many as its longest prose takes."""
    parts = [wrapped(texts[i], w) if all_columns[i].prose else [texts[i]] for i, w in zip(columns, widths, strict=True)]
    for number in range(max(map(len, parts))):
        line = ""
        for i, w, part in zip(columns, widths, parts, strict=True):
            text = part[number] if number < len(part) else ""
            pad = " " * max(w - cells(text), 0)
            line += (pad + text if all_columns[i].right else text + pad) + " " * _GAP
        yield line.rstrip()


def _style(table: Table, index: int) -> Style:
    return table.styles[index] if table.styles else ""
