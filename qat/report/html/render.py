"""A page as one file: its plots, pictures, style and script are in it, and it asks the network for nothing.

What may run is said twice: every text is escaped, and a content security policy names the page's own two scripts by their
hashes, so that no other runs.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qat.display.page import Whole
from qat.display.stream import visible
from qat.display.table import Table
from qat.errors import MissingDependencyError
from qat.system.atomic_files import refuse_existing, write_atomically

from .interactive import Drawn, drawn
from .page import Figure, Gallery, Sample, Section, WebPage
from .palette import DARK, LIGHT
from .printed import png_of

if TYPE_CHECKING:
    from jinja2 import Environment

#: The most bytes of a page: a mail takes them.
MOST_BYTES = 6_000_000


@dataclass(frozen=True)
class _Shown:
    """A figure as the template takes it."""

    figure: Figure
    drawn: Drawn
    png: bytes


def write_page(page: WebPage, path: Path, overwrite: bool = False, prefix: str | None = None) -> Path:
    """Write a page, and each of its plots as a PNG beside it; returns the path of the page.

    A PNG is called as the page and the figure are: ``report_accuracy.png``; with a ``prefix`` as that and the figure.

    Raises:
        ExportError: the page exists and ``overwrite`` is False, or a file cannot be written.
        MissingDependencyError: a package that draws the page is not installed.
    """
    _check_packages()
    if not overwrite:
        refuse_existing(path)
    pictures = {figure.name: png_of(figure.plot) for figure in page.figures()}
    before = f"{path.stem}_" if prefix is None else prefix
    for name, png in pictures.items():
        write_atomically(path.with_name(f"{before}{name}.png"), png, overwrite=True)
    return write_atomically(path, _rendered(page, pictures), overwrite)


def _check_packages() -> None:
    missing = [name for name in ("jinja2", "matplotlib", "PIL", "plotly") if find_spec(name) is None]
    if missing:
        raise MissingDependencyError(f"a page needs {', '.join(missing)}: pip install 'qat-toolkit[report]'")


def rendered(page: WebPage) -> str:
    """Return a page as HTML."""
    return _rendered(page, {figure.name: png_of(figure.plot) for figure in page.figures()})


def _rendered(page: WebPage, pictures: Mapping[str, bytes]) -> str:
    names = [figure.name for figure in page.figures()]
    if len(set(names)) < len(names) or not all(re.fullmatch(r"[\w-]+", name, re.ASCII) for name in names):
        raise ValueError(f"figures need distinct names of letters, digits, - and _, not {names}")
    text = _filled(page, pictures)
    over = len(text.encode()) - MOST_BYTES
    return text if over <= 0 else _filled(_lighter(page, over + 1000), pictures)


def _filled(page: WebPage, pictures: Mapping[str, bytes]) -> str:
    figures = {figure.name: _Shown(figure, drawn(figure.plot), pictures[figure.name]) for figure in page.figures()}
    scripts = [_plotly(), _source("plots.js")] if figures else []
    return _environment().get_template("page.html").render(
        page=page,
        sections=tuple(section for section in page.sections if section.blocks),
        figures=figures,
        scripts=scripts,
        hashes=[_hash(script) for script in scripts],
        style=_source("style.css"),
        light=dict(enumerate(LIGHT)),
        dark=dict(enumerate(DARK)),
        version=version("qat-toolkit"),
        day=datetime.date.today().strftime("%d %B %Y").lstrip("0"),
    )  # fmt: skip


def _lighter(page: WebPage, bytes_: int) -> WebPage:
    """Return a page without the last pictures of its galleries, so many bytes lighter; it says how many are left out."""
    left_out = 0

    def lighter(gallery: Gallery) -> Iterator[Gallery | str]:
        nonlocal bytes_, left_out
        kept = list(gallery.samples)
        while bytes_ > 0 and kept:
            bytes_ -= _weight(kept.pop())
        if len(kept) < len(gallery.samples):
            yield f"{len(gallery.samples) - len(kept)} further samples are left out: the page would be larger than 6 MB."
        if kept:
            yield Gallery(tuple(kept))

    def changed(section: Section) -> Section:
        blocks: list[Any] = []
        for block in reversed(section.blocks):
            blocks += lighter(block) if isinstance(block, Gallery) else [changed(block) if isinstance(block, Section) else block]
        return replace(section, blocks=tuple(reversed(blocks)))

    return replace(page, sections=tuple(reversed([changed(section) for section in reversed(page.sections)])))


def _weight(sample: Sample) -> int:
    return sum(4 * len(thumbnail.png) // 3 for thumbnail in sample.thumbnails)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    kinds: Mapping[str, type] = {
        "table": Table,
        "figure": Figure,
        "gallery": Gallery,
        "section": Section,
        "whole": Whole,
        "text": str,
    }
    tests: dict[str, Callable[..., bool]] = {f"{name}_block": partial(_is, kind=kind) for name, kind in kinds.items()}
    made = Environment(
        loader=PackageLoader("qat.report.html"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )  # fmt: skip
    made.tests |= tests
    made.filters |= {
        "raw": Markup, "table": lambda table: Markup(table.changed(visible).html()), "slug": _slug, "json": _embedded,
        "data_uri": lambda png: f"data:image/png;base64,{base64.b64encode(png).decode()}",
    }  # fmt: skip
    return made


def _is(value: object, kind: type) -> bool:
    return isinstance(value, kind)


def _slug(title: str) -> str:
    return re.sub(r"\W+", "-", title.lower()).strip("-")


def _embedded(value: object) -> Any:
    """Return JSON that ends no script element, whatever its texts are."""
    from markupsafe import Markup

    return Markup(json.dumps(value, allow_nan=False).replace("<", "\\u003c"))


@cache
def _source(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")


@cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


@cache
def _hash(script: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"
