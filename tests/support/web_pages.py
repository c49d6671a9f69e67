"""The figures of a report's page, held against the document beside it."""

import re
from html.parser import HTMLParser

import numpy as np


class Tables(HTMLParser):
    """The texts of the cells of a page's tables, and of its lists of facts."""

    def __init__(self, text):
        super().__init__()
        self.cells, self.inside = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.inside = tag

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, text):
        if self.inside in ("td", "dd") and text.strip():
            self.cells.append(text.strip())


def numbers_of(value):
    """Yield the numbers of a JSON document, in the units that a page may have them in."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from numbers_of(item)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield from (value, value / 1024, 100 * value)


def unknown_numbers(page, document, until="The words"):
    """Return the numbers in the tables of a page, up to a section, that are no rounding of a number in the document."""
    known = np.array(sorted(numbers_of(document)))
    found = []
    for cell in Tables(page.partition(f">{until}</h2>")[0]).cells:
        for text in re.findall(r"(?<![\w.])[+-]?\d[\d,]*\.?\d*(?:e[+-]\d+)?(?![\w.])", cell):
            value, digits = float(text.replace(",", "")), len(text.partition("e")[0].partition(".")[2])
            slack = 0.51 * 10.0**-digits * (10.0 ** int(text.partition("e")[2] or 0))
            if not np.any(np.abs(known - value) <= slack + 1e-9):
                found.append((text, cell))
    return found
