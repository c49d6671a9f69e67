"""A table: its columns, its rows, and what may happen to a column where the table is too wide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from html import escape
from typing import Literal

#: What a row is drawn as on a terminal with colours.
Style = Literal["", "good", "reference", "bad", "notice"]

#: The headings of an HTML table, which screen readers say with each cell.
_OF_COLUMN, _OF_ROW = 'th scope="col"', 'th scope="row"'


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
        """Return the table as HTML; every text is escaped, and a row's class is its style."""

        def cell(tag: str, column: Column, text: str) -> str:
            return f'<{tag} style="text-align: {"right" if column.right else "left"}">{escape(text)}</{tag.partition(" ")[0]}>'

        def row(tags: tuple[str, str], texts: tuple[str, ...], style: Style = "") -> str:
            every = (tags[0], *[tags[1]] * (len(texts) - 1))
            cells = "".join(cell(tag, c, t) for tag, c, t in zip(every, self.columns, texts, strict=True))
            return f'<tr class="{style}">{cells}</tr>' if style else f"<tr>{cells}</tr>"

        caption = f"<caption>{escape(self.title)}</caption>" if self.title else ""
        titles = tuple(c.title for c in self.columns)
        head = f"<thead>{row((_OF_COLUMN, _OF_COLUMN), titles)}</thead>" if self.has_head else ""
        plain: Style = ""
        styles = self.styles or (plain,) * len(self.rows)
        rows = "".join(row((_OF_ROW, "td"), r, s) for r, s in zip(self.rows, styles, strict=True))
        return f"<table>{caption}{head}<tbody>{rows}</tbody></table>"


def facts(*pairs: tuple[str, str]) -> Table:
    """Return a table of named facts; those without a value are left out."""
    return Table((Column(""), Column("", prose=True)), tuple(pair for pair in pairs if pair[1]))
