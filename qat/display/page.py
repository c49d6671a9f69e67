"""A page: tables and sentences, as text for a terminal or a pipe, or as HTML for a notebook."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import TypeAlias

from .layout import Line, laid_out, wrapped
from .stream import is_ascii, spelled, visible, width_of
from .table import Style, Table


@dataclass(frozen=True)
class Whole:
    """A line that is never broken, so that a command or a path in it can be copied."""

    text: str
    style: Style = ""


#: A table, a sentence, or a line that stays whole.
Block: TypeAlias = Table | Whole | str


@dataclass(frozen=True)
class Page:
    """Blocks, one below the other."""

    blocks: tuple[Block, ...]

    def lines(self, width: int | None, ascii_only: bool = False) -> Iterator[Line]:
        """Yield the page line by line; without a width, each row and sentence is one line."""

        def shown(text: str) -> str:
            return spelled(visible(text)) if ascii_only else visible(text)

        for block in self.blocks:
            if isinstance(block, Table):
                yield from laid_out(block.changed(shown), width, shown("─"))
            elif isinstance(block, Whole):
                yield Line(shown(block.text), block.style)
            else:
                yield from (Line(line) for line in wrapped(shown(block), width))

    def text(self, width: int | None = None, ascii_only: bool = False) -> str:
        """Return the page as text, without a line end."""
        return "\n".join(line.text for line in self.lines(width, ascii_only))

    def html(self) -> str:
        """Return the page as HTML without scripts or styles of its own; every text is escaped."""
        texts = (b if isinstance(b, Table | str) else b.text for b in self.blocks)
        return "".join(b.html() if isinstance(b, Table) else f"<p>{escape(b)}</p>" for b in texts if b)


class Displayed(ABC):
    """A result that a person wants to look at: `print` and a notebook show its page."""

    @abstractmethod
    def page(self) -> Page:
        """Return what is worth seeing."""

    def __str__(self) -> str:
        return self.page().text(width_of(sys.stdout), is_ascii(sys.stdout))

    def _repr_html_(self) -> str:
        return self.page().html()
