"""A page as plain values: a title, the answer in words, sections, and what was not done."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from qat.display.page import Whole
from qat.display.table import Table

from .plots import Plot

#: How a lead or a picture is coloured; the words say the same.
Mood = Literal["", "good", "bad", "notice"]


@dataclass(frozen=True)
class Figure:
    """A plot with a caption.

    Attributes:
        name: of the PNG beside the page: letters, digits, ``-`` and ``_``; no other figure of the page has it.
        plot: what is drawn.
        caption: what is to be seen in it.
    """

    name: str
    plot: Plot
    caption: str = ""


@dataclass(frozen=True)
class Thumbnail:
    """A small picture.

    Attributes:
        png: the file's bytes.
        alt: what the picture shows, for whoever does not see it.
        label: a line below it; empty for none.
    """

    png: bytes
    alt: str
    label: str = ""


@dataclass(frozen=True)
class Sample:
    """A sample in a gallery.

    Attributes:
        title: its name.
        verdict: a word on it: ``MATCH``, ``FLIP``.
        mood: of the verdict.
        thumbnails: side by side: the input, or masks of float and int8.
        facts: named figures.
    """

    title: str
    verdict: str = ""
    mood: Mood = ""
    thumbnails: tuple[Thumbnail, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Gallery:
    """Samples side by side."""

    samples: tuple[Sample, ...]


#: A sentence, a line that stays whole (a command, a path), a table, a plot, pictures, or a section below the section.
Block: TypeAlias = "str | Whole | Table | Figure | Gallery | Section"


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it; a section without blocks is left out."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class WebPage:
    """A page.

    Attributes:
        title: what the page is about.
        lead: the answer, in words: the decision, the first thing that a reader sees.
        mood: whether the lead is good news.
        facts: named facts below the lead: the data, the model, the files.
        sections: in order.
        not_run: what was not done, each with the reason; empty where all was.
    """

    title: str
    lead: str
    sections: tuple[Section, ...]
    mood: Mood = ""
    facts: tuple[tuple[str, str], ...] = ()
    not_run: tuple[str, ...] = ()

    def figures(self) -> Iterator[Figure]:
        """Yield the figures of all sections, in their order."""
        for section in self.sections:
            yield from _figures(section)


def _figures(section: Section) -> Iterator[Figure]:
    for block in section.blocks:
        if isinstance(block, Figure):
            yield block
        elif isinstance(block, Section):
            yield from _figures(block)
