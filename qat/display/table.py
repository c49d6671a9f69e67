"""A table: its columns, its rows, and what may happen to a column where the table is too wide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from html import escape
from typing import Literal

#: What a row is drawn as on a terminal with colours.
Style = Literal["", "good", "reference", "bad", "notice"]


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        title: its heading.
        right: whether its values are figures, which stand on the right.
        prose: whether its values are sentences, which may be wrapped between words; no other value is ever broken.
    """

    title: str
    right: bool = False
    prose: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of text. The first column names the row.

    Attributes:
        columns: from left to right; where no column has a title, the table has no head.
        rows: a text for each column.
        title: a line above the table.
        styles: of the rows; empty for plain ones.
    """

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    title: str = ""
    styles: tuple[Style, ...] = ()

    @property
    def has_head(self) -> bool:
        """Whether a column has a title."""
        return any(column.title for column in self.columns)

    def changed(self, change: Callable[[str], str]) -> Table:
        """Return the table with each of its texts changed."""
        columns = tuple(replace(column, title=change(column.title)) for column in self.columns)
        return replace(self, columns=columns, title=change(self.title), rows=tuple(tuple(map(change, r)) for r in self.rows))

    def html(self) -> str:
        """Return the table as HTML; every text is escaped."""

        def cell(tag: str, column: Column, text: str) -> str:
            return f'<{tag} style="text-align: {"right" if column.right else "left"}">{escape(text)}</{tag}>'

        def row(tag: str, texts: tuple[str, ...]) -> str:
            return "<tr>" + "".join(cell(tag, c, t) for c, t in zip(self.columns, texts, strict=True)) + "</tr>"

        caption = f"<caption>{escape(self.title)}</caption>" if self.title else ""
        head = f"<thead>{row('th', tuple(c.title for c in self.columns))}</thead>" if self.has_head else ""
        return f"<table>{caption}{head}<tbody>{''.join(row('td', r) for r in self.rows)}</tbody></table>"


def facts(*pairs: tuple[str, str]) -> Table:
    """Return a table of named facts; those without a value are left out."""
    return Table((Column(""), Column("", prose=True)), tuple(pair for pair in pairs if pair[1]))
